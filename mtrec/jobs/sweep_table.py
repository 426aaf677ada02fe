"""The jobs of a sweep in a table as they end, and the command of the best at its end."""

import shlex
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


class _Done(NamedTuple):
    """A job that ended."""

    overrides: list[str]
    metric: str | None
    value: float | None
    seconds: float


class SweepTable(Callback):
    """Prints after each job of a sweep those that ended; Hydra calls it."""

    def __init__(self) -> None:
        self._done: list[_Done] = []
        self._began = 0.0

    def on_job_start(self, config: "DictConfig", **kwargs: Any) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def on_job_end(self, config: "DictConfig", job_return: "JobReturn", **kwargs: Any) -> None:
        """Prints the table, this job in it."""
        if config.hydra.mode != RunMode.MULTIRUN or job_return.status != JobStatus.COMPLETED:
            return
        value = job_return.return_value
        self._done.append(
            _Done(
                overrides=list(job_return.overrides or []),
                metric=config.train.select_by if "train" in config else None,
                value=value if isinstance(value, float) else None,
                seconds=time.monotonic() - self._began,
            )
        )
        self._print()

    def on_multirun_end(self, config: "DictConfig", **kwargs: Any) -> None:
        """Prints the best job by each metric that jobs were selected by, and its command."""
        from mtrec.heads.metrics import better

        best: dict[str, _Done] = {}
        for job in self._done:
            if job.metric is None or job.value is None:
                continue
            before = best.get(job.metric)
            if before is None or better(job.metric, job.value, before.value or 0.0):
                best[job.metric] = job
        for metric, job in best.items():
            command = shlex.join(["mtrec", "launch", *job.overrides, "hydra.mode=RUN"])
            print(f"best {metric} of {len(self._done)} jobs: {job.value:.4f} with\n  {command}")

    def _print(self) -> None:
        from rich.table import Table

        from mtrec.jobs.command import console

        # What all of them have tells none from the others.
        common = set.intersection(*(set(job.overrides) for job in self._done))
        table = Table("job", "overrides", "selected by", "value", "s", box=None)
        for number, job in enumerate(self._done):
            own = [o for o in job.overrides if o not in common] or job.overrides
            value = "" if job.value is None else f"{job.value:.4f}"
            table.add_row(str(number), " ".join(own), job.metric or "", value, f"{job.seconds:.0f}")
        console().print(table)
