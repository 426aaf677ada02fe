"""Keras Recommenders: the same steps as its retrieval and multi-task examples would take them."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_rs
import numpy as np
import tensorflow as tf
from rounds import DIM, Steps, answer, options


class Joint(keras.Model):  # type: ignore[misc]
    """Two embedding tables, retrieval within the batch and, if asked for, ratings."""

    def __init__(self, users: np.ndarray, items: np.ndarray, *, joint: bool, mean: float) -> None:
        super().__init__()
        rows = len(users)
        self.user, self.item = keras.layers.Embedding(rows, DIM), keras.layers.Embedding(rows, DIM)
        for layer, values in ((self.user, users), (self.item, items)):
            layer.build()
            layer.set_weights([values])
        self.correction = keras_rs.layers.SamplingProbabilityCorrection()
        # Called as in the example, though in this version it masks nothing.
        self.hits = keras_rs.layers.RemoveAccidentalHits()
        self.loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
        self.joint, self.mean = joint, mean
        if joint:
            self.factors = [
                keras.layers.Dense(DIM, use_bias=False, kernel_initializer="identity") for _ in "ui"
            ]
            self.biases = [
                keras.layers.Embedding(rows, 1, embeddings_initializer="zeros") for _ in "ui"
            ]

    def call(self, batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """The mean loss of each task."""
        user, item = self.user(batch["user"]), self.item(batch["item"])
        labels = tf.eye(tf.shape(user)[0])
        scores = tf.matmul(user, item, transpose_b=True)
        scores = self.correction(scores, tf.exp(batch["log_q"]))
        scores = self.hits(scores, labels, batch["item"])
        found = [self.loss_of(labels, scores)]
        if self.joint:
            p, q = (layer(v) for layer, v in zip(self.factors, (user, item), strict=True))
            biases = self.biases[0](batch["user"]) + self.biases[1](batch["item"])
            output = self.mean + biases[:, 0] + tf.reduce_sum(p * q, axis=1)
            found.append(tf.reduce_mean(tf.square(output - batch["rating"])))
        return found


def main() -> None:
    """Plays rounds of all the batches there are."""
    given = options()
    steps = Steps(given["arrays"])
    model = Joint(steps.users, steps.items, joint=given["joint"], mean=steps.mean)
    optimizer = keras.optimizers.Adagrad(0.05)
    names = ("user", "item", "rating", "log_q")
    batches = [{name: batch[name] for name in names} for batch in steps.batches]

    @tf.function
    def step(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            found = model(batch)
            loss = tf.add_n(found)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return found

    def train() -> dict[str, Any]:
        losses = [
            [float(loss) for loss in step({n: tf.constant(v) for n, v in batch.items()})]
            for batch in batches
        ]
        return {"units": steps.rows, **dict(zip(("retrieval", "rating"), losses[0], strict=False))}

    gpus = tf.config.list_physical_devices("GPU")
    answer(
        train,
        device="GPU" if gpus else "CPU",
        keras_rs=keras_rs.__version__,
        keras=keras.__version__,
    )


main()
