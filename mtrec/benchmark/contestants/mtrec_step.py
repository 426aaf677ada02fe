"""mtrec: training steps of a softmax over the batch's items, alone or with ratings."""

from pathlib import Path
from typing import Any

import numpy as np
from rounds import answer, options, tables

from mtrec.libraries import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402

import mtrec  # noqa: E402
from mtrec.benchmark import arrays  # noqa: E402
from mtrec.benchmark.model import device, model_of  # noqa: E402
from mtrec.training.ahead import made_ahead  # noqa: E402
from mtrec.training.packed import pack  # noqa: E402
from mtrec.training.step import Step  # noqa: E402

# As `train.steps_per_call` has it.
STEPS_PER_CALL = 4
OPTIMIZERS = {
    "lazy_adam": lambda: mtrec.LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
    "rowwise_adagrad": lambda: mtrec.RowWiseAdagrad(
        learning_rate=0.05, initial_accumulator=0.0, epsilon=1e-8
    ),
}


def strategy_of(replicas: int) -> Any:
    """One device, or several logical ones of the CPU."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(replicas)])


def main() -> None:
    """Plays rounds of some steps; `what` they are of is `resident`, `loop` or `input`."""
    given = options()
    with np.load(Path(given["arrays"]) / "log.npz") as found:
        log = dict(found)
    replicas, steps, seed = given["replicas"], given["steps"], int(log["seed"])
    dataset = arrays.dataset(log)
    batches = arrays.batches(dataset, batch=given["batch"], seed=seed, replicas=replicas)
    calls = [range(k, min(k + STEPS_PER_CALL, steps)) for k in range(0, steps, STEPS_PER_CALL)]

    def made(call: range) -> dict[int, Any]:
        taken = [batches.step(1, k) for k in call]
        return {r: pack([slices[r] for slices in taken]) for r in range(replicas)}

    if given["what"] == "input":

        def read() -> dict[str, Any]:
            for call in calls:
                made(call)
            return {"units": steps * given["batch"]}

        return answer(read, device="CPU")
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = model_of(dataset, tables(dataset.num_users, seed), joint=given["joint"], seed=seed)
        balancer = mtrec.Fixed()
        weights = dict.fromkeys(model.heads, 1.0)
        balancer.adapt(weights, steps_per_epoch=batches.steps_per_epoch, seed=seed)
        both = mtrec.Optimizers(OPTIMIZERS[given["optimizer"]](), mtrec.Adam(0.01))
    step = Step(model, balancer, both, strategy)
    resident = [(call, made(call)) for call in calls] if given["what"] == "resident" else None

    def train() -> dict[str, Any]:
        losses = [step(each).losses[0] for _, each in resident or made_ahead(made, calls)]
        first = dict(zip(model.heads, map(float, losses[0]), strict=True))
        return {"units": steps * given["batch"], **first}

    answer(train, device=device(), tensorflow=tf.__version__)
    return None


main()
