"""What a job calls to tell MLflow about itself; it knows records and files, not MLflow."""

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from mtrec.tracking.notes import NOTE_TAG
from mtrec.tracking.outbox import Outbox, Record
from mtrec.tracking.records import (
    dataset_record,
    flatten,
    metrics_record,
    milliseconds,
    summary_name,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mtrec.data.dataset import Dataset


@final
class Tracker:
    """The MLflow run of one job; made by `mtrec.tracking.mlflow_run.tracker`.

    None of its methods fails because of MLflow; see `Outbox` for what happens instead.

    Attributes:
        run_dir: The job's run directory.
    """

    def __init__(self, *, outbox: Outbox, run_dir: Path, anew: bool) -> None:
        self.run_dir = run_dir
        self._outbox = outbox
        self._anew = anew

    @property
    def unsent(self) -> int:
        """Number of records that MLflow has not received."""
        return len(self._outbox.records)

    def begin(
        self,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """Makes the run, or takes up an earlier one.

        Args:
            experiment: The MLflow experiment, created where it does not exist.
            run_name: What the run is called in the UI.
            params: The config. Nested keys are joined by dots and lists written as JSON. Parameters
                that the run already has are left as they are.
            tags: Further tags of a new run.

        Raises:
            UserError: If the experiment was deleted in MLflow.
        """
        if self._anew:
            about = {"experiment": experiment, "name": run_name, "tags": dict(tags)}
            self._outbox.send({"kind": "run", "time": milliseconds(), **about})
        else:
            self._outbox.send({"kind": "resume"})
        self._outbox.send({"kind": "params", "params": flatten(params)})

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Logs values of metrics at one step; those that are not finite are left out.

        A metric that already has a value at this step keeps it, so that a resumed job may repeat
        steps. Telemetry is named with dots, see `records.shown_name`; characters that MLflow does
        not allow in a name become `_`.
        """
        self._outbox.send(metrics_record(metrics, step=step))

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Logs what has one value a run, such as baselines, by names with dots for slashes."""
        self.log_metrics({summary_name(key): value for key, value in metrics.items()}, step=0)

    def log_dataset(self, dataset: "Dataset", *, split_counts: Mapping[str, int]) -> None:
        """Logs which data the run used, and the number of interactions in each split."""
        self._outbox.send(dataset_record(dataset, split_counts=split_counts))

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Writes `figures/<name>.png` into the run directory and logs it."""
        path = self.run_dir / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        self.log_file(path, "figures")

    def log_text(self, text: str, name: str) -> None:
        """Writes `text` to the file `name` in the run directory and logs it under that name."""
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.log_file(path, posixpath.dirname(name))

    def log_file(self, path: Path, artifact_dir: str) -> None:
        """Logs a file, or all that a folder holds, as artifacts.

        Args:
            path: The file or folder. It must stay where it is until the run is finished.
            artifact_dir: The folder among the run's artifacts, `""` for the top.
        """
        record = {"kind": "artifact", "path": str(path.resolve()), "dir": artifact_dir}
        self._outbox.send(record)

    def log_model(self, record: Record) -> str | None:
        """Logs a model, see `records.model_record`.

        Returns:
            The model's address (`models:/...`), or None if it could not be sent at once.
        """
        address: str | None = self._outbox.send(record)
        return address

    def set_note(self, text: str) -> None:
        """Sets the description that the UI shows on the run's page, in Markdown."""
        self._outbox.send({"kind": "tags", "tags": {NOTE_TAG: text}})

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Ends the run, with one more try to send everything that waits."""
        self._outbox.finish({"kind": "status", "status": status, "time": milliseconds()})
