"""The loop of epochs: trains, validates, saves, and selects a model on validation data."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from mtrec.data import progress
from mtrec.data.batches import Batches
from mtrec.data.schedule import Schedule
from mtrec.distributed import heartbeat
from mtrec.distributed.sharded_tables import readable
from mtrec.distributed.strategy import from_chief, is_chief, local_replicas
from mtrec.errors import PreemptedError, UserError
from mtrec.heads.metrics import better
from mtrec.model.recommender import Recommender
from mtrec.training.ahead import made_ahead
from mtrec.training.balance import Balancer
from mtrec.training.checkpoint import READABLE, Checkpoints
from mtrec.training.mined_negatives import Miner
from mtrec.training.packed import Packed, pack
from mtrec.training.step import Optimizers, Step
from mtrec.training.streaming_log_q import StreamingLogQ

Metrics = dict[str, float]


@dataclass
class State:
    """How far training has come; saved with every checkpoint.

    Attributes:
        epoch: The epoch that is being trained, from 1.
        step: Steps taken in it.
        means: Each metric's sum over those steps that tell it, and their number, by its name.
        history: The metrics of every finished epoch.
    """

    epoch: int
    step: int
    means: dict[str, tuple[float, int]]
    history: list[Metrics]

    def add(self, metric: str, values: np.ndarray) -> None:
        """Adds what a metric was in some steps, if they tell it."""
        total, count = self.means.get(metric, (0.0, 0))
        if len(values):
            self.means[metric] = (total + float(np.sum(values)), count + len(values))

    def best(self, metric: str | None) -> Metrics:
        """The finished epoch with the best value of `metric`, the first of equals; or the last."""
        if metric is None:
            return self.history[-1]
        best = self.history[0]
        for metrics in self.history[1:]:
            if better(metric, metrics[metric], best[metric]):
                best = metrics
        return best


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
    on_resume: Callable[[State], None] = lambda state: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Metrics]:
    """Trains, from the latest checkpoint if there is one, and leaves the model at the best epoch's.

    Where several workers train, all of them call this, and all validate. The chief alone saves,
    reports and is asked to stop; the others follow it.

    Args:
        model: The model, adapted in the scope of `strategy`.
        batches: The batches of every epoch.
        balancer: Turns task losses into the objective.
        optimizers: They move the weights.
        strategy: Where the replicas are.
        schedule: When to stop and what to select by.
        validate: Returns validation metrics of the model as it is, the chief's for all workers.
            It must raise on all of them or on none, as `from_workers` does.
        checkpoints: The directory that checkpoints go to.
        on_epoch: Called with the metrics of each finished epoch; once more for those finished
            before a resume, so that none is lost.
        on_resume: Called with the state of the checkpoint that training goes on from.
        stop: Asked after every call of the step; when true, training saves and stops.

    Returns:
        The metrics of every epoch; `selected` is 1 in the one that was kept.

    Raises:
        UserError: If a loss stops being finite, or `select_by` names no validation metric,
            or one that is NaN in every epoch, or features read the context of users, who have none.
        PreemptedError: If `stop` said so, or `validate` raised it. What was trained is saved.
    """
    _check_context(model, batches)
    with strategy.scope():
        log_q = StreamingLogQ.of(batches)
    step = Step(
        model,
        balancer,
        optimizers,
        strategy,
        log_q=log_q,
        encode_at_once=schedule.encode_at_once,
    )
    parts = {
        "model": model.weights,
        "balancer": balancer.weights,
        "tables": optimizers.tables.variables,
        "dense": optimizers.dense.variables,
    }
    if log_q:
        parts["log_q"] = log_q.weights
    miner = None
    if batches.negatives and batches.negatives.mined:
        miner = Miner(model, batches, strategy)
        parts["negatives"] = [miner.lists]
    saved = Checkpoints(checkpoints, parts, strategy)
    chief = is_chief(strategy)
    state = _restored(strategy, saved)
    if miner:
        miner.hand_over()
    if chief and (state.history or state.step):
        on_resume(state)
        for metrics in state.history:
            on_epoch(metrics)
    trainer = _Trainer(step, batches, miner, schedule, saved, state, stop)
    with progress.stage("training", unit="rows", saves=True):
        while not trainer.done:
            metrics = trainer.epoch(validate)
            if chief:
                on_epoch(metrics)
    state = trainer.state
    best = state.best(schedule.select_by)
    check_tells(schedule.select_by, best)
    from_chief(strategy, lambda: saved.select(int(best["step"])))
    saved.restore(int(best["step"]))
    return [m | {"selected": float(m is best)} for m in state.history]


def _restored(strategy: tf.distribute.Strategy, saved: Checkpoints) -> State:
    """The state of the latest checkpoint, its variables read; or that of a beginning."""
    latest = from_chief(strategy, saved.latest)
    if latest is None:
        return State(epoch=1, step=0, means={}, history=[])
    step, state = latest
    saved.restore(step)
    return State(**state)


class _Trainer:
    """Moves the state on, epoch by epoch, and saves it."""

    def __init__(
        self,
        step: Step,
        batches: Batches,
        miner: Miner | None,
        schedule: Schedule,
        saved: Checkpoints,
        state: State,
        stop: Callable[[], bool],
    ) -> None:
        self.step = step
        self.batches = batches
        self.miner = miner
        self.schedule = schedule
        self.saved = saved
        self.state = state
        self.stop = stop
        self.due = _Due(schedule.checkpoint_every, self.steps_done)
        self._began_at = self.steps_done

    @property
    def steps_done(self) -> int:
        """Steps taken since the beginning of the job."""
        return (self.state.epoch - 1) * self.batches.steps_per_epoch + self.state.step

    @property
    def done(self) -> bool:
        """Whether the epochs, the steps or the patience are used up."""
        history, schedule = self.state.history, self.schedule
        if self.state.epoch > schedule.epochs:
            return True
        if schedule.max_steps and self.steps_done >= schedule.max_steps:
            return True
        if not (schedule.patience and history):
            return False
        return len(history) - self.state.best(schedule.select_by)["epoch"] >= schedule.patience

    def epoch(self, validate: Callable[[], Metrics]) -> Metrics:
        """Finishes the current epoch, validates, saves, and returns the epoch's metrics."""
        started = time.perf_counter()
        state, schedule = self.state, self.schedule
        steps = self.batches.steps_per_epoch
        if schedule.max_steps:
            steps = min(steps, schedule.max_steps - (state.epoch - 1) * steps)
        # What is mined changes between epochs alone, and so nothing is made beyond the epoch's end.
        with closing(made_ahead(self._input, self._calls(steps))) as calls:
            for call, batches in calls:
                self._take(call, batches)
                # The chief's clock alone says what is due: workers save sharded tables together.
                stop, due = from_chief(
                    self.step.strategy, lambda: (self.stop(), self.due(self.steps_done))
                )
                if stop or (due and state.step < steps):
                    self._save()
                if stop:
                    done = self.steps_done
                    raise PreemptedError(f"stopped during training, saved after {done} steps")
        metrics = {"epoch": float(state.epoch), "step": float(self.steps_done)}
        metrics |= {name: total / steps for name, (total, steps) in state.means.items()}
        metrics |= {"train/seconds": time.perf_counter() - started}
        with readable(self.step.tables, self.saved.directory / READABLE):
            try:
                metrics |= validate()
                check_selectable(schedule.select_by, metrics)
                metrics = from_chief(self.step.strategy, lambda: metrics)
                self.state = State(state.epoch + 1, 0, {}, [*state.history, metrics])
                if self.miner and not self.done:
                    self.miner.search()
            except PreemptedError:
                self.state = state  # which has yet to be validated, and mined for
                self._save()
                raise
            self._save()
        return metrics

    def _calls(self, last: int) -> Iterator[range]:
        """The steps of the current epoch up to `last`, those that one call takes together."""
        schedule, step = self.schedule, self.state.step
        # Within a call, what replicas exchange must keep its length, and cached gradients do not.
        at_once = 1 if schedule.encode_at_once else schedule.steps_per_call
        while step < last:
            stop = min(step + at_once, last)
            if schedule.telemetry_every:
                # Up to the next step that is to be observed, which is taken alone.
                stop = min(stop, step + max(self._until_observed(step) - 1, 1))
            yield range(step, stop)
            step = stop

    def _until_observed(self, step: int) -> int:
        """Steps from one of this epoch to the next that is observed, 1 if that is the one."""
        every = self.schedule.telemetry_every or 1
        return every - ((self.state.epoch - 1) * self.batches.steps_per_epoch + step) % every

    def _input(self, call: range) -> dict[int, Packed]:
        """The batches of a call, packed, for each replica of this process."""
        epoch = self.state.epoch
        mine = local_replicas(self.step.strategy)
        steps = [self.batches.step(epoch, k, replicas=mine) for k in call]
        return {r: pack(slices) for r, slices in zip(mine, zip(*steps, strict=True), strict=True)}

    def _take(self, call: range, batches: Mapping[int, Packed]) -> None:
        """Takes the steps of a call."""
        state = self.state
        observed = self.schedule.telemetry_every
        observe = bool(observed) and self._until_observed(call.start) == 1
        taken = self.step(batches, observe=observe)
        heartbeat.beat()
        _check_finite(taken.losses, list(self.step.model.heads), state)
        for place, name in enumerate(self.step.model.heads):
            # A loss is a mean over the steps in which its task had rows.
            had = taken.rows[:, place] > 0
            state.add(f"train/{name}/loss", taken.losses[had, place])
            state.add(f"train/{name}/weight", taken.weights[:, place])
        for name, value in taken.telemetry.items():
            state.add(name, np.array([value]))
        state.step = call.stop
        self._advance()

    def _advance(self) -> None:
        """Tells how far training has come, in rows of this process's job."""
        each = self.batches.steps_per_epoch
        to_do = self.schedule.epochs * each
        to_do = min(to_do, self.schedule.max_steps or to_do)
        rows = len(self.batches.histories.rows) / each
        done = self.steps_done - self._began_at
        progress.advance(rows * done, rows * (to_do - self._began_at), "rows")

    def _save(self) -> None:
        """Writes a checkpoint; all workers take part."""
        # Between epochs, the last step of the one before names the checkpoint.
        step = int(self.state.history[-1]["step"]) if self.state.step == 0 else self.steps_done
        with progress.stage("checkpoints", part=True):
            self.saved.save(step, vars(self.state))
            history = self.state.history
            best = self.state.best(self.schedule.select_by)["step"] if history else step
            if is_chief(self.step.strategy):
                self.saved.prune(keep=int(best), latest=2)


class _Due:
    """Says when a checkpoint within an epoch is due.

    Counted in steps, one is due at the first look at or after each multiple of them, so that a job
    that was killed leaves the checkpoints of one that was not.
    """

    def __init__(self, every: str | None, step: int) -> None:
        seconds = every is not None and every.endswith("s")
        self._seconds = float(every[:-1]) if every and seconds else None
        self._steps = int(every) if every and not seconds else None
        self._last_time, self._last_step = time.monotonic(), step

    def __call__(self, step: int) -> bool:
        if self._seconds is not None:
            due = time.monotonic() - self._last_time >= self._seconds
            if due:
                self._last_time = time.monotonic()
            return due
        last, self._last_step = self._last_step, step
        return self._steps is not None and step // self._steps > last // self._steps


def _check_context(model: Recommender, batches: Batches) -> None:
    if model.query.contexts and batches.batching.batch_of == "users":
        raise UserError(
            "`batch_of` must be requests or rows where a feature reads the context "
            f"({model.query.contexts[0]}), as a user is no moment; got users. "
            "Set `batch_of`=requests."
        )


def check_selectable(metric: str | None, metrics: Metrics) -> None:
    """Refuses a metric to select by that validation does not tell.

    Args:
        metric: The metric.
        metrics: What validation found.

    Raises:
        UserError: If the metric is not there.
    """
    if metric is None or metric in metrics:
        return
    known = sorted(name for name in metrics if name.startswith("val/"))
    of_head = [name for name in known if name.startswith(metric.rsplit("/", 1)[0] + "/")]
    if of_head:
        raise UserError(f"`select_by` must be one of {', '.join(of_head)}; got {metric}.")
    rule = f"one of {', '.join(known)}, or null," if known else "null"
    raise UserError(
        f"`select_by` must be {rule} where validation holds out nothing that another head is "
        f"judged by, such as a positive row of an item that its user lacks; got {metric}. "
        "Correct it, set a larger `validation_share`, or `repeats`=true where users take items "
        "again."
    )


def check_tells(metric: str | None, metrics: Metrics) -> None:
    """Refuses a metric to select by of which every epoch is alike: not there, or of nothing.

    Args:
        metric: The metric.
        metrics: What validation found of a model whose numbers are finite.

    Raises:
        UserError: If the metric is not there or is NaN.
    """
    check_selectable(metric, metrics)
    if metric is not None and np.isnan(metrics[metric]):
        raise UserError(
            "`select_by` must be a metric that validation can tell; its rows make "
            f"{metric} NaN, as they do an AUC of rows that are all alike. Set it to another, to "
            "null, or set a larger `validation_share`."
        )


def _check_finite(losses: np.ndarray, heads: list[str], state: State) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        k, task = bad[0]
        raise UserError(
            f"The loss of the task {heads[task]!r} is {losses[k, task]} in step {state.step + k} "
            f"of epoch {state.epoch}, after {len(state.history)} finished epochs; "
            "lower `tables.learning_rate` or `dense.learning_rate`."
        )
