"""One MLflow run per job, and never a job stopped by MLflow.

Whatever a job tells MLflow is first made a *record* (`mtrec/tracking/records.py`). A record that
cannot be delivered waits in `mlflow_unsent.jsonl` in the run directory, and the same code delivers
it later: while the job goes on, when it ends, when it is resumed, or through `resend`. Delivering a
record a second time changes nothing, so that a lost answer never leads to a value logged twice.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from mtrec.tracking import known_runs
from mtrec.tracking.mlflow_client import connect, experiment_id, origin
from mtrec.tracking.notes import NOTE_TAG
from mtrec.tracking.outbox import Outbox, Record
from mtrec.tracking.records import TEST, unpacked
from mtrec.tracking.store import resolve_uri, shown
from mtrec.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

T = TypeVar("T")

RUN_ID_FILE = "mlflow_run_id"
UNSENT_FILE = "mlflow_unsent.jsonl"
RUN_DIR_TAG = "mtrec.tracking.run_dir"
# Before the name of a config group: the option that was chosen of it.
CHOICE_TAG = "mtrec.choice."
# Marks a run that holds a report about other runs.
REPORT_TAG = "mtrec.report"
# Stands in RUN_ID_FILE for a run that MLflow has not heard of yet.
PENDING_RUN_ID = "unsent"

_UPLOAD_TIMEOUT_SECONDS = 300
_SAMPLING_SECONDS = 2.0
_SAMPLES = 5  # of which the mean is logged
_MAX_PARAMS = 100
_MAX_METRICS = 1000
_MAX_PARAM_LENGTH = 6000


def tracker(*, uri: str | None, run_dir: Path, run_id: str | None) -> Tracker:
    """The tracker of a job's MLflow run, which `Tracker.begin` makes or takes up.

    Args:
        uri: See `resolve_uri`.
        run_dir: The job's run directory; it must exist.
        run_id: None for a new run; to resume a job, what its `mlflow_run_id` file holds.
    """
    run_dir = run_dir.resolve()
    run = _Run(uri=resolve_uri(uri), run_dir=run_dir, watch_system=True)
    outbox = _outbox(run, run_dir)
    if run_id is None:
        # What waits there is of another job that had the same run directory.
        outbox.discard()
    run.run_id = None if run_id == PENDING_RUN_ID else run_id
    return Tracker(outbox=outbox, run_dir=run_dir, anew=run_id is None)


def resend(run_dir: Path, uri: str | None) -> int:
    """Delivers what a job could not send to MLflow; returns how many records still wait.

    Args:
        run_dir: The run directory of the job.
        uri: See `resolve_uri`.
    """
    run_dir = run_dir.resolve()
    run = _Run(uri=resolve_uri(uri), run_dir=run_dir, watch_system=False)
    outbox = _outbox(run, run_dir)
    outbox.flush()
    return len(outbox.records)


@final
class _Run:
    """One MLflow run, to which records are delivered.

    Attributes:
        uri: The address of the tracking store.
        run_id: The run's id, kept in the run directory; None before MLflow has created it.
    """

    def __init__(self, *, uri: str, run_dir: Path, watch_system: bool) -> None:
        self.uri = uri
        self._watch_system = watch_system
        self._monitor: SystemMetricsMonitor | None = None
        self._id_file = run_dir / RUN_ID_FILE
        # The steps at which a metric is known to have a value.
        self._steps: dict[str, set[int]] = {}
        self._is_new = False
        self._kinds: dict[str, Callable[[Record], Any]] = {
            "run": self._create,
            "resume": self._resume,
            "params": self._log_params,
            "tags": self._set_tags,
            "metrics": self._log_metrics,
            "dataset": self._log_dataset,
            "artifact": self._log_artifact,
            "model": self._log_model,
            "status": self._terminate,
        }

    @property
    def run_id(self) -> str | None:
        text = self._id_file.read_text("utf-8") if self._id_file.exists() else PENDING_RUN_ID
        return None if text == PENDING_RUN_ID else text

    @run_id.setter
    def run_id(self, run_id: str | None) -> None:
        self._id_file.write_text(run_id or PENDING_RUN_ID, "utf-8")
        if run_id:
            known_runs.remember(run_id, self._id_file.parent)

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect(self.uri)

    @property
    def _id(self) -> str:
        if self.run_id is None:
            raise RuntimeError("the run has not been created")
        return self.run_id

    def answers(self) -> bool:
        """Returns whether the store can be reached."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def deliver(self, record: Record) -> Any:
        """Delivers one record; harmless if it had arrived before.

        Raises:
            UserError: If the experiment was deleted.
            Exception: Whatever MLflow and the libraries below it raise.
        """
        try:
            return self._kinds[record["kind"]](record)
        except Exception:
            # Part of it may have arrived all the same: ask before the next try.
            self._is_new = False
            self._steps.clear()
            raise

    def _create(self, record: Record) -> None:
        if self.run_id is not None:
            return
        created = self._client.create_run(
            experiment_id(self._client, self.uri, record["experiment"]),
            run_name=record["name"],
            tags={**origin(), **record["tags"], RUN_DIR_TAG: str(self._id_file.parent)},
            start_time=record["time"],
        )
        self.run_id = created.info.run_id
        self._is_new = True

    def _resume(self, record: Record) -> None:
        self._client.update_run(self._id, status="RUNNING")

    def _log_params(self, record: Record) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        missing = [
            Param(key, value[:_MAX_PARAM_LENGTH])
            for key, value in record["params"].items()
            if key not in known
        ]
        for batch in _batches(missing, _MAX_PARAMS):
            self._client.log_batch(self._id, params=batch, synchronous=True)

    def _set_tags(self, record: Record) -> None:
        for key, value in record["tags"].items():
            self._client.set_tag(self._id, key, value, synchronous=True)

    def _log_metrics(self, record: Record) -> None:
        from mlflow.entities import Metric

        step = record["step"]
        metrics = [
            Metric(key, value, record["time"], step)
            for key, value in record["metrics"].items()
            if step not in self._known_steps(key)
        ]
        for batch in _batches(metrics, _MAX_METRICS):
            self._client.log_batch(self._id, metrics=batch, synchronous=True)
        for metric in metrics:
            self._steps[metric.key].add(step)
        # No earlier: the UI compares runs by the metric that it heard of first.
        if self._monitor is None:
            self._start_monitor()

    def _known_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            history = [] if self._is_new else self._client.get_metric_history(self._id, key)
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def _log_dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(**record["dataset"])
        tags = [InputTag(key, value) for key, value in record["tags"].items()]
        self._client.log_inputs(self._id, [DatasetInput(dataset, tags)])

    def _log_artifact(self, record: Record) -> None:
        path = Path(record["path"])
        with _patient_uploads():
            if path.is_dir():
                self._client.log_artifacts(self._id, str(path), record["dir"] or None)
            else:
                self._client.log_artifact(self._id, str(path), record["dir"] or None)

    def _log_model(self, record: Record) -> str:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        run = self._client.get_run(self._id)
        for earlier in self._models(run.info.experiment_id, record["name"]):
            # A resumed job comes to the same model once more.
            if earlier.status == LoggedModelStatus.READY:
                return f"models:/{earlier.model_id}"
            self._client.delete_logged_model(earlier.model_id)
        model = self._client.create_logged_model(
            run.info.experiment_id,
            record["name"],
            self._id,
            tags={NOTE_TAG: record["description"]},
            params=run.data.params,
        )
        try:
            with tempfile.TemporaryDirectory() as folder, _patient_uploads():
                _save_model(Path(folder) / "model", record, model, self._id)
                self._client.log_model_artifacts(model.model_id, f"{folder}/model")
            self._client.log_outputs(self._id, [LoggedModelOutput(model.model_id, step=0)])
            self._show_metrics(run, model.model_id)
            self._client.finalize_logged_model(model.model_id, "READY")
        except Exception:
            with suppress(Exception):
                self._client.delete_logged_model(model.model_id)
            raise
        return f"models:/{model.model_id}"

    def _models(self, experiment_id: str, name: str) -> "list[LoggedModel]":
        """The run's models of a name, those among them that never arrived whole."""
        mine = f"source_run_id = '{self._id}' AND name = '{name}'"
        return list(self._client.search_logged_models([experiment_id], mine))

    def _show_metrics(self, run: "Run", model_id: str) -> None:
        """Shows the run's test metrics on the model's page too, with the data they are of.

        The run keeps one value each.
        """
        from mlflow.entities import Metric

        histories = [
            self._client.get_metric_history(self._id, key)
            for key in run.data.metrics
            if key.startswith(TEST)
        ]
        about = {"model_id": model_id}
        for put in run.inputs.dataset_inputs if run.inputs else []:
            about |= {"dataset_name": put.dataset.name, "dataset_digest": put.dataset.digest}
        metrics = [
            Metric(last.key, last.value, last.timestamp, last.step, **about)
            for *_, last in histories
        ]
        for batch in _batches(metrics, _MAX_METRICS):
            self._client.log_batch(self._id, metrics=batch, synchronous=True)

    def _start_monitor(self) -> None:
        """Starts to log CPU, memory, disk, network and GPU from a thread."""
        if not self._watch_system:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with suppress(Exception):
            self._monitor = SystemMetricsMonitor(
                self._id,
                sampling_interval=_SAMPLING_SECONDS,
                samples_before_logging=_SAMPLES,
                resume_logging=not self._is_new,
                tracking_uri=self.uri,
            )
            self._monitor.start()

    def _terminate(self, record: Record) -> None:
        if self._monitor is not None:
            with suppress(Exception):
                self._monitor.finish()
            self._monitor = None
        # A job may be stopped before it has asked for a run.
        if self.run_id is not None:
            self._client.set_terminated(self._id, record["status"], record["time"])


def _outbox(run: _Run, run_dir: Path) -> Outbox:
    return Outbox(
        run_dir / UNSENT_FILE,
        server=f"MLflow at {shown(run.uri)}",
        deliver=run.deliver,
        answers=run.answers,
    )


def _save_model(path: Path, record: Record, model: "LoggedModel", run_id: str) -> None:
    from mlflow import pyfunc
    from mlflow.models import Model

    # Hints that whole numbers cannot be missing and that type hints could describe the input;
    # MLflow insists on showing the second, so that they are recorded and dropped.
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        pyfunc.save_model(
            path,
            python_model=record["code"],
            artifacts=record["artifacts"],
            signature=_signature(record),
            input_example=unpacked(record["input_example"]),
            pip_requirements=record["pip_requirements"],
            mlflow_model=Model(
                artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id
            ),
        )


def _signature(record: Record) -> "ModelSignature":
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import Schema

    def schema(columns: Mapping[str, str]) -> Schema:
        named = []
        for name, kind in columns.items():
            scalar = kind.removesuffix("[]")
            said = (
                {"type": kind} if scalar == kind else {"type": "array", "items": {"type": scalar}}
            )
            named.append({"name": name, **said, "required": False})
        return Schema.from_json(json.dumps(named))

    signature = ModelSignature(schema(record["inputs"]), schema(record["outputs"]))
    if record["params"]:
        signature.params = infer_signature(params=record["params"]).params
    return signature


@contextmanager
def _patient_uploads() -> Iterator[None]:
    """Lets MLflow wait long enough for a large file to arrive."""
    key = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[key]
    os.environ[key] = str(max(int(before), _UPLOAD_TIMEOUT_SECONDS))
    try:
        yield
    finally:
        os.environ[key] = before


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))
