"""The jobs of a sweep in a table as they end, and the command of the best at its end."""

import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from mtrec.errors import UserError
from mtrec.libraries import called

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


class _Done(NamedTuple):
    """A job that ended."""

    overrides: list[str]
    metric: str | None
    value: float | None
    failed: bool
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
        """Prints the table, this job in it; what is wrong with it does not end the others."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        mistake = job_return._return_value if job_return.status == JobStatus.FAILED else None
        if isinstance(mistake, UserError):
            print(f"error: {mistake}", file=sys.stderr)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        elif mistake:
            return  # a defect, which Hydra raises after the last job
        value = job_return.return_value
        self._done.append(
            _Done(
                overrides=list(job_return.overrides or []),
                metric=config.train.select_by if "train" in config else None,
                value=value if isinstance(value, float) else None,
                failed=mistake is not None,
                seconds=time.monotonic() - self._began,
            )
        )
        self._print()

    def on_multirun_end(self, config: "DictConfig", **kwargs: Any) -> None:
        """Prints the best job by each metric that jobs were selected by, and its command.

        Where jobs failed, the process ends with status 1.
        """
        from mtrec.heads.metrics import better
        from mtrec.jobs.command import fail

        best: dict[str, _Done] = {}
        for job in self._done:
            if job.metric is None or job.value is None:
                continue
            before = best.get(job.metric)
            if before is None or better(job.metric, job.value, before.value or 0.0):
                best[job.metric] = job
        for metric, job in best.items():
            command = f"{called('launch')} {shlex.join([*job.overrides, 'hydra.mode=RUN'])}"
            print(f"best {metric} of {len(self._done)} jobs: {job.value:.4f} with\n  {command}")
        if failed := [str(n) for n, job in enumerate(self._done) if job.failed]:
            fail(
                f"every job of a sweep must end well; {len(failed)} of {len(self._done)} did not. "
                f"Heed what was said of {', '.join(failed)}."
            )

    def _print(self) -> None:
        from rich.table import Table

        from mtrec.jobs.command import console

        # What all of them have tells none from the others.
        common = set.intersection(*(set(job.overrides) for job in self._done))
        table = Table("job", "overrides", "selected by", "value", "s", box=None)
        for number, job in enumerate(self._done):
            own = [o for o in job.overrides if o not in common] or job.overrides
            value = "" if job.value is None else f"{job.value:.4f}"
            value = "failed" if job.failed else value
            table.add_row(str(number), " ".join(own), job.metric or "", value, f"{job.seconds:.0f}")
        console().print(table)
