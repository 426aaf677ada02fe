"""mtrec: the best ten of all vectors for each query, by the index that a job would build."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from rounds import K, answer, options, recall_of

from mtrec.libraries import import_tensorflow

import_tensorflow()

import mtrec  # noqa: E402


def main() -> None:
    """Plays rounds of all queries."""
    given = options()
    with np.load(Path(given["arrays"]) / "search.npz") as found:
        vectors, queries = found["vectors"], found["queries"]
    ids = np.arange(len(vectors)).astype(str)
    builder = mtrec.ScannBuilder(
        exact_below=0, target_recall=given["recall"], min_recall=0.5, k=K, num_queries=256, seed=1
    )
    started = time.process_time()
    index = builder(vectors, ids=ids, digest="", queries=queries)
    build = time.process_time() - started

    def search() -> dict[str, Any]:
        index.search(queries, K)
        return {"units": len(queries), "recall": recall}

    recall = recall_of(index.search(queries, K)[1], vectors, queries)
    answer(search, device="CPU", build_cpu_s=build, settings=index.manifest.settings)


main()
