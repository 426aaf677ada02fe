"""`python -m mtrec.launch`: data -> train -> evaluate -> index -> export, tracked in MLflow."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mtrec.cluster import nodes
from mtrec.config import ClusterConfig, Config
from mtrec.distributed import devices
from mtrec.errors import PreemptedError
from mtrec.jobs.command import command
from mtrec.jobs.keys import told_in_keys
from mtrec.libraries import first_import, import_tensorflow

if TYPE_CHECKING:
    from mtrec.data.dataset import Dataset
    from mtrec.data.split import Split
    from mtrec.jobs.resume import Job
    from mtrec.jobs.worker import Listener
    from mtrec.tracking.mlflow_run import Tracker
    from mtrec.training.loop import Metrics


@command("config", typed=False)
def main(composed: DictConfig) -> float | None:
    """Runs the main job in Hydra's run directory, or goes on with it.

    Returns:
        `train.select_by` of the selected epoch, for a search over jobs; None without.

    Raises:
        UserError: If an option is asked for that the job would not read, or see `job`.
    """
    from mtrec.jobs import resume
    from mtrec.jobs.inferred import heeded
    from mtrec.jobs.schema import experiment_of
    from mtrec.jobs.unused import refuse_unused
    from mtrec.tracking import mlflow_run, run_dir

    hydra = HydraConfig.get()
    composed, inferred = heeded(composed)
    config = cast(Config, OmegaConf.to_object(composed))
    refuse_unused(config, hydra.overrides.task, experiment_of(hydra.runtime.choices))
    directory = resume.directory_of(config, Path(hydra.runtime.output_dir))
    with run_dir.held(directory):
        found = resume.find_job(config, directory, hydra.overrides.task)
        if found.finished:
            waiting = mlflow_run.resend(directory, found.config.tracking.uri)
            kept = f"; {waiting} records still wait for MLflow" if waiting else ""
            print(f"finished before{kept}; train.resume=never would start anew\nrun: {directory}")
        else:
            _run(found, inferred)
    return selected_by(found.config, directory)


def _run(found: "Job", inferred: str | None) -> None:
    """Runs a job, and says in MLflow how it ended."""
    from mtrec.jobs import resume
    from mtrec.jobs.load import load
    from mtrec.jobs.naming import run_name
    from mtrec.jobs.progress import stage
    from mtrec.tracking import mlflow_run, run_data, run_dir, ui
    from mtrec.tracking.parameters import parameters
    from mtrec.tracking.whole import write_text

    config, directory, hydra = found.config, found.directory, HydraConfig.get()
    # A job that is refused for its data leaves MLflow and an earlier job's files as they were.
    with stage("data"), devices.visible(_gpus(config.cluster)):
        dataset, parts = load(config.data)
        if found.anew:
            resume.discard(directory)
        # First: it is what makes a directory a job's.
        run_dir.save_config(config, directory)
        if inferred:
            write_text(directory / run_dir.INFERRED, inferred)
        run_data.keep(dataset, parts, directory)
    tracker = mlflow_run.start(
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name
        or run_name(str(hydra.runtime.choices["task"]), config.seed, hydra.overrides.task),
        run_id=found.run_id,
        params=parameters(asdict(config)),
        tags=chosen(hydra.runtime.choices),
        run_dir=directory,
    )
    if inferred:
        tracker.log_file(directory / run_dir.INFERRED, "")
    try:
        with devices.visible(_gpus(config.cluster)):
            job(config, dataset, parts, directory, tracker)
    except PreemptedError as error:
        tracker.finish("KILLED")
        print(
            f"error: SIGTERM: {error}; go on with the same command and train.resume={directory}",
            file=sys.stderr,
        )
        sys.exit(128 + signal.SIGTERM)
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
    resume.mark_finished(directory)
    print(f"see: {ui.how_to_open(directory, config.tracking.uri)}")
    if (directory / run_dir.INDEX).is_dir():
        print("ask: python -m mtrec.recommend run=latest user_id=...")
    print(f"run: {directory}")


def _gpus(cluster: ClusterConfig) -> int | None:
    """GPUs for this process to see: Ray's own must see all that it is to give to workers."""
    if not cluster.use_gpu:
        return 0
    return cluster.devices_per_worker if cluster.kind == "local" else None


def selected_by(config: Config, directory: Path) -> float | None:
    """The validation metric that selected the epoch of a finished job, if one did."""
    from mtrec.tracking import run_dir

    name = config.train.select_by
    return run_dir.load_metrics(directory)[name] if name else None


def chosen(choices: Mapping[str, str | None]) -> dict[str, str]:
    """Tags for the option of each config group at the top, such as `balance`."""
    from mtrec.tracking.mlflow_run import CHOICE_TAG

    plain = {group: option for group, option in choices.items() if not set("/@") & set(group)}
    return {f"{CHOICE_TAG}{group}": option for group, option in plain.items() if option}


@told_in_keys("index")
def job(
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, tracker: "Tracker"
) -> None:
    """The stages after the data in order; each leaves its results in the run directory."""
    from mtrec.jobs.progress import Reporter, stage

    reporter = Reporter(tracker)
    reporter.data(dataset, parts)
    with (
        stage("train"),
        asked_to_stop() as should_stop,
        reporter.training(config.train.epochs, should_stop) as listener,
    ):
        history = train(config, dataset, parts, directory, listener)
    # Not before: while workers train, this process does without TensorFlow.
    import_tensorflow()
    from mtrec.jobs import build, stages
    from mtrec.jobs.restore import restore_run
    from mtrec.serving import export
    from mtrec.tracking import run_dir
    from mtrec.training import measured

    trained = restore_run(config, dataset, parts, directory)
    with stage("evaluate"):
        found = measured.load(directory / run_dir.MEASURED)
        metrics, reports = stages.evaluate(trained, found)
    reporter.evaluation(history, metrics, reports)
    index = None
    if trained.retrieval:
        with stage("index"):
            index = stages.index(trained, trained.retrieval, build.index_builder(config))
        reporter.index(index.manifest)
    with stage("export"):
        signatures = stages.export(trained, index)
        address = export.log(trained, index, tracker)
    reporter.model(signatures, address)


def train(
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, listener: "Listener"
) -> "list[Metrics]":
    """Trains in this process or on Ray workers; see `mtrec.jobs.worker.train`.

    Returns:
        The metrics of every epoch; `selected` is 1 in the one that was kept.
    """
    if config.cluster.kind == "ray":
        with first_import("ray"):
            from mtrec.cluster import driver

        return driver.train(config, dataset, parts, directory, listener)
    if not config.cluster.use_gpu and (unused := nodes.gpus()):
        listener.say(f"unused: {'; '.join(unused)}; cluster.use_gpu=true trains there")
    import_tensorflow()
    from mtrec.jobs import worker

    return worker.train(config, dataset, parts, directory, listener)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yields what says whether SIGTERM has come, which now only asks."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
