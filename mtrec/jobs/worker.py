"""What every worker does: the strategy, the model and the data of its replicas, then training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mtrec.config import Config
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split
from mtrec.distributed import progress
from mtrec.distributed.progress import Follower
from mtrec.distributed.sharded_tables import gathered
from mtrec.distributed.strategy import (
    determinism,
    from_chief,
    is_chief,
    make_strategy,
    precision,
)
from mtrec.distributed.tables import tables_of
from mtrec.errors import PreemptedError
from mtrec.jobs import answers, build
from mtrec.jobs.footprint import describe, placement
from mtrec.jobs.keys import told_in_keys
from mtrec.serving.run import Run
from mtrec.tracking import run_dir
from mtrec.training import measured
from mtrec.training.evaluate import SPLITS, Evaluator, evaluator_of, flat_metrics, of_some_users
from mtrec.training.loop import Metrics, State, check_tells, fit

_OF_A_SAMPLE = (
    "validation after each epoch is of a sample of {:,} users (evaluate.users); at the end it is "
    "of all"
)


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
    replicas = strategy.num_replicas_in_sync
    with progress.stage("build"), strategy.scope():
        dataset = build.data(config, dataset)
        model = build.model(config, dataset, parts.fit)
        batches = build.batches(config, dataset, parts.fit, model.heads, replicas)
        balancer = build.balancer(config, batches.steps_per_epoch)
        optimizers = build.optimizers(config, batches.steps_per_epoch)
        optimizers.tables.build(tables_of(model))
        evaluator = _validator(config, Run(directory, dataset, parts, model))
        if is_chief(strategy):
            if len(evaluator.held_out.item) < len(parts.validation):
                listener.say(_OF_A_SAMPLE.format(config.evaluate.users))
            listener.say(describe(model, optimizers, strategy, batches.step(1, 0)[0]))

    def validate(name: str = "validation", part: bool = True) -> Metrics:
        users = len(evaluator.held_out.users)
        with progress.stage(name, total=users, unit="users", part=part, stoppable=True):
            found = evaluator.measure_together(model, strategy, full=False)
            reports = evaluator.report(found, model.heads, full=False)
            return flat_metrics(reports, "val") | evaluator.gates(model)

    how = config.train
    with precision(how.precision), determinism(deterministic=how.deterministic):
        if config.train.select_by is not None:  # refuses now what it would refuse after an epoch
            with gathered(model.weights):
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
    held_out = sum(len(rows) for rows in (parts.validation, parts.test))
    with (
        progress.stage("ranking", total=held_out, unit="rows", stoppable=True),
        gathered(model.weights),
    ):
        found = {
            split: evaluator_of(split, dataset, parts).measure_together(model, strategy, full=True)
            for split in SPLITS
        }
    # Training asks as well, but judging a large catalogue takes long.
    if from_chief(strategy, listener.should_stop):
        raise PreemptedError("stopped after training, which is saved")
    if is_chief(strategy):
        measured.save(found, directory / run_dir.MEASURED)
    return history


def _validator(config: Config, run: Run) -> Evaluator:
    """What judges each epoch of a run: if asked for, on a sample of the users alone.

    Raises:
        UserError: For what the answer of the run would be refused for at the end.
    """
    users, parts = config.evaluate.users, run.parts
    some = of_some_users(run.dataset, parts.validation, users=users, seed=config.seed)
    evaluator = evaluator_of("val", run.dataset, replace(parts, validation=some))
    answers.check(config, run, evaluator.held_out)
    return evaluator


def _announce(say: Callable[[str], None]) -> Callable[[State], None]:
    def on_resume(state: State) -> None:
        done, steps = len(state.history), state.step
        say(f"going on from a checkpoint: {done} epochs done, and {steps} steps of the next")

    return on_resume
