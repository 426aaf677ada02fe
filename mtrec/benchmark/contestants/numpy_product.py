"""NumPy: the matrix product of all users and items alone, into a buffer that is there."""

from pathlib import Path
from typing import Any

import numpy as np
from rounds import answer, options

SCORES_AT_ONCE = 2**24


def main() -> None:
    """Plays rounds of one product each; before, finds recall@10 by counting, user by user."""
    folder = Path(options()["arrays"])
    with np.load(folder / "vectors.npz") as found:
        query, candidate = found["query"], found["candidate"]
    with np.load(folder / "log.npz") as log:
        user, item, held_out = log["user"] - 1, log["item"] - 1, int(log["held_out"])
    at_once = max(1, SCORES_AT_ONCE // len(candidate))
    scores = np.empty((at_once, len(candidate)), np.float32)

    def product(start: int) -> np.ndarray:
        part = query[start : start + at_once]
        return np.matmul(part, candidate.T, out=scores[: len(part)])

    def multiply() -> dict[str, Any]:
        for start in range(0, len(query), at_once):
            product(start)
        return {"units": len(query), "recall_at_10": recall}

    recalls = []
    order = np.argsort(user[:-held_out], kind="stable")
    known = np.split(
        item[order], np.cumsum(np.bincount(user[:-held_out], minlength=len(query)))[:-1]
    )
    asked = item[-held_out:].reshape(len(query), -1)
    for start in range(0, len(query), at_once):
        for row, has, targets in zip(product(start), known[start:], asked[start:], strict=False):
            new = np.setdiff1d(targets, has)
            row[has] = -np.inf
            if len(new):
                best = np.argpartition(-row, 10)[:10]
                recalls.append(np.isin(new, best).mean())
    recall = float(np.mean(recalls))
    answer(multiply, device="CPU", numpy=np.__version__)


main()
