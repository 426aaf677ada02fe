"""What heads measured on held-out users: arrays named `<head>/<name>`, joined and kept.

The run directory's `measured/` has a file for each split of each worker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

Measured: TypeAlias = dict[str, np.ndarray]


def joined(parts: Sequence[Measured]) -> Measured:
    """What was measured of all users, from that of consecutive ones; of no users it is empty."""
    found = [part for part in parts if part]
    names = found[0] if found else {}
    return {name: np.concatenate([part[name] for part in found]) for name in names}


def of_head(measured: Measured, head: str) -> dict[str, np.ndarray]:
    """What `head` measured, by its own names."""
    return {
        name.removeprefix(f"{head}/"): values
        for name, values in measured.items()
        if name.startswith(f"{head}/")
    }


def clear(directory: Path) -> None:
    """Makes the directory, without what was written there before."""
    directory.mkdir(exist_ok=True)
    for path in directory.glob("*.npz"):
        path.unlink()


def save(found: Measured, directory: Path, *, split: str, worker: int) -> None:
    """Writes what a worker measured of a split; the users of workers are in their order."""
    np.savez(directory / f"{split}-{worker:06d}.npz", **found)  # type: ignore[arg-type]


def load(directory: Path) -> dict[str, Measured]:
    """Reads what all workers measured of each split."""
    parts: dict[str, list[Measured]] = {}
    for path in sorted(directory.glob("*.npz")):
        with np.load(path) as arrays:
            parts.setdefault(path.stem.split("-")[0], []).append(dict(arrays))
    return {split: joined(each) for split, each in parts.items()}
