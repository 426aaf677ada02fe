"""The data of a run, kept in its directory: what the model was trained on is what it serves.

Later stages read nothing else, so that files that have changed since, or are gone, change nothing.
"""

import json
from pathlib import Path

import numpy as np

from mtrec.data.cache import digest_of, mapped, read_columns, read_digest, write_columns
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.tracking.run_dir import CHECKPOINTS, DATA, OURS
from mtrec.tracking.whole import replacing

SPLIT = "split.json"
PARTS = ("fit", "validation", "test")


def keep(dataset: Dataset, parts: Split, directory: Path) -> None:
    """Writes a job's data into its run directory `data/`; a job with checkpoints must have it.

    All columns and the row numbers of each part are `.npy` files, as large as the data is in
    memory, beside two JSON files that describe them.

    Raises:
        UserError: If the job has checkpoints, and was begun with other data or another split.
    """
    place = directory / DATA
    kept, now = _digests(place), (dataset.digest, _digest(parts))
    if kept == now:
        return
    if any((directory / CHECKPOINTS).glob("step-*")):
        remedy = (
            "Put the data back as it was, or give train.resume=never to start anew there, or "
            "another hydra.run.dir."
        )
        if kept is None:
            raise UserError(f"{place} must hold the data of its job, and does not. {remedy}")
        what, then, here = (
            ("digest of its data", kept[0], now[0])
            if kept[0] != now[0]
            else ("digest of its split", kept[1], now[1])
        )
        raise UserError(
            f"The job in {directory} must go on with the data it was begun with, from "
            f"{dataset.source}; the {what} was {then:.12} and is {here:.12}. {remedy}"
        )
    with replacing(place, OURS[DATA]) as aside:
        write_columns(dataset, aside)
        for name in PARTS:
            np.save(aside / f"{name}.npy", getattr(parts, name), allow_pickle=False)
        (aside / SPLIT).write_text(json.dumps({"digest": now[1]}) + "\n")


def read(directory: Path) -> tuple[Dataset, Split]:
    """The data and the split that a run directory holds; their columns are memory-mapped.

    Raises:
        UserError: If they are not there, or damaged.
    """
    place = directory / DATA
    dataset, parts = read_columns(place), _read_parts(place)
    if dataset is None or parts is None:
        raise UserError(
            f"{place} must hold the data that the run was trained on, and is missing or damaged. "
            "Run the job again in another hydra.run.dir."
        )
    return dataset, parts


def _read_parts(place: Path) -> Split | None:
    try:
        rows = {name: mapped(place / f"{name}.npy") for name in PARTS}
    except (OSError, EOFError, ValueError):
        return None
    parts, digests = Split(**rows), _digests(place)
    return parts if digests and digests[1] == _digest(parts) else None


def _digest(parts: Split) -> str:
    return digest_of(parts={name: getattr(parts, name) for name in PARTS})


def _digests(place: Path) -> tuple[str, str] | None:
    """What the data and its split are said to be; None where they are not there."""
    data = read_digest(place)
    try:
        split = json.loads((place / SPLIT).read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if data is None else (data, split)
