"""What heads measured on held-out users: arrays named `<head>/<name>`, joined and kept.

The run directory's `measured/` has a file for each split.
"""

from collections.abc import Mapping, Sequence
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


def save(measured: Mapping[str, Measured], directory: Path) -> None:
    """Writes what was measured of each split."""
    directory.mkdir(exist_ok=True)
    for split, arrays in measured.items():
        np.savez(directory / f"{split}.npz", **arrays)  # type: ignore[arg-type]


def load(directory: Path) -> dict[str, Measured]:
    """Reads what was measured of each split."""
    measured = {}
    for path in directory.glob("*.npz"):
        with np.load(path) as arrays:
            measured[path.stem] = dict(arrays)
    return measured
