"""Checkpoints: whole or not there, and never unpickled."""

import json
import os
import shutil
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
    """The checkpoints of one run, a directory `epoch-<n>` each.

    A checkpoint is written beside its place and renamed, so that one cut off half-way is never
    taken for a good one.

    Args:
        directory: The run's `checkpoints/`.
        parts: The variables to save, such as those of the model and of each optimizer, by name.
    """

    def __init__(self, directory: Path, parts: Mapping[str, Sequence[keras.Variable]]) -> None:
        self.directory = directory
        self._checkpoint = _checkpoint(parts)

    def path(self, epoch: int) -> Path:
        """Where the checkpoint after `epoch` epochs lives."""
        return self.directory / f"epoch-{epoch:04d}"

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Writes all parts, and `state` as JSON."""
        aside = self.directory / f".epoch-{epoch:04d}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._checkpoint.write(str(aside / WEIGHTS))
        (aside / STATE).write_text(json.dumps(state))
        shutil.rmtree(self.path(epoch), ignore_errors=True)
        os.replace(aside, self.path(epoch))

    def restore(self, epoch: int) -> dict[str, Any]:
        """Reads all parts back and returns the state saved with them."""
        self._checkpoint.read(str(self.path(epoch) / WEIGHTS)).assert_consumed()
        return json.loads((self.path(epoch) / STATE).read_text())

    def select(self, epoch: int) -> None:
        """Makes the checkpoint of `epoch` the one that later stages read."""
        aside = self.directory / f".{SELECTED}.partial"
        aside.write_text(self.path(epoch).name + "\n")
        os.replace(aside, self.directory / SELECTED)

    def keep_only(self, epochs: set[int]) -> None:
        """Deletes the checkpoints of all other epochs."""
        keep = {self.path(epoch) for epoch in epochs}
        for path in self.directory.glob("epoch-*"):
            if path not in keep:
                shutil.rmtree(path)


def _checkpoint(parts: Mapping[str, Sequence[keras.Variable]]) -> tf.train.Checkpoint:
    # TensorFlow does not find variables below the dictionaries of a Keras layer, and says nothing:
    # name each one. Order and name identify it, since Keras numbers layers within a process.
    named = {
        part: {f"{place}_{v.name}": v.value for place, v in enumerate(variables)}
        for part, variables in parts.items()
    }
    return tf.train.Checkpoint(**named)


def read_selected(directory: Path, **parts: Sequence[keras.Variable]) -> None:
    """Reads some parts, such as the model alone, from the selected checkpoint.

    Raises:
        UserError: If training has not selected a checkpoint in `directory`.
    """
    if not (directory / SELECTED).is_file():
        raise UserError(
            f"{directory} must hold a selected checkpoint, and holds none: training did not "
            "finish there. Run the job again."
        )
    path = directory / (directory / SELECTED).read_text().strip() / WEIGHTS
    status = _checkpoint(parts).read(str(path))
    status.assert_existing_objects_matched().expect_partial()
