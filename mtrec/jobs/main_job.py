"""The main job: data -> train -> evaluate -> index -> export, tracked in MLflow."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mtrec.config import ClusterConfig, Config
from mtrec.data import progress
from mtrec.jobs.command import console
from mtrec.jobs.keys import in_keys, told_in_keys
from mtrec.libraries import called

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mtrec.data.dataset import Dataset
    from mtrec.data.split import Split
    from mtrec.jobs.progress import Reporter
    from mtrec.jobs.resume import Job
    from mtrec.jobs.terminal import Terminal
    from mtrec.jobs.worker import Listener
    from mtrec.tracking.mlflow_run import Tracker
    from mtrec.training.loop import Metrics


def run(composed: "DictConfig", *, began: float) -> float | None:
    """Runs the main job in Hydra's run directory, or goes on with it.

    Args:
        composed: The config as Hydra composed it, for the job that Hydra says is running.
        began: When the job began, as `time.time()`.

    Returns:
        `train.select_by` of the selected epoch, for a search over jobs; None without.

    Raises:
        UserError: If an option is asked for that the job would not read, or see `job`.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from mtrec.jobs import resume
    from mtrec.jobs.cluster import settings
    from mtrec.jobs.inferred import heeded
    from mtrec.jobs.load import check_split
    from mtrec.jobs.schema import experiment_of
    from mtrec.jobs.terminal import Terminal
    from mtrec.jobs.unused import refuse_unused
    from mtrec.tracking import mlflow_run, run_dir
    from mtrec.tracking.store import resolve_uri

    hydra = HydraConfig.get()
    composed, inferred = heeded(composed)
    config = cast(Config, OmegaConf.to_object(composed))
    with in_keys(config, "data.split"):
        refuse_unused(config, hydra.overrides.task, experiment_of(hydra.runtime.choices))
    check_split(config.data)
    settings.check_machine(config.cluster)
    resolve_uri(config.tracking.uri)
    directory = resume.directory_of(config, Path(hydra.runtime.output_dir))
    with run_dir.held(directory):
        found = resume.find_job(config, directory, hydra.overrides.task)
        if found.finished:
            waiting = mlflow_run.resend(directory, found.config.tracking.uri)
            kept = f"; {waiting} records still wait for MLflow" if waiting else ""
            print(f"finished before{kept}; train.resume=never would start anew\nrun: {directory}")
        else:
            if config.cluster.kind == "ray":
                settings.check_answers(config.cluster.address)
            terminal = Terminal(console(), began=began)
            with terminal.following():
                _run(found, terminal, inferred)
            print(f"run: {directory}")
    return selected_by(found.config, directory)


def _run(found: "Job", terminal: "Terminal", inferred: str | None) -> None:
    """Runs a job, and says in MLflow how it ended."""
    from mtrec.distributed import devices
    from mtrec.jobs import interrupts, resume
    from mtrec.jobs.ending import ending
    from mtrec.jobs.load import check_labels, load
    from mtrec.tracking import run_data, run_dir, ui
    from mtrec.tracking.whole import write_text

    config, directory = found.config, found.directory
    with ending(terminal, directory) as told:
        with devices.visible(_gpus(config.cluster)):
            _check(config)
        # A job that is refused for its data leaves MLflow and an earlier job's files as they were.
        with progress.stage("data", unit="rows"), devices.visible(_gpus(config.cluster)):
            dataset, parts = load(config.data)
            check_labels(config, dataset)
            if found.anew:
                resume.discard(directory)
            # First: it is what makes a directory a job's.
            run_dir.save_config(config, directory)
            if inferred:
                write_text(directory / run_dir.INFERRED, inferred)
            run_data.keep(dataset, parts, directory)
            rows = len(dataset.interactions["user"])
            progress.advance(rows, rows, "rows")
        with progress.stage("MLflow"):
            from mtrec.jobs.progress import Reporter
            from mtrec.tracking import mlflow_run

            # Whoever ends the job knows it from here on, before there is a run to be ended.
            tracker = told.tracker = mlflow_run.tracker(
                uri=config.tracking.uri, run_dir=directory, run_id=found.run_id
            )
            _begin(tracker, config)
            if inferred:
                tracker.log_file(directory / run_dir.INFERRED, "")
            reporter = Reporter(tracker, terminal)
            reporter.data(dataset, parts)
        with devices.visible(_gpus(config.cluster)):
            job(config, dataset, parts, directory, reporter)
        with progress.stage("MLflow's end"):
            # A signal comes too late here: an end that it cut off would stand before its own.
            interrupts.hold(True)
            tracker.finish("FINISHED")
            resume.mark_finished(directory)
            see = ui.how_to_open(directory, config.tracking.uri)
            interrupts.hold(False)
    print(f"see: {see}")
    if (directory / run_dir.INDEX).is_dir():
        print(f"ask: {called('recommend')} run={directory} user_id=...")
    terminal.total()


def _check(config: Config) -> None:
    """Refuses before data is read what training would refuse after it."""
    cluster = config.cluster
    if cluster.kind == "local" and (cluster.use_gpu or cluster.devices_per_worker in (None, 1)):
        _import_tensorflow()
        with progress.stage("check"):
            from mtrec.jobs import build

            build.check(config)
        return
    # Several logical devices of the CPU must be made before anything else of TensorFlow, and while
    # workers train, this process does without it.
    with progress.stage("check"):
        from mtrec.jobs import apart

        apart.check(config)


def _begin(tracker: "Tracker", config: Config) -> None:
    """Makes the MLflow run of a job, or takes it up."""
    from hydra.core.hydra_config import HydraConfig

    from mtrec.jobs.naming import run_name
    from mtrec.tracking.parameters import parameters

    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    tracker.begin(
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name
        or run_name(str(choices["task"]), config.seed, hydra.overrides.task),
        params=parameters(asdict(config)),
        tags=chosen(choices),
    )


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
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, reporter: "Reporter"
) -> None:
    """The stages after the data in order; each leaves its results in the run directory."""
    listener = reporter.training(config.train.epochs)
    history = train(config, dataset, parts, directory, listener)
    _import_tensorflow()
    with progress.stage("evaluation"):
        from mtrec.jobs import build, stages
        from mtrec.jobs.restore import restore_run
        from mtrec.serving import export
        from mtrec.tracking import run_dir
        from mtrec.training import measured
        from mtrec.training.evaluate import Sample

        sample = Sample(config.evaluate.final_users, config.seed)
        trained = restore_run(config, dataset, parts, directory)
        found = measured.load(directory / run_dir.MEASURED)
        metrics, reports = stages.evaluate(trained, found, sample)
    with progress.stage("figures"):
        reporter.evaluation(history, metrics, reports)
    index = None
    if trained.retrieval:
        with progress.stage("index", total=dataset.num_items, unit="items"):
            index = stages.index(trained, trained.retrieval, build.index_builder(config))
        reporter.index(index.manifest)
        with progress.stage("answer", unit="users"):
            trained, metrics = stages.answer(trained, index, sample)
        reporter.answer(metrics)
    with progress.stage("export"):
        signatures = stages.export(trained, index)
    with progress.stage("model to MLflow"):
        address = export.log(trained, index, reporter.tracker)
    reporter.model(signatures, address)


def train(
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, listener: "Listener"
) -> "list[Metrics]":
    """Trains in this process or on Ray workers; see `mtrec.jobs.worker.train`.

    Returns:
        The metrics of every epoch; `selected` is 1 in the one that was kept.
    """
    if config.cluster.kind == "ray":
        from mtrec.libraries import first_import

        # What the workers' own stages leave: to start Ray and the workers, and to end them.
        with progress.stage("Ray"):
            with first_import("ray"):
                from mtrec.jobs.cluster import driver

            return driver.train(config, dataset, parts, directory, listener)
    from mtrec.jobs.cluster import nodes

    if not config.cluster.use_gpu and (unused := nodes.gpus()):
        listener.say(f"unused: {'; '.join(unused)}; cluster.use_gpu=true trains there")
    _import_tensorflow()
    with progress.stage("import"):
        from mtrec.jobs import worker

    return worker.train(config, dataset, parts, directory, listener)


def _import_tensorflow() -> None:
    """Imports it; while workers train, this process does without."""
    if "tensorflow" not in sys.modules:
        with progress.stage("TensorFlow's import"):
            from mtrec.libraries import import_tensorflow

            import_tensorflow()
