"""mtrec: one exact ranking of all items for all users, with all metrics."""

from pathlib import Path
from typing import Any

import numpy as np
from rounds import answer, options

from mtrec.libraries import import_tensorflow

import_tensorflow()

import mtrec  # noqa: E402
from mtrec.benchmark import arrays  # noqa: E402
from mtrec.benchmark.model import device, model_of  # noqa: E402


def main() -> None:
    """Plays rounds of one ranking each."""
    folder = Path(options()["arrays"])
    with np.load(folder / "log.npz") as found:
        log = dict(found)
    with np.load(folder / "vectors.npz") as found:
        query, candidate = (np.pad(found[n], ((1, 0), (0, 0))) for n in ("query", "candidate"))
    dataset = arrays.dataset(log)
    rows, held_out = len(log["user"]), int(log["held_out"])
    model = model_of(dataset, (query, candidate), joint=False, seed=0)
    parts = np.split(np.arange(rows), [rows - held_out])
    evaluator = mtrec.Evaluator(dataset, known=parts[0], held_out=parts[1])

    def rank() -> dict[str, Any]:
        found = evaluator(model, full=False)["retrieval"].metrics
        return {"units": dataset.num_users, "recall_at_10": found["recall_at_10"]}

    answer(rank, device=device())


main()
