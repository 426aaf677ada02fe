"""tf.data as TFRS's tutorials use it: columns in memory, shuffled whole, and batched."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rounds import answer, options


def main() -> None:
    """Plays rounds of some batches."""
    given = options()
    with np.load(Path(given["arrays"]) / "log.npz") as log:
        columns = {name: log[name] for name in ("user", "item", "rating")}
    rows = len(columns["user"])
    data = tf.data.Dataset.from_tensor_slices(columns).shuffle(rows, seed=1).repeat()
    batches = iter(data.batch(given["batch"]).prefetch(tf.data.AUTOTUNE))
    next(batches)

    def read() -> dict[str, Any]:
        for _ in range(given["steps"]):
            next(batches)
        return {"units": given["steps"] * given["batch"]}

    answer(read, device="CPU", tensorflow=tf.__version__)


main()
