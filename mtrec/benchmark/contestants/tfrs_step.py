"""TensorFlow Recommenders: the same steps as its multi-task tutorial would take them."""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from rounds import Steps, answer, options


class Joint(tfrs.Model):  # type: ignore[misc]
    """Two embedding tables, retrieval within the batch and, if asked for, ratings."""

    def __init__(self, users: np.ndarray, items: np.ndarray, *, joint: bool, mean: float) -> None:
        super().__init__()
        rows, dim = users.shape
        initial = tf.keras.initializers.Constant
        self.user = tf.keras.layers.Embedding(rows, dim, embeddings_initializer=initial(users))
        self.item = tf.keras.layers.Embedding(rows, dim, embeddings_initializer=initial(items))
        self.retrieval = tfrs.tasks.Retrieval(remove_accidental_hits=True)
        self.joint, self.mean = joint, mean
        if joint:
            eye = tf.keras.initializers.Identity()
            self.factors = [
                tf.keras.layers.Dense(dim, use_bias=False, kernel_initializer=eye) for _ in "ui"
            ]
            self.biases = [
                tf.keras.layers.Embedding(rows, 1, embeddings_initializer="zeros") for _ in "ui"
            ]
            self.ranking = tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError())

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The mean retrieval loss, plus the mean squared error."""
        user, item = self.user(inputs["user"]), self.item(inputs["item"])
        retrieval = self.retrieval(
            user,
            item,
            candidate_sampling_probability=tf.exp(inputs["log_q"]),
            candidate_ids=inputs["item"],
        ) / tf.cast(tf.shape(user)[0], tf.float32)
        self.found = [retrieval]
        if self.joint:
            p, q = (layer(v) for layer, v in zip(self.factors, (user, item), strict=True))
            biases = self.biases[0](inputs["user"]) + self.biases[1](inputs["item"])
            output = self.mean + biases + tf.reduce_sum(p * q, axis=1, keepdims=True)
            self.found.append(self.ranking(labels=inputs["rating"][:, None], predictions=output))
        return tf.add_n(self.found)


def main() -> None:
    """Plays rounds of all the batches there are."""
    given = options()
    steps = Steps(given["arrays"])
    model = Joint(steps.users, steps.items, joint=given["joint"], mean=steps.mean)
    optimizer = tf.keras.optimizers.Adagrad(0.05)
    names = ("user", "item", "rating", "log_q")
    batches = [{name: batch[name] for name in names} for batch in steps.batches]

    @tf.function
    def step(inputs: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs, training=True)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return model.found

    def train() -> dict[str, Any]:
        losses = [
            [float(loss) for loss in step({n: tf.constant(v) for n, v in batch.items()})]
            for batch in batches
        ]
        return {"units": steps.rows, **dict(zip(("retrieval", "rating"), losses[0], strict=False))}

    gpus = tf.config.list_physical_devices("GPU")
    answer(train, device="GPU" if gpus else "CPU", tfrs=tfrs.__version__, tensorflow=tf.__version__)


main()
