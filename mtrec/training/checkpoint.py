"""Checkpoints: whole or not there, and never unpickled."""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from mtrec.distributed import heartbeat
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.errors import UserError
from mtrec.tracking.whole import beside, foreign, replacing, write_text

STATE = "state.json"
WEIGHTS = "weights"
SELECTED = "selected"
# What a checkpoint is made of.
FILES = (STATE, f"{WEIGHTS}*")

Parts: TypeAlias = Mapping[str, Sequence[keras.Variable]]


class Checkpoints:
    """The checkpoints of one job, a directory `step-<n>` each.

    A checkpoint is written beside its place and renamed, and carries the SHA-256 of its files, so
    that one cut off half-way or damaged later is never taken for a good one.

    Args:
        directory: The run's `checkpoints/`.
        parts: The variables to save, such as those of the model and of each optimizer, by name.
            Sharded ones are saved whole, so that any number of replicas can read them.
    """

    def __init__(self, directory: Path, parts: Parts) -> None:
        self.directory = directory
        self._parts = parts

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables that are saved."""
        return [variable for group in self._parts.values() for variable in group]

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lives."""
        return self.directory / f"step-{step:08d}"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes all variables, and `state` as JSON.

        Raises:
            UserError: If what it would replace holds files of somebody else.
        """
        values = {id(v): v.numpy() for v in _sharded(self._parts)}
        with replacing(self.path(step), FILES) as aside:
            _checkpoint(self._parts, _on_host(values)).write(str(aside / WEIGHTS))
            content = {"state": state, "files": _digests(aside)}
            (aside / STATE).write_text(json.dumps(content))
        heartbeat.beat()

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
            "finish there. Run the job again."
        )
    path = directory / (directory / SELECTED).read_text().strip()
    if _whole(path) is None:
        raise UserError(f"The selected checkpoint {path} is damaged. Run the job again.")
    _read(path, parts).assert_existing_objects_matched().expect_partial()


def is_selected(directory: Path) -> bool:
    """Whether training finished and selected a checkpoint in `directory`."""
    return (directory / SELECTED).is_file()


def _read(path: Path, parts: Parts) -> Any:
    """Reads a checkpoint into `parts`; returns TensorFlow's account of what it found."""
    whole = _on_host({id(v): np.zeros(v.shape, np.float32) for v in _sharded(parts)})
    status = _checkpoint(parts, whole).read(str(path / WEIGHTS))
    for variable in _sharded(parts):
        variable.assign(whole[id(variable)].numpy())
    return status


def _checkpoint(parts: Parts, whole: Mapping[int, tf.Variable]) -> tf.train.Checkpoint:
    # TensorFlow does not find variables below the dictionaries of a Keras layer, and says nothing:
    # name each one. Order and name identify it, since Keras numbers layers within a process.
    named = {
        part: {f"{place}_{v.name}": whole.get(id(v), v.value) for place, v in enumerate(variables)}
        for part, variables in parts.items()
    }
    return tf.train.Checkpoint(**named)


def _on_host(values: Mapping[int, np.ndarray]) -> dict[int, tf.Variable]:
    """What stands in a checkpoint for each sharded variable, by the latter's `id`."""
    with tf.device("CPU:0"):
        return {key: tf.Variable(whole) for key, whole in values.items()}


def _sharded(parts: Parts) -> list[ShardedVariable]:
    return [v for group in parts.values() for v in group if isinstance(v, ShardedVariable)]


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
    digests = {}
    for path in sorted(directory.glob(f"{WEIGHTS}*")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((path / STATE).read_text())
    except (OSError, ValueError):
        return None
    return content["state"] if content.get("files") == _digests(path) else None
