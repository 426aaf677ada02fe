"""What every worker does: the strategy, the model and the data of its replicas, then training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtrec.config import Config
from mtrec.data import progress
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.progress import Follower
from mtrec.data.split import Split
from mtrec.distributed.precision import precision
from mtrec.distributed.sharded_tables import readable
from mtrec.distributed.strategy import (
    determinism,
    from_chief,
    from_workers,
    is_chief,
    make_strategy,
    num_workers,
    worker_number,
)
from mtrec.distributed.tables import tables_of
from mtrec.errors import PreemptedError
from mtrec.jobs import answers, build
from mtrec.jobs.footprint import describe, placement
from mtrec.jobs.keys import told_in_keys
from mtrec.serving.run import Run
from mtrec.tracking import run_dir
from mtrec.training import measured
from mtrec.training.checkpoint import READABLE
from mtrec.training.evaluate import SPLITS, Evaluator, Sample, evaluator_of, flat_metrics
from mtrec.training.loop import Metrics, State, check_tells, fit

_OF_A_SAMPLE = "validation after each epoch is of a sample of {:,} users (evaluate.users)"
_AT_THE_END = "figures at the end are of a sample of {:,} users (evaluate.final_users)"


class Listener(Follower, Protocol):
    """Who follows a training, and its stages where those are of another process."""

    def on_epoch(self, metrics: Metrics) -> None:
        """Takes the metrics of a finished epoch; after a resume, those before it once more."""

    def say(self, text: str) -> None:
        """Takes a line for people."""


@told_in_keys("train")
def train(
    config: Config, dataset: Dataset, parts: Split, directory: Path, listener: Listener
) -> list[Metrics]:
    """Trains, and measures the model that is selected on the validation and the test part.

    Leaves it in `checkpoints/`, what was measured in `measured/`; returns the epochs' metrics.

    The strategy is made first: TensorFlow takes the workers' addresses before any other operation.

    Raises:
        UserError: If the config does not fit the data, the machine or the index, validation tells
            nothing of `train.select_by`, or a loss stops being finite.
        PreemptedError: If the listener said stop.
    """
    build.index_builder(config)  # refuses before training what it would refuse after it
    cluster = config.cluster
    strategy = make_strategy(cluster.devices_per_worker, use_gpu=cluster.use_gpu)
    listener.say(placement(strategy, config.train.precision))
    how = config.train
    with precision(how.precision), determinism(deterministic=how.deterministic):
        history, run, known = _fit(config, dataset, parts, directory, strategy, listener)
    # Training asks after each of its calls, and blocks of users do.
    if from_chief(strategy, listener.should_stop):
        raise PreemptedError("stopped after training, which is saved")
    sample = Sample(config.evaluate.final_users, config.seed)
    if is_chief(strategy) and sample.users is not None:
        listener.say(_AT_THE_END.format(sample.users))
    _judge(run, strategy, known, sample)
    return history


def _fit(
    config: Config,
    dataset: Dataset,
    parts: Split,
    directory: Path,
    strategy: tf.distribute.Strategy,
    listener: Listener,
) -> tuple[list[Metrics], Run, Histories]:
    """Trains; returns the epochs' metrics, the run, and what users have by the rows of `fit`."""
    replicas = strategy.num_replicas_in_sync
    config.cluster.check_batch(config.train.global_batch, replicas)
    with progress.stage("build"), strategy.scope():
        dataset = build.data(config, dataset)
        model = build.model(config, dataset, parts.fit)
        run = Run(directory, dataset, parts, model)
        batches = build.batches(config, dataset, parts.fit, model.heads, replicas)
        balancer = build.balancer(config, batches.steps_per_epoch)
        optimizers = build.optimizers(config, batches.steps_per_epoch)
        optimizers.tables.build(tables_of(model))
        evaluator = _validator(config, run, batches.known)
        if is_chief(strategy):
            if evaluator.population is not None:
                listener.say(_OF_A_SAMPLE.format(config.evaluate.users))
            listener.say(describe(model, optimizers, strategy, batches.step(1, 0)[0]))

    def validate(name: str = "validation", part: bool = True) -> Metrics:
        users = len(evaluator.held_out.users)
        with progress.stage(name, total=users, unit="users", part=part, stoppable=True):
            reports = evaluator.metrics_together(model, strategy)
            return flat_metrics(reports, "val") | evaluator.gates(model)

    if config.train.select_by is not None:  # refuses now what it would refuse after an epoch
        with readable(tables_of(model), directory / run_dir.CHECKPOINTS / READABLE):
            check_tells(config.train.select_by, validate("first validation", part=False))
    history = fit(
        model,
        batches,
        balancer=balancer,
        optimizers=optimizers,
        strategy=strategy,
        schedule=config.train,
        validate=validate,
        checkpoints=directory / run_dir.CHECKPOINTS,
        on_epoch=listener.on_epoch,
        on_resume=_announce(listener.say),
        stop=listener.should_stop,
    )
    return history, run, batches.known


def _judge(run: Run, strategy: tf.distribute.Strategy, known: Histories, sample: Sample) -> None:
    """Measures the selected model on held-out users; each worker writes what it measured.

    Args:
        run: The run.
        strategy: Where the replicas are.
        known: What users have by the rows of `fit`.
        sample: The users of each split who are judged.
    """
    directory = run.directory / run_dir.MEASURED
    user = np.asarray(run.dataset.interactions["user"])
    there = [len(np.unique(user[rows])) for rows in (run.parts.validation, run.parts.test)]
    total = sum(min(users, sample.users or users) for users in there)
    workers, worker = num_workers(strategy), worker_number(strategy)

    def measure(split: str, evaluator: Evaluator) -> dict[str, np.ndarray]:
        found = evaluator.measure(run.model, evaluator.shares(workers)[worker])
        measured.save(found, directory, split=split, worker=worker)
        return {}

    with (
        progress.stage("ranking", total=total, unit="users", stoppable=True),
        readable(tables_of(run.model), run.directory / run_dir.CHECKPOINTS / READABLE),
    ):
        from_chief(strategy, lambda: measured.clear(directory))
        for split in SPLITS:
            had = known if split == "val" else None
            evaluator = evaluator_of(split, run.dataset, run.parts, known=had, sample=sample)
            from_workers(strategy, partial(measure, split, evaluator))


def _validator(config: Config, run: Run, known: Histories) -> Evaluator:
    """What judges each epoch of a run: if asked for, on a sample of the users alone.

    Args:
        config: The config.
        run: The run.
        known: What users have by the rows of `fit`.

    Raises:
        UserError: For what the answer of the run would be refused for at the end.
    """
    sample = Sample(config.evaluate.users, config.seed)
    evaluator = evaluator_of("val", run.dataset, run.parts, known=known, sample=sample)
    answers.check(config, run, evaluator.held_out)
    return evaluator


def _announce(say: Callable[[str], None]) -> Callable[[State], None]:
    def on_resume(state: State) -> None:
        done, steps = len(state.history), state.step
        say(f"going on from a checkpoint: {done} epochs done, and {steps} steps of the next")

    return on_resume
