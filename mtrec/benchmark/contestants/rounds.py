"""How a contestant is asked: a line comes in, it plays a round, and a line of JSON goes out.

Contestants run in environments of their own, which may lack mtrec: this imports NumPy and the
standard library alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Width of all vectors.
DIM = 64
# What is searched for.
K = 10


def options() -> dict[str, Any]:
    """What the contestant was started with."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def answer(play: Callable[[], Mapping[str, Any]], **about: Any) -> None:
    """Says that the contestant is ready, and plays a round for each line that comes in.

    Args:
        play: Plays a round; returns its number of `units` and what was found, with `cpu` and `wall`
            in seconds where they are not those of the round as a whole.
        about: What to say of the contestant, such as the `device` it computes on.
    """
    sys.stdout.flush()
    # Libraries print as they please; the lines of JSON have the way out to themselves.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    tell(**about)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        found = play()
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        tell(**spent | dict(found))


def tables(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the vectors of users and of items are at the start, `[rows + 1, D]` each."""
    rng = np.random.default_rng(seed)
    users, items = (
        rng.standard_normal((rows + 1, DIM), dtype=np.float32) * np.float32(0.1) for _ in "ui"
    )
    return users, items


class Steps:
    """What `mtrec.benchmark.arrays.write_steps` wrote.

    Attributes:
        users: The users' table at the start, `[rows + 1, D]`.
        items: The items' table.
        mean: The mean rating.
        batches: The arrays of each step by name, without its number.
    """

    def __init__(self, folder: str) -> None:
        with np.load(Path(folder) / "log.npz") as log:
            self.mean = float(log["rating"].mean(dtype=np.float64))
            self.users, self.items = tables(int(log["users"]), int(log["seed"]))
        with np.load(Path(folder) / "steps.npz") as found:
            self.batches: list[dict[str, np.ndarray]] = []
            for name in found.files:
                array, _, step = name.rpartition("_")
                while len(self.batches) <= int(step):
                    self.batches.append({})
                self.batches[int(step)][array] = found[name]

    @property
    def rows(self) -> int:
        """Rows of all batches together."""
        return sum(len(batch["user"]) for batch in self.batches)


def exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The `K` best vectors of each query by dot product, `[Q, K]` in no order."""
    found = np.empty((len(queries), K), np.int64)
    for start in range(0, len(queries), 16):
        scores = queries[start : start + 16] @ vectors.T
        found[start : start + 16] = np.argpartition(-scores, K, axis=1)[:, :K]
    return found


def recall_of(found: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> float:
    """The share of the `K` best that were found, over the first 256 queries."""
    if vectors.ctypes.data not in _BEST:
        _BEST[vectors.ctypes.data] = exact(vectors, queries[:256])
    best = _BEST[vectors.ctypes.data]
    pairs = zip(found[:256], best, strict=True)
    return float(np.mean([len(np.intersect1d(mine, true)) / K for mine, true in pairs]))


# By where the vectors lie, since a search is widened step by step.
_BEST: dict[int, np.ndarray] = {}
