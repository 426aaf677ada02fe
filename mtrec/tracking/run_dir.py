"""The run directory: the names of what it holds, and its small files."""

import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtrec.config import Config
from mtrec.errors import UserError
from mtrec.tracking.outbox import first_line
from mtrec.tracking.targets import check_targets
from mtrec.tracking.whole import beside, write_text

CONFIG = "config.yaml"
INFERRED = "inferred.yaml"
METRICS = "metrics.json"
WEIGHTS = "answer.json"
MEASURED = "measured"
EVALUATION = "evaluation.json"
USERS = "evaluation_users.parquet"
CHECKPOINTS = "checkpoints"
INDEX = "index"
MODEL = "model"
DATA = "data"
DATA_PAGE = "data.html"
LOCK = ".lock"
# What a job writes into the directories of its run directory. Whatever else lies in one is not its
# own, and stays.
OURS = {
    CHECKPOINTS: (
        *("selected", "step-*/state.json", "step-*/weights*"),
        *(".step-*", ".selected.*", ".tables/*"),
    ),
    DATA: ("about.json", "split.json", "*.npy"),
    INDEX: ("manifest.json", "vectors.npy", "ids.*.npy", "scann/*.pb*", "scann/*.npy"),
    MEASURED: ("*.npz",),
    MODEL: (
        "saved_model.pb",
        "fingerprint.pb",
        "new_users.json",
        "variables/variables.*",
        "assets/*.txt",
    ),
}


def save_config(config: Config, directory: Path) -> None:
    """Writes the resolved config, from which the run can be rebuilt."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def is_run(directory: Path) -> bool:
    """Whether the `config.yaml` of a directory is one that a job wrote."""
    try:
        saved = OmegaConf.load(directory / CONFIG)
    except (OSError, YAMLError):
        return False
    return isinstance(saved, DictConfig) and {f.name for f in fields(Config)} <= set(saved)


def is_empty(directory: Path) -> bool:
    """Whether a job may begin in a directory: it is not there, or nothing is in it."""
    # A job that died while it wrote its config left these.
    left = beside(directory / CONFIG, "partial"), directory / LOCK
    return not directory.is_dir() or all(path in left for path in directory.iterdir())


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps other jobs out of a run directory until the end, whatever way this process ends.

    The system holds the lock, and lets go of it when a process is killed. A directory in which no
    job may begin is left as it is.

    Raises:
        UserError: If another job holds it.
    """
    if not (is_run(directory) or is_empty(directory)):
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"A run directory is of one job at a time, and another is at work in {directory}. "
                "Wait for its end, or give another hydra.run.dir."
            ) from error
        except OSError as error:  # some shared storage has no locks
            print(
                f"{directory} cannot be locked ({error.strerror}): start no second job there.",
                file=sys.stderr,
            )
        yield


def make(directory: Path, *, option: str) -> None:
    """Makes a directory, unless it is there.

    Raises:
        UserError: If it cannot be made; the message names the option.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{option} must be a directory that can be made; {directory} cannot "
            f"({error.strerror}). Set {option} to another."
        ) from error


def load_config(directory: Path, *, trusted: Sequence[str] = ()) -> Config:
    """Reads the config of a run directory.

    Args:
        directory: The run directory.
        trusted: The packages, beside mtrec, whose classes it may name.

    Raises:
        UserError: If it names any other, see `mtrec.tracking.targets`, or is none that a job wrote.
    """
    if not is_run(directory):
        raise UserError(
            f"{directory / CONFIG} must be as a job wrote it, and is not. "
            "Run the job again in another hydra.run.dir."
        )
    saved = cast(DictConfig, OmegaConf.load(directory / CONFIG))
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), saved)
        # What an interpolation makes of a text may name something too.
        values = OmegaConf.to_container(typed, resolve=True)
        check_targets(values, source=directory / CONFIG, trusted=trusted)
        return cast(Config, OmegaConf.to_object(typed))
    except (OmegaConfBaseException, TypeError) as error:
        raise UserError(
            f"{directory / CONFIG} must be as a job wrote it, and is not: {first_line(error)}. "
            "Run the job again in another hydra.run.dir."
        ) from error


def save_metrics(metrics: dict[str, float], directory: Path) -> None:
    """Writes the flat metrics of the run."""
    write_text(directory / METRICS, json.dumps(metrics, indent=2, sort_keys=True) + "\n")


def load_metrics(directory: Path) -> dict[str, float]:
    """Reads the flat metrics of a finished run."""
    return cast(dict[str, float], json.loads((directory / METRICS).read_text()))
