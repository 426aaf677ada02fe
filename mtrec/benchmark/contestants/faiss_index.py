"""faiss-cpu: the best ten of all vectors for each query, by HNSW or IVF at a given recall."""

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rounds import DIM, K, answer, options, recall_of


def main() -> None:
    """Widens the search until its recall is reached, then plays rounds of all queries."""
    given = options()
    with np.load(Path(given["arrays"]) / "search.npz") as found:
        vectors, queries = found["vectors"], found["queries"]
    started = time.process_time()
    if given["kind"] == "hnsw":
        index = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
        width, limit = "efSearch", 4096
    else:
        quantizer = faiss.IndexFlatIP(DIM)
        lists = round(len(vectors) ** 0.5)
        index = faiss.IndexIVFFlat(quantizer, DIM, lists, faiss.METRIC_INNER_PRODUCT)
        width, limit = "nprobe", lists
        index.train(vectors)
    index.add(vectors)
    build = time.process_time() - started
    knob = index.hnsw if given["kind"] == "hnsw" else index
    value, recall = 8, 0.0
    while True:
        setattr(knob, width, value)
        recall = recall_of(index.search(queries, K)[1], vectors, queries)
        if recall >= given["recall"] or value >= limit:
            break
        value = min(limit, max(value + 1, round(value * 1.25)))

    def search() -> dict[str, Any]:
        index.search(queries, K)
        return {"units": len(queries), "recall": recall}

    answer(
        search,
        device="CPU",
        faiss=faiss.__version__,
        build_cpu_s=build,
        settings={width: value},
    )


main()
