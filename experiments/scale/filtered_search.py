"""Exact filters: one query at a time, by the share of the items that a filter keeps.

    python experiments/scale/filtered_search.py [--items 1_000_000] [--queries 200]

Clustered vectors of width 64 in the index that `index=scann` builds. Of each share it tells the
recall@100 against an exact search of what is kept, and the median CPU and wall milliseconds of a
query, and these over those of an unfiltered one, which is asked in turns with it.
"""

import argparse
import time

import numpy as np

from mtrec.libraries import import_tensorflow, quiet_libraries

DIM, CLUSTERS, K = 64, 2000, 100
SHARES = (1.0, 0.5, 0.2, 0.1, 0.01, 0.001)


def clustered(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors of length 1 around as many centres for any number of rows."""
    centres = np.random.default_rng(1).normal(size=(CLUSTERS, DIM))
    vectors = centres[rng.integers(0, CLUSTERS, rows)] + 0.6 * rng.normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def main(items: int, queries: int) -> None:
    import tensorflow as tf

    from mtrec.heads.exact_search import exact_top_k, recall_of
    from mtrec.serving.index import Index, ScannBuilder

    vectors = clustered(items, np.random.default_rng(2))
    asked = clustered(queries, np.random.default_rng(3))
    build = ScannBuilder(
        exact_below=100_000, target_recall=0.98, min_recall=0.95, k=K, num_queries=256, seed=1
    )
    ids = np.arange(items).astype(str)
    index = build(vectors, ids=ids, digest="", queries=clustered(256, np.random.default_rng(4)))
    none = tf.zeros([0, 2], tf.int32)

    def took(of: Index, query: np.ndarray) -> tuple[float, float, np.ndarray]:
        cpu, wall = time.process_time(), time.perf_counter()
        scores, _ = of.at_once(tf.constant(query[np.newaxis]), tf.constant(K), none)
        told = time.process_time() - cpu, time.perf_counter() - wall
        return 1000 * told[0], 1000 * told[1], np.asarray(scores)[0]

    for share in SHARES:
        kept = np.random.default_rng(5).random(items) < share
        few, _ = index.among(kept)
        best, _ = exact_top_k(vectors[kept], asked, K)
        for of in (few, index):
            took(of, asked[0])  # compiles
        found = [(took(few, query), took(index, query)) for query in asked]
        recall = recall_of(np.stack([ours[2] for ours, _ in found]), best)
        cpu, wall = (
            [float(np.median([pair[side][n] for pair in found])) for side in (0, 1)] for n in (0, 1)
        )
        print(
            f"{share:.1%} kept: recall@{K} {recall:.4f}, CPU {cpu[0]:.2f} ms "
            f"({cpu[0] / cpu[1]:.2f} times unfiltered), wall {wall[0]:.2f} ms "
            f"({wall[0] / wall[1]:.2f} times)",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    quiet_libraries()
    import_tensorflow()
    main(arguments.items, arguments.queries)
