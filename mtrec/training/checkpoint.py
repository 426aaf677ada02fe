"""Checkpoints: whole or not there, and never unpickled.

Tables and their slots are files of rows, which each worker writes and reads for its own replicas;
see `mtrec.distributed.row_files`. Everything else the chief writes as a TensorFlow checkpoint.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf

from mtrec.distributed import heartbeat, row_files
from mtrec.distributed.row_files import RowFiles
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import from_chief, from_workers, is_chief
from mtrec.distributed.tables import TABLE
from mtrec.errors import UserError
from mtrec.tracking.whole import beside, foreign, replacing, write_text

STATE = "state.json"
WEIGHTS = "weights"
# The part whose variables are the optimizer's of tables.
TABLES = "tables"
SELECTED = "selected"
# Where sharded tables are read from while they are judged.
READABLE = ".tables"
# What a checkpoint is made of.
FILES = (STATE, f"{WEIGHTS}*")

Parts: TypeAlias = Mapping[str, Sequence[keras.Variable]]


class Checkpoints:
    """The checkpoints of one job, a directory `step-<n>` each.

    A checkpoint is written beside its place and renamed, and carries the SHA-256 of its files, so
    that one cut off half-way or damaged later is never taken for a good one.

    Args:
        directory: The run's `checkpoints/`, where all workers can write and read.
        parts: The variables to save, such as those of the model and of each optimizer, by name.
            Any number of replicas can read them.
        strategy: Where the replicas are; null for this process alone.
    """

    def __init__(
        self, directory: Path, parts: Parts, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self.directory = directory
        self._parts = parts
        self._strategy = strategy or tf.distribute.get_strategy()

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lives."""
        return self.directory / f"step-{step:08d}"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes all variables, and `state` as JSON; all workers call this.

        Raises:
            UserError: If what it would replace holds files of somebody else.
        """
        strategy = self._strategy
        with ExitStack() as stack:
            replaced = replacing(self.path(step), FILES)
            aside = Path(from_chief(strategy, lambda: str(stack.enter_context(replaced))))
            written = from_workers(strategy, lambda: self._written(aside))
            if is_chief(strategy):
                digests = {
                    name: digest.tobytes().hex()
                    for part in written
                    for name, digest in part.items()
                }
                (aside / STATE).write_text(json.dumps({"state": state, "files": digests}))
        heartbeat.beat()

    def _written(self, directory: Path) -> dict[str, np.ndarray]:
        """Writes what this worker has to, and returns the digest of each file."""
        paths = []
        for name, variable in _of_rows(self._parts):
            if isinstance(variable, ShardedVariable):
                paths += variable.write(directory, name)
            elif is_chief(self._strategy):
                rows = {"rows": variable.shape[0], "replica": 0, "replicas": 1}
                paths.append(row_files.write(_copies(variable)[0], directory, name, **rows))
        if is_chief(self._strategy):
            _checkpoint(self._parts).write(str(directory / WEIGHTS))
            paths += [path for path in directory.glob(f"{WEIGHTS}*") if path.suffix != ".npy"]
        return {path.name: np.frombuffer(_digest(path), np.uint8) for path in paths}

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the latest checkpoint that is whole, or None where none is there.

        One that is damaged is skipped for the one before, with a warning.

        Raises:
            UserError: If all of them are damaged.
        """
        steps = _steps(self.directory)
        for path in reversed(steps):
            state = _whole(path)
            if state is not None:
                return int(path.name.removeprefix("step-")), state
            if path != steps[0]:
                warnings.warn(f"{path} is damaged; going back to the one before.", stacklevel=2)
        if steps:
            raise UserError(
                f"{self.directory} must hold a whole checkpoint to go on from; all {len(steps)} "
                f"there are damaged. Put one back, or remove {self.directory} to start anew."
            )
        return None

    def restore(self, step: int) -> None:
        """Reads all variables from the checkpoint after `step` steps."""
        _read(self.path(step), self._parts).assert_consumed()
        heartbeat.beat()

    def select(self, step: int) -> None:
        """Makes the checkpoint of `step` the one that later stages read."""
        write_text(self.directory / SELECTED, self.path(step).name + "\n")

    def prune(self, *, keep: int, latest: int) -> None:
        """Deletes all checkpoints but that of step `keep` and the `latest` ones.

        One in which somebody put files of their own stays.
        """
        for path in _steps(self.directory)[:-latest]:
            if path != self.path(keep) and not foreign(path, FILES):
                _delete(path)


def read_selected(directory: Path, **parts: Sequence[keras.Variable]) -> None:
    """Reads some parts, such as the model alone, from the selected checkpoint.

    Raises:
        UserError: If training has not selected a checkpoint in `directory`, or it is damaged.
    """
    if not is_selected(directory):
        raise UserError(
            f"{directory} must hold a selected checkpoint, and holds none: training did not "
            "finish there. Run the job again in another hydra.run.dir."
        )
    path = directory / (directory / SELECTED).read_text().strip()
    if _whole(path) is None:
        raise UserError(
            f"The selected checkpoint {path} is damaged. Run the job again in another "
            "hydra.run.dir."
        )
    _read(path, parts).assert_existing_objects_matched().expect_partial()


def is_selected(directory: Path) -> bool:
    """Whether training finished and selected a checkpoint in `directory`."""
    return (directory / SELECTED).is_file()


def _read(path: Path, parts: Parts) -> Any:
    """Reads a checkpoint into `parts`; returns TensorFlow's account of what it found."""
    status = _checkpoint(parts).read(str(path / WEIGHTS))
    for name, variable in _of_rows(parts):
        files = RowFiles(path, name)
        if files.shape != tuple(variable.shape):
            raise AssertionError(f"{name} of {path} is {files.shape}, not {tuple(variable.shape)}")
        if isinstance(variable, ShardedVariable):
            variable.read(files)
        else:
            for copy in _copies(variable):
                row_files.read(copy, files, replica=0, replicas=1)
    return status


def _checkpoint(parts: Parts) -> tf.train.Checkpoint:
    # TensorFlow does not find variables below the dictionaries of a Keras layer, and says nothing:
    # name each one. Order and name identify it, since Keras numbers layers within a process.
    named = {
        part: {
            f"{place}_{v.name}": v.value
            for place, v in enumerate(variables)
            if not _is_of_rows(part, v)
        }
        for part, variables in parts.items()
    }
    return tf.train.Checkpoint(**named)


def _is_of_rows(part: str, variable: keras.Variable) -> bool:
    """Whether it is a table or a slot of one."""
    return variable.name == TABLE or (part == TABLES and len(variable.shape) > 0)


def _of_rows(parts: Parts) -> Iterator[tuple[str, keras.Variable]]:
    """The tables and their slots, by the names of their files."""
    for part, variables in parts.items():
        for place, variable in enumerate(variables):
            if _is_of_rows(part, variable):
                yield f"{WEIGHTS}.{part}.{place}_{variable.name}", variable


def _copies(variable: keras.Variable) -> Sequence[tf.Variable]:
    """A replicated variable on each device of this process."""
    return cast(Sequence[tf.Variable], getattr(variable.value, "values", [variable.value]))


def _steps(directory: Path) -> list[Path]:
    """The checkpoints in a directory, the earliest first."""
    return [p for p in sorted(directory.glob("step-*")) if re.fullmatch(r"step-\d+", p.name)]


def _delete(path: Path) -> None:
    """Deletes a checkpoint, so that one deleted half-way does not look damaged."""
    aside = beside(path, "deleted")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: _digest(path).hex() for path in directory.glob(f"{WEIGHTS}*")}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((path / STATE).read_text())
    except (OSError, ValueError):
        return None
    return content["state"] if content.get("files") == _digests(path) else None
