"""Checkpoints: whole or not there, and never unpickled."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtrec.errors import UserError

STATE = "state.json"
WEIGHTS = "weights"
SELECTED = "selected"


class Checkpoints:
    """The checkpoints of one job, a directory `step-<n>` each.

    A checkpoint is written beside its place and renamed, and carries the SHA-256 of its files, so
    that one cut off half-way or damaged later is never taken for a good one.

    Args:
        directory: The run's `checkpoints/`.
        parts: The variables to save, such as those of the model and of each optimizer, by name.
    """

    def __init__(self, directory: Path, parts: Mapping[str, Sequence[keras.Variable]]) -> None:
        self.directory = directory
        self._checkpoint = _checkpoint(parts)

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lives."""
        return self.directory / f"step-{step:08d}"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes all variables, and `state` as JSON."""
        aside = self.directory / f".step-{step:08d}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._checkpoint.write(str(aside / WEIGHTS))
        content = {"state": state, "files": _digests(aside)}
        (aside / STATE).write_text(json.dumps(content))
        _delete(self.path(step))
        os.replace(aside, self.path(step))

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the latest checkpoint that is whole, or None.

        One that is damaged is skipped for the one before, with a warning.
        """
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            state = _whole(path)
            if state is not None:
                return int(path.name.removeprefix("step-")), state
            warnings.warn(f"{path} is damaged; going back to the one before.", stacklevel=2)
        return None

    def restore(self, step: int) -> None:
        """Reads all variables from the checkpoint after `step` steps."""
        self._checkpoint.read(str(self.path(step) / WEIGHTS)).assert_consumed()

    def select(self, step: int) -> None:
        """Makes the checkpoint of `step` the one that later stages read."""
        aside = self.directory / f".{SELECTED}.partial"
        aside.write_text(self.path(step).name + "\n")
        os.replace(aside, self.directory / SELECTED)

    def prune(self, *, keep: int, latest: int) -> None:
        """Deletes all checkpoints but that of step `keep` and the `latest` ones."""
        paths = sorted(self.directory.glob("step-*"))
        for path in paths[:-latest]:
            if path != self.path(keep):
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
    status = _checkpoint(parts).read(str(path / WEIGHTS))
    status.assert_existing_objects_matched().expect_partial()


def is_selected(directory: Path) -> bool:
    """Whether training finished and selected a checkpoint in `directory`."""
    return (directory / SELECTED).is_file()


def _checkpoint(parts: Mapping[str, Sequence[keras.Variable]]) -> tf.train.Checkpoint:
    # TensorFlow does not find variables below the dictionaries of a Keras layer, and says nothing:
    # name each one. Order and name identify it, since Keras numbers layers within a process.
    named = {
        part: {f"{place}_{v.name}": v.value for place, v in enumerate(variables)}
        for part, variables in parts.items()
    }
    return tf.train.Checkpoint(**named)


def _delete(path: Path) -> None:
    """Deletes a checkpoint, so that one deleted half-way does not look damaged."""
    if path.exists():
        aside = path.with_name(f".{path.name}.deleted")
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
