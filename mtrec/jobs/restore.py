"""A trained run, read back from its directory."""

import json
from collections.abc import Sequence
from pathlib import Path

from mtrec.config import Config
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split
from mtrec.distributed.sharded_tables import left_on_disk
from mtrec.jobs import build
from mtrec.serving.run import Run
from mtrec.tracking import run_data
from mtrec.tracking.run_dir import CHECKPOINTS, WEIGHTS, load_config
from mtrec.training.checkpoint import read_selected


def restore_run(config: Config, dataset: Dataset, parts: Split, directory: Path) -> Run:
    """The run with the model that training selected; tables that were sharded stay on disk."""
    dataset = build.data(config, dataset)
    with left_on_disk():
        model = build.model(config, dataset, parts.fit)
    read_selected(directory / CHECKPOINTS, model=model.weights)
    answer = build.answer(config)
    if (directory / WEIGHTS).is_file():
        answer = answer.weighted(json.loads((directory / WEIGHTS).read_text()))
    return Run(directory=directory, dataset=dataset, parts=parts, model=model, answer=answer)


def load_run(directory: Path, *, trusted: Sequence[str] = ()) -> Run:
    """The run of a directory, from what lies in it alone.

    Args:
        directory: The run directory.
        trusted: The packages, beside mtrec, whose classes its config may name.

    Raises:
        UserError: If its config names any other, or what the run needs is missing or damaged.
    """
    config = load_config(directory, trusted=trusted)
    return restore_run(config, *run_data.read(directory), directory)
