"""Exact search of a catalogue, and how near another search comes to it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtrec.heads.max_similarity import score_all_in_numpy

# Scores held at a time, 128 MB.
SCORES_AT_ONCE = 2**25


def exact_top_k(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, exclude: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and positions `[B, k]` best first; ties go to the lower position.

    Scores of queries `[B, D]` or `[B, K, D]` are formed in chunks, so that memory stays bounded.
    """
    scores = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int32)
    rows = max(1, SCORES_AT_ONCE // len(vectors))
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        products = score_all_in_numpy(queries[chunk], vectors)  # [b, C]
        for row, seen in enumerate(exclude[chunk]):
            products[row, seen] = -np.inf
        best = tf.math.top_k(products, k)
        scores[chunk], positions[chunk] = best.values, best.indices
    return scores, positions


def recall_of(found: np.ndarray, best: np.ndarray) -> float:
    """Returns the mean share of found scores `[Q, k]` that belong to the exact top k.

    Judged by score, since of several equal candidates at place k any one is right.
    """
    rounding = 1e-5 * np.abs(best).max(axis=1, keepdims=True)
    return float(np.mean(found >= best[:, -1:] - rounding))
