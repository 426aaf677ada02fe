"""Exact search of a catalogue, and how near another search comes to it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtrec.heads.max_similarity import score_all

# Scores held at a time, 128 MB.
SCORES_AT_ONCE = 2**25


def exact_top_k(
    vectors: tf.Tensor, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores and positions `[B, k]`, best first; ties go to the lower position.

    Scores are formed in chunks, so that memory stays bounded.

    Args:
        vectors: The candidates, `[C, D]`.
        queries: `[B, D]`, or `[B, K, D]` of K vectors each.
        k: Number of candidates for each query.
        excluded: `[E, 2]` int32: the row of a query and a position that it leaves out.
    """
    queries = tf.convert_to_tensor(queries)
    rows = max(1, SCORES_AT_ONCE // vectors.shape[0])
    chunks = tf.maximum(1, -(-tf.shape(queries)[0] // rows))

    def body(
        chunk: tf.Tensor, scores: tf.TensorArray, positions: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
        first = chunk * rows
        mine = tf.boolean_mask(excluded, excluded[:, 0] // rows == chunk) - [first, 0]
        products = score_all(queries[first : first + rows], vectors)  # [b, C]
        nothing = tf.fill(tf.shape(mine)[:1], products.dtype.as_numpy_dtype("-inf"))
        best = tf.math.top_k(tf.tensor_scatter_nd_update(products, mine, nothing), k)
        return chunk + 1, scores.write(chunk, best.values), positions.write(chunk, best.indices)

    scores, positions = (
        tf.TensorArray(dtype, size=chunks, element_shape=[None, None], infer_shape=False)
        for dtype in (queries.dtype, tf.int32)
    )
    found = tf.while_loop(lambda chunk, *_: chunk < chunks, body, (0, scores, positions))
    return found[1].concat(), found[2].concat()


def pairs_of(exclude: Sequence[np.ndarray]) -> np.ndarray:
    """Positions that each query leaves out, as `excluded` of `exact_top_k`."""
    rows = np.repeat(np.arange(len(exclude)), list(map(len, exclude)))
    positions = np.concatenate([np.zeros(0, np.int32), *exclude])
    return np.stack([rows, positions], axis=1).astype(np.int32)


def recall_of(found: np.ndarray, best: np.ndarray) -> float:
    """Returns the mean share of found scores `[Q, k]` that belong to the exact top k.

    Judged by score, since of several equal candidates at place k any one is right.
    """
    rounding = 1e-5 * np.abs(best).max(axis=1, keepdims=True)
    return float(np.mean(found >= best[:, -1:] - rounding))
