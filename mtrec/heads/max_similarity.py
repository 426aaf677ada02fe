"""Several vectors for a query: its score with an item is the highest of their dot products.

`s(u, v) = max_k <u_k, v>`, so that a user of several interests needs no point between them (Weston,
Weiss and Yee, RecSys 2013; MIND, Li et al., CIKM 2019, arXiv:1904.08030). An item has one vector as
before, and so the index is the same; it is searched with each of the K vectors.

The best k of every vector hold the best k of all: what is ahead of an item for the vector that
gives the item its score has itself a score at least as high, so that an item with k others ahead of
it there has as many ahead of it everywhere.

Shapes: `B` queries, or one that has one vector as `[B, D]`; `K` vectors of a query, `[B, K, D]`.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mtrec.distributed.weights import seed_for
from mtrec.heads.row_products import dot

# How far the vectors of a query lie apart at the start, relative to their length.
SPREAD = 0.1


def starting_kernel(
    width: int, dim: int | None, vectors: int, *, name: str, seed: int
) -> Callable[..., tf.Tensor]:
    """The initializer of the projection of a query's representation to its K vectors, `[W, K D]`.

    Vectors that started alike would stay so: each gets a Glorot uniform draw of its own, which
    depends on the seed, the name and its number alone.

    Args:
        width: Width W of the representation.
        dim: Width D of a vector. Null for W: each starts as the representation itself and its draw
            times `SPREAD`.
        vectors: Their number K.
        name: Name of the projection.
        seed: Seed of all initial weights.
    """
    shape = width, dim or width
    limit = np.sqrt(6 / sum(shape))
    draws = [
        np.random.default_rng(seed_for(seed, f"{name}/{k}")).uniform(-limit, limit, shape)
        for k in range(vectors)
    ]
    if dim is None:
        draws = [np.eye(width) + SPREAD * draw for draw in draws]
    kernel = np.concatenate(draws, axis=1)
    return lambda shape, dtype: tf.constant(kernel, dtype)


def score_all(query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    """Scores of all pairs of queries `[B, D]` or `[B, K, D]` and candidates `[C, D]`, `[B, C]`."""
    if len(query.shape) == 2:
        return tf.matmul(query, candidate, transpose_b=True)  # [B, D] x [D, C] -> [B, C]
    vectors, dim = query.shape[1:]
    scores = tf.matmul(tf.reshape(query, [-1, dim]), candidate, transpose_b=True)  # [B K, C]
    return tf.reduce_max(tf.reshape(scores, [-1, vectors, tf.shape(candidate)[0]]), axis=1)


def score_all_gradients(
    query: tf.Tensor, candidate: tf.Tensor, upstream: tf.Tensor, of_query: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of `score_all` in both, given that in its scores: `upstream * of_query`.

    Args:
        query: As there.
        candidate: As there.
        upstream: `[B, C]`.
        of_query: `[B]`.
    """
    if len(query.shape) == 2:
        # The factor of a query times its vector, since times its scores takes longer.
        factor = of_query[:, tf.newaxis]
        return (
            factor * tf.matmul(upstream, candidate),  # [B, C] x [C, D] -> [B, D]
            # [D, B] x [B, C] -> [D, C]: to read the larger one by columns takes twice the time.
            tf.transpose(tf.matmul(factor * query, upstream, transpose_a=True)),
        )
    with tf.GradientTape() as tape:
        tape.watch((query, candidate))
        scores = score_all(query, candidate)
    upstream *= of_query[:, tf.newaxis]
    found: tuple[tf.Tensor, tf.Tensor] = tape.gradient(scores, (query, candidate), upstream)
    return found


def score_all_in_numpy(query: np.ndarray, candidate: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`score_all` of arrays into `out`, with no more than one of a pair's other scores beside."""
    if query.ndim == 2 and len(query) == 1:
        # BLAS would take threads, which wait for each other by spinning: on cores that others use
        # too, that is most of what one query costs.
        np.einsum("cd,d->c", candidate, query[0], out=out[0])
        return out
    if query.ndim == 2:
        return np.matmul(query, candidate.T, out=out)
    np.matmul(query[:, 0], candidate.T, out=out)
    for vector in np.moveaxis(query[:, 1:], 1, 0):
        np.maximum(out, vector @ candidate.T, out=out)
    return out


def score_pairs(query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    """Scores of pairs, `[N]`, of a query `[N, D]` or `[N, K, D]` and a candidate `[N, D]`."""
    if len(query.shape) == 2:
        return dot(query, candidate)
    return tf.reduce_max(tf.reduce_sum(query * candidate[:, tf.newaxis], axis=-1), axis=1)


def merge(scores: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Joins what the K vectors of each query found.

    Args:
        scores: `[B, N]`, -inf where nothing was found.
        positions: `[B, N]`; several vectors may have found the same.

    Returns:
        Scores and positions by rising position; all but a position's highest score are -inf.
    """
    best_first = tf.argsort(scores, direction="DESCENDING", stable=True)
    scores, positions = (tf.gather(x, best_first, batch_dims=1) for x in (scores, positions))
    by_position = tf.argsort(positions, stable=True)
    scores, positions = (tf.gather(x, by_position, batch_dims=1) for x in (scores, positions))
    again = tf.pad(positions[:, 1:] == positions[:, :-1], [[0, 0], [1, 0]])
    return tf.where(again, float("-inf"), scores), positions
