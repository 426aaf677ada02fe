"""Whether a job begins, goes on, or has nothing left to do: `train.resume` and what is there."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mtrec.config import Config
from mtrec.errors import UserError
from mtrec.tracking import run_dir
from mtrec.tracking.mlflow_run import PENDING_RUN_ID, RUN_ID_FILE, UNSENT_FILE
from mtrec.tracking.whole import refuse_foreign, write_text

FINISHED = ".finished"
# What may differ between the command that began a job and the one that goes on with it.
PLACEMENT = ("table_placement", "shard_above_mib")
MAY_DIFFER = (
    *("cluster", "tracking", "train.resume", "data.cache_dir", "data.memory_budget_mib"),
    *(f"model.{name}" for name in PLACEMENT),
)


@dataclass(frozen=True)
class Job:
    """A job in its run directory.

    Attributes:
        config: The config it runs with.
        directory: The run directory.
        run_id: The MLflow run to take up, or None for a new one.
        finished: Whether there is nothing left to do.
        anew: Whether what an earlier job left is to go first; see `discard`.
    """

    config: Config
    directory: Path
    run_id: str | None
    finished: bool
    anew: bool = False


def directory_of(config: Config, directory: Path) -> Path:
    """The run directory that a command means.

    Args:
        config: The config of the command.
        directory: Hydra's run directory of the command.

    Raises:
        UserError: If `train.resume` is no run directory.
    """
    resume = config.train.resume
    if resume in ("auto", "never"):
        return directory
    if not run_dir.is_run(Path(resume)):
        raise UserError(
            f"train.resume must be auto, never or a run directory; got {resume}, which holds no "
            f"{run_dir.CONFIG} of a job."
        )
    return Path(resume).resolve()


def find_job(config: Config, directory: Path, overrides: Sequence[str]) -> Job:
    """The job that a command means.

    Args:
        config: The config of the command.
        directory: The run directory, see `directory_of`.
        overrides: What the command line overrode, such as `train.epochs=5`.

    Raises:
        UserError: If a job that has checkpoints was begun with another config, or the run directory
            holds files that no job wrote.
    """
    resume = config.train.resume
    another = resume not in ("auto", "never")
    if another and all(_may_differ(override.lstrip("+")) for override in overrides):
        config = _saved(config, directory)
    begun = run_dir.is_run(directory)
    if not begun and not run_dir.is_empty(directory):
        raise UserError(
            "hydra.run.dir must be a job's, or empty: a job writes and deletes there. "
            f"{directory} holds other files. Give another hydra.run.dir."
        )
    anew = resume == "never"
    found = Job(config=config, directory=directory, run_id=None, finished=False, anew=anew)
    if begun and not anew:
        found = _existing(config, directory)
    if not found.finished:
        for name, ours in run_dir.OURS.items():
            refuse_foreign(directory / name, ours)
    return found


def _existing(config: Config, directory: Path) -> Job:
    differing = next(_differences(config, directory), None)
    if differing is None:
        return Job(
            config=config,
            directory=directory,
            run_id=_run_id(directory),
            finished=_is_finished(directory),
        )
    if any((directory / run_dir.CHECKPOINTS).glob("step-*")):
        raise UserError(
            f"The job in {directory} must go on with the config it was begun with; "
            f"{differing}. Give that value, or train.resume=never to start anew there, or another "
            "hydra.run.dir."
        )
    return Job(config=config, directory=directory, run_id=None, finished=False)


def mark_finished(directory: Path) -> None:
    """Notes that the job has nothing left to do, and what it leaves."""
    left = [name for name in run_dir.OURS if (directory / name).is_dir()]
    write_text(directory / FINISHED, "".join(f"{name}\n" for name in left))


def _is_finished(directory: Path) -> bool:
    """Whether a job finished, and what it left is still there."""
    mark = directory / FINISHED
    return mark.exists() and all((directory / n).is_dir() for n in mark.read_text().splitlines())


def _saved(config: Config, directory: Path) -> Config:
    saved = run_dir.load_config(directory)
    return replace(
        saved,
        cluster=config.cluster,
        tracking=config.tracking,
        train=replace(saved.train, resume=config.train.resume),
        model=replace(saved.model, **{name: getattr(config.model, name) for name in PLACEMENT}),
    )


def _differences(config: Config, directory: Path) -> Iterator[str]:
    now = dict(_flat(asdict(config)))
    begun = dict(_flat(OmegaConf.to_container(OmegaConf.load(directory / run_dir.CONFIG))))
    # The topmost keys first: others may be interpolated from them.
    for key in sorted(now.keys() | begun.keys(), key=lambda key: (key.count("."), key)):
        there, here = begun.get(key, "nothing"), now.get(key, "nothing")
        if there != here and not _may_differ(key):
            yield f"{key} was {there} and is {here}"


def _may_differ(key: str) -> bool:
    return key.startswith(("hydra.", *MAY_DIFFER))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _run_id(directory: Path) -> str | None:
    file = directory / RUN_ID_FILE
    if not file.is_file():
        return None
    run_id = file.read_text("utf-8").strip()
    # A run that MLflow has not heard of waits among what is unsent, or was never made.
    if run_id == PENDING_RUN_ID and not (directory / UNSENT_FILE).is_file():
        return None
    return run_id or None


def discard(directory: Path) -> None:
    """Deletes what an earlier job left in the run directory, and nothing else."""
    (directory / FINISHED).unlink(missing_ok=True)
    for name in run_dir.OURS:
        shutil.rmtree(directory / name, ignore_errors=True)
    # The config last: where a job is killed half-way, the directory is still a job's.
    names = run_dir.METRICS, run_dir.WEIGHTS, run_dir.INFERRED, run_dir.DATA_PAGE, RUN_ID_FILE
    for name in (*names, run_dir.CONFIG):
        (directory / name).unlink(missing_ok=True)
