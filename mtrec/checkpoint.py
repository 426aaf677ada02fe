"""Checkpoints: whole or not there, and never unpickled."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

STATE = "state.json"


class Checkpoints:
    """The checkpoints of one run, a directory `epoch-<n>` each.

    A checkpoint is written beside its place and renamed, so that one cut off half-way is never
    taken for a good one.

    Args:
        directory: The run's `checkpoints/`.
        parts: What to save, by name: model, optimizers, balancer.
    """

    def __init__(self, directory: Path, parts: Mapping[str, Any]) -> None:
        self.directory = directory
        self._checkpoint = tf.train.Checkpoint(**parts)

    def path(self, epoch: int) -> Path:
        """Where the checkpoint after `epoch` epochs lives."""
        return self.directory / f"epoch-{epoch:04d}"

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Writes all parts, and `state` as JSON."""
        aside = self.directory / f".epoch-{epoch:04d}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._checkpoint.write(str(aside / "weights"))
        (aside / STATE).write_text(json.dumps(state))
        shutil.rmtree(self.path(epoch), ignore_errors=True)
        os.replace(aside, self.path(epoch))

    def restore(self, epoch: int) -> dict[str, Any]:
        """Reads all parts back and returns the state saved with them."""
        self._checkpoint.read(str(self.path(epoch) / "weights")).assert_consumed()
        return json.loads((self.path(epoch) / STATE).read_text())

    def keep_only(self, epochs: set[int]) -> None:
        """Deletes the checkpoints of all other epochs."""
        keep = {self.path(epoch) for epoch in epochs}
        for path in self.directory.glob("epoch-*"):
            if path not in keep:
                shutil.rmtree(path)
