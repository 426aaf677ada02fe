"""`python -m mtrec.launch`: data -> train -> evaluate -> index -> export, tracked in MLflow."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from mtrec.command import command
from mtrec.config import Config

if TYPE_CHECKING:
    from mtrec.tracking import Tracker


@command("config")
def main(config: Config) -> None:
    """Runs the main job in Hydra's run directory."""
    from mtrec import run, tracking

    directory = Path(HydraConfig.get().runtime.output_dir)
    run.save_config(config, directory)
    tracker = tracking.start(
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name or HydraConfig.get().runtime.choices["task"],
        run_id=None,
        params=asdict(config),
        tags={},
        run_dir=directory,
    )
    try:
        job(config, directory, tracker)
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
    print(f"run: {directory}")


def job(config: Config, directory: Path, tracker: "Tracker") -> None:
    """The stages in order; each leaves its results in the run directory."""
    from mtrec import build, report, run, stages

    reporter = report.Reporter(tracker)
    with reporter.stage("data"):
        dataset, parts = build.data(config.data)
    reporter.data(dataset, parts)
    with reporter.stage("train"), reporter.training(config.train.epochs) as on_epoch:
        history = stages.train(config, dataset, parts, directory, on_epoch)
    trained = run.restore(config, dataset, parts, directory)
    with reporter.stage("evaluate"):
        metrics, reports = stages.evaluate(trained)
    reporter.evaluation(history, metrics, reports)
    if trained.retrieval:
        with reporter.stage("index"):
            index = stages.index(trained, trained.retrieval)
        reporter.index(index.manifest)


if __name__ == "__main__":
    main()
