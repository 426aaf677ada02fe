"""Training: the step, and the loop of epochs that selects a model on validation data.

The objective is `sum_t w_t * (sum_i m_ti l_ti) / (sum_i m_ti)`, both inner sums over the *global*
batch: each replica divides its sum by everybody's count, and the optimizers sum the gradients.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.balance import Balancer
from mtrec.checkpoint import Checkpoints
from mtrec.data.batches import Batch, Batches, stack
from mtrec.distribute import all_sum
from mtrec.errors import UserError
from mtrec.features import TABLE
from mtrec.heads.head import Examples
from mtrec.model import Recommender

Metrics = dict[str, float]
LOWER_IS_BETTER = ("rmse", "mae", "rmse_clipped", "loss")


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for embedding tables, one for dense weights."""

    tables: keras.optimizers.Optimizer
    dense: keras.optimizers.Optimizer


class Step:
    """The training step: some batches in, every task's mean loss out, all weights moved.

    Args:
        model: The model, adapted.
        balancer: Turns task losses into the objective.
        optimizers: They move the weights.
        strategy: Where the replicas are. Model, balancer and optimizers belong to its scope.
    """

    def __init__(
        self,
        model: Recommender,
        balancer: Balancer,
        optimizers: Optimizers,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.model = model
        self.balancer = balancer
        self.optimizers = optimizers
        self.strategy = strategy
        self.tables = [v for v in model.trainable_variables if v.name == TABLE]
        self.dense = [v for v in model.trainable_variables if v.name != TABLE]
        self.dense += balancer.trainable_variables
        with strategy.scope():
            optimizers.tables.build(self.tables)
            optimizers.dense.build(self.dense)
        self._run = tf.function(self._many, reduce_retracing=True)

    def __call__(self, replicas: list[Batch]) -> np.ndarray:
        """Takes K steps on batches stacked by replica; returns each task's loss, `[K, T]`."""
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: {
                name: tf.constant(value)
                for name, value in replicas[context.replica_id_in_sync_group].items()
            }
        )
        return self._run(values).numpy()

    def _many(self, batches: Mapping[str, Any]) -> tf.Tensor:
        one = self.strategy.experimental_local_results(batches["query"])[0]
        count = tf.shape(one)[0]
        losses = tf.TensorArray(tf.float32, size=count)
        for k in tf.range(count):
            result = self.strategy.run(self._step, args=(batches, k))
            losses = losses.write(k, self.strategy.experimental_local_results(result)[0])
        return losses.stack()

    def losses(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """This replica's share of every task's mean loss over the global batch."""
        query = self.model.queries(
            batch["query"],
            tf.gather(batch["item"], batch["history_item"]),
            batch["history_query"],
        )
        item, pool = self.model.candidates(batch["item"]), self.model.candidates(batch["pool"])
        sums, counts = [], []
        for name, head in self.model.heads.items():
            examples = Examples(query=query[name], item=item[name], pool=pool[name], batch=batch)
            losses, mask = head.losses(examples)
            sums.append(tf.reduce_sum(tf.where(mask > 0, losses * mask, 0.0)))
            counts.append(tf.reduce_sum(mask))
        totals = all_sum(tf.stack(counts))
        return {
            name: tf.math.divide_no_nan(total, count)
            for name, total, count in zip(self.model.heads, sums, tf.unstack(totals), strict=True)
        }

    def _step(self, batches: Mapping[str, tf.Tensor], k: tf.Tensor) -> tf.Tensor:
        batch = {name: value[k] for name, value in batches.items()}
        with tf.GradientTape() as tape:
            losses = self.losses(batch)
            objective = self.balancer.combine(losses, self.strategy.num_replicas_in_sync)
        variables = [v.value for v in self.tables + self.dense]
        gradients = tape.gradient(objective, variables)
        pairs = list(zip(gradients, self.tables + self.dense, strict=True))
        for optimizer, part in (
            (self.optimizers.tables, pairs[: len(self.tables)]),
            (self.optimizers.dense, pairs[len(self.tables) :]),
        ):
            optimizer.apply_gradients([(g, v) for g, v in part if g is not None])
        return all_sum(tf.stack(list(losses.values())))


def better(metric: str, new: float, old: float) -> bool:
    """Whether `new` improves on `old`, in the direction of the metric named `metric`."""
    return new < old if metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER else new > old


@dataclass(frozen=True)
class Schedule:
    """How long to train and how to choose the model; the fields of the config's `train`.

    Attributes:
        epochs: Epochs at most.
        max_steps: Steps at most, or null.
        steps_per_call: Steps taken by one call of the compiled function.
        patience: Epochs without a better model after which to stop, or null.
        select_by: Validation metric that selects the model, such as `val/rating/rmse`.
    """

    epochs: int
    max_steps: int | None
    steps_per_call: int
    patience: int | None
    select_by: str


def fit(
    model: Recommender,
    batches: Batches,
    *,
    balancer: Balancer,
    optimizers: Optimizers,
    strategy: tf.distribute.Strategy,
    schedule: Schedule,
    validate: Callable[[], Metrics],
    checkpoints: Path,
    on_epoch: Callable[[Metrics], None],
) -> list[Metrics]:
    """Trains and leaves the checkpoint of the best epoch selected.

    Args:
        model: The model, adapted in the scope of `strategy`.
        batches: The batches of every epoch.
        balancer: Turns task losses into the objective.
        optimizers: They move the weights.
        strategy: Where the replicas are.
        schedule: When to stop and what to select by.
        validate: Returns validation metrics of the model as it is.
        checkpoints: The directory that the state after each epoch goes to.
        on_epoch: Called with the metrics of each finished epoch.

    Returns:
        The metrics of every epoch; `selected` is 1 in the one that was kept.

    Raises:
        UserError: If a loss stops being finite, or `select_by` names no validation metric.
    """
    step = Step(model, balancer, optimizers, strategy)
    saved = Checkpoints(
        checkpoints,
        {
            "model": model.weights,
            "balancer": balancer.weights,
            "tables": optimizers.tables.variables,
            "dense": optimizers.dense.variables,
        },
    )
    history: list[Metrics] = []
    best: Metrics | None = None
    key = schedule.select_by
    for epoch in range(1, schedule.epochs + 1):
        metrics = _train_epoch(step, batches, epoch, schedule) | validate()
        history.append(metrics)
        if best is None or better(key, _value(metrics, key), best[key]):
            best = metrics
        saved.save(epoch, {"history": history})
        saved.keep_only({epoch, int(best["epoch"])})
        on_epoch(metrics)
        done = schedule.max_steps and epoch * batches.steps_per_epoch >= schedule.max_steps
        stale = schedule.patience and epoch - best["epoch"] >= schedule.patience
        if done or stale:
            break
    saved.select(int(best["epoch"]))
    return [m | {"selected": float(m is best)} for m in history]


def _value(metrics: Metrics, key: str) -> float:
    if key not in metrics:
        known = ", ".join(sorted(name for name in metrics if name.startswith("val/")))
        raise UserError(f"train.select_by={key} must be one of: {known}.")
    return metrics[key]


def _train_epoch(step: Step, batches: Batches, epoch: int, schedule: Schedule) -> Metrics:
    started = time.perf_counter()
    first = (epoch - 1) * batches.steps_per_epoch
    count = min(batches.steps_per_epoch, (schedule.max_steps or np.inf) - first)
    losses = []
    for start in range(0, int(count), schedule.steps_per_call):
        stop = min(start + schedule.steps_per_call, int(count))
        slices = [batches.step(epoch, k) for k in range(start, stop)]
        losses.append(step([stack(parts) for parts in zip(*slices, strict=True)]))
        _check_finite(step, losses[-1], epoch, start)
    mean = np.concatenate(losses).mean(axis=0)
    weights = step.balancer.task_weights()
    metrics = {"epoch": float(epoch), "train/seconds": time.perf_counter() - started}
    for name, loss in zip(step.model.heads, mean, strict=True):
        metrics[f"train/{name}/loss"] = float(loss)
        metrics[f"train/{name}/weight"] = float(weights[name])
    return metrics


def _check_finite(step: Step, losses: np.ndarray, epoch: int, start: int) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        k, task = bad[0]
        name = list(step.model.heads)[task]
        raise UserError(
            f"The loss of the task {name!r} is {losses[k, task]} in step {start + k} of epoch "
            f"{epoch}; lower optimizer.tables.learning_rate or optimizer.dense.learning_rate. "
            f"The last good checkpoint is that of epoch {epoch - 1}."
        )
