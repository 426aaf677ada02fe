"""Looking up finished runs: their directories, parameters and metrics."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrec.errors import UserError
from mtrec.tracking import known_runs, ui
from mtrec.tracking.mlflow_client import connect
from mtrec.tracking.mlflow_run import CHOICE_TAG, REPORT_TAG, RUN_DIR_TAG, RUN_ID_FILE
from mtrec.tracking.outbox import first_line
from mtrec.tracking.records import named_again
from mtrec.tracking.store import resolve_uri, shown, sqlite_file

if TYPE_CHECKING:
    from mtrec.tracking.mlflow_client import MlflowClient


def find_run(run: str, *, uri: str | None) -> Path:
    """Returns the run directory that `run` stands for.

    Args:
        run: A run directory; an MLflow run id, of whatever store if the job was this user's; or
            `latest` for the last job that finished, among those in the store whose run directory
            is still there.
        uri: See `resolve_uri`.

    Raises:
        UserError: If there is no such run, or its directory is none.
    """
    if run != "latest" and (Path(run).is_dir() or not re.fullmatch("[0-9a-f]{32}", run)):
        return _checked_run_dir(Path(run))
    known = None if run == "latest" else known_runs.recall(run)
    if known and (known / RUN_ID_FILE).is_file() and (known / RUN_ID_FILE).read_text() == run:
        return _checked_run_dir(known)
    uri = resolve_uri(uri)
    file = sqlite_file(uri)
    if file and not file.exists():
        raise UserError(
            f"`run`={run} is looked up in an MLflow store, and {file} does not exist. Ask where "
            "the job was started, or give `run` its run directory."
        )
    with _asked(uri, f"`run`={run}", "Give `run` a run directory."):
        client = connect(uri)
        return _latest_run_dir(client, uri) if run == "latest" else _tagged_run_dir(client, run)


@contextmanager
def _asked(uri: str, what: str, remedy: str) -> Iterator[None]:
    """Makes a sentence of whatever MLflow and the libraries below it raise."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{what} could not be looked up in MLflow at {shown(uri)} "
            f"({first_line(error)}). {remedy}"
        ) from error


@dataclass(frozen=True)
class TrackedRun:
    """A finished run as MLflow knows it.

    Attributes:
        run_id: Its id.
        name: What it is called.
        choices: The option chosen of each config group, such as `balance`.
        params: Its parameters as text.
        metrics: The last value of each metric; those of the validation are of the epoch that was
            selected.
        url: Where the UI shows it.
        data: Digest of the data it was trained and judged on; empty where it logged none.
    """

    run_id: str
    name: str
    choices: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    url: str
    data: str


def finished_runs(experiment: str, *, uri: str | None) -> list[TrackedRun]:
    """Returns the finished runs of an experiment, oldest first; reports about them are left out.

    Raises:
        UserError: If there is no such store or experiment, nothing in it has finished, or the store
            does not answer.
    """
    uri = resolve_uri(uri)
    file = sqlite_file(uri)
    if file and not file.exists():
        raise UserError(f"{file} does not exist. Run the command where the jobs were started.")
    with _asked(uri, f"experiment={experiment}", "Start it, or set tracking.uri."):
        return _finished_runs(connect(uri), experiment, uri)


def _finished_runs(client: "MlflowClient", experiment: str, uri: str) -> list[TrackedRun]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(e.name for e in client.search_experiments())
        raise UserError(f"experiment must be one of {names}; got {experiment}.")
    runs = client.search_runs(
        [found.experiment_id],
        filter_string="attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
        max_results=10_000,
    )
    jobs = [run for run in runs if REPORT_TAG not in run.data.tags]
    if not jobs:
        raise UserError(f"experiment {experiment} must have a finished run; it has none.")
    return [
        TrackedRun(
            run_id=run.info.run_id,
            name=run.info.run_name,
            choices={
                key.removeprefix(CHOICE_TAG): value
                for key, value in run.data.tags.items()
                if key.startswith(CHOICE_TAG)
            },
            params=dict(run.data.params),
            metrics=named_again(run.data.metrics),
            url=f"{ui.server(uri)}/{ui.page(found.experiment_id, run.info.run_id)}",
            data=next((put.dataset.digest for put in _dataset_inputs(run)), ""),
        )
        for run in jobs
    ]


def _dataset_inputs(run: Any) -> list[Any]:
    return list(run.inputs.dataset_inputs) if run.inputs else []


def artifact(run_id: str, name: str, *, uri: str | None) -> Path | None:
    """Returns a file that a run logged at the top of its artifacts, or None if it did not.

    Raises:
        UserError: If the store does not answer, or what holds the files.
    """
    uri = resolve_uri(uri)
    with _asked(uri, f"{name} of the run {run_id}", "Start it, or set tracking.uri."):
        client = connect(uri)
        if name not in [found.path for found in client.list_artifacts(run_id)]:
            return None
        return Path(client.download_artifacts(run_id, name))


def _checked_run_dir(path: Path) -> Path:
    for name in ("config.yaml", "metrics.json"):
        if not (path / name).is_file():
            raise UserError(
                f"`run`={path} is not a run directory (no {name}). Give `run` the directory that a "
                "finished job printed as its last line, an MLflow run id, or latest."
            )
    return path.resolve()


def _tagged_run_dir(client: "MlflowClient", run_id: str) -> Path:
    path = client.get_run(run_id).data.tags.get(RUN_DIR_TAG)
    if path is None:
        raise UserError(f"`run`={run_id} is an MLflow run that mtrec did not make. Give another.")
    return _checked_run_dir(Path(path))


def _latest_run_dir(client: "MlflowClient", uri: str) -> Path:
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        filter_string=f"attributes.status = 'FINISHED' and tags.`{RUN_DIR_TAG}` != ''",
        order_by=["attributes.start_time DESC"],
        max_results=1000,
    )
    for run in runs:
        path = Path(run.data.tags[RUN_DIR_TAG])
        if (path / "metrics.json").is_file():
            return _checked_run_dir(path)
    raise UserError(
        f"`run`=latest needs a finished job whose run directory still exists, and MLflow at "
        f"{shown(uri)} knows of none. Train one first, or give `run` a run directory."
    )
