"""The store of MLflow: a client that is quick to fail, and experiments in it."""

import getpass
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mtrec.errors import UserError
from mtrec.libraries import first_import
from mtrec.tracking.notes import NOTE_TAG, experiment_note
from mtrec.tracking.store import sqlite_file
from mtrec.tracking.whole import beside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# Read by MLflow when it is imported or used; a user's own setting comes first. What cannot be sent
# at once is sent later, so that MLflow need not retry for minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def connect(uri: str) -> "MlflowClient":
    """A client whose store was reached if it is a database; silent, and quick to fail."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Its thread complains by itself when the store goes away.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    # Where MLflow was imported before, its level is another; that a store is made is said here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with first_import("mlflow"):
        from mlflow import MlflowClient

        if not uri.startswith(("http", "databricks")):
            _probe_database(uri)
        # Imports the code of its kind of store.
        return MlflowClient(uri, registry_uri=uri)


def _probe_database(uri: str) -> None:
    """Raises at once if a database cannot be opened; MLflow would try for minutes."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    file = sqlite_file(uri)
    if file and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        print(f"creating the MLflow store {file} (once)")
        _make_store(file)
    engine = create_sqlalchemy_engine(uri)
    engine.connect().close()
    engine.dispose()


def _make_store(file: Path) -> None:
    """Makes a store aside and whole, without the wait for the disk after each of its migrations."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine
    from sqlalchemy import event

    aside = beside(file, str(os.getpid()))
    engine = create_sqlalchemy_engine(f"sqlite:///{aside}")
    event.listen(engine, "connect", lambda opened, _: opened.execute("PRAGMA synchronous=OFF"))
    try:
        _initialize_tables(engine)
        engine.dispose()
        with aside.open("rb") as made:
            os.fsync(made.fileno())
        # Another job may have been quicker. Where a link cannot be made, MLflow makes a store.
        with suppress(OSError):
            os.link(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of an experiment, which is created where it does not exist.

    Raises:
        UserError: If it was deleted in MLflow.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        experiment = _create_experiment(client, uri, name)
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment must not be a deleted experiment; got {name}. Choose another "
            f"name, or run `mlflow experiments restore -x {experiment.experiment_id}`."
        )
    return experiment.experiment_id


def _create_experiment(client: "MlflowClient", uri: str, name: str) -> "Experiment":
    from mlflow.exceptions import MlflowException

    file = sqlite_file(uri)
    # Left to MLflow, the place would depend on the directory of the process that writes first.
    place = (file.parent / "mlruns" / quote(name, safe="")).as_uri() if file else None
    # Another job that started at the same moment may have been quicker.
    with suppress(MlflowException):
        note = {NOTE_TAG: experiment_note(name)}
        client.create_experiment(name, artifact_location=place, tags=note)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise RuntimeError(f"the experiment {name} could not be created")
    return experiment


def origin() -> dict[str, str]:
    """The tags behind the columns User and Source of the UI."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": sys.argv[0]}
    # A container may run as a user that has no name.
    with suppress(KeyError, OSError):
        tags["mlflow.user"] = getpass.getuser()
    return tags
