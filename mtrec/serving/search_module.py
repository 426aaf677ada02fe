"""The search of an index in TensorFlow ops, traced by `Index` and by an export alike."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from mtrec.heads.exact_search import exact_top_k
from mtrec.heads.max_similarity import merge, score_all
from mtrec.heads.membership import is_in
from mtrec.serving.manifest import Manifest

Found: TypeAlias = tuple[tf.Tensor, tf.Tensor]
# Queries, k and what they leave out to scores and positions, as `SearchModule.search`.
SearchFunction: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Found]
# Queries `[B, D]`, k, how many to reorder and leaves to search to scores `[B, <=k]` and positions;
# what ScaNN's tree could not fill is NaN or left out.
TreeSearch: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Found]
# How much deeper than its share of the candidates says a tree looks for those that are kept.
MARGIN = 1.5


class ExactModule(tf.Module):
    """Scores every candidate, in a graph; those that are not `kept`, `[C]`, are not found."""

    def __init__(self, vectors: tf.Variable, kept: tf.Variable | None) -> None:
        super().__init__()
        self._vectors = vectors
        self._kept = kept

    def __call__(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        """See `SearchModule.search`."""
        scores = score_all(queries, self._vectors)  # [B, C]
        if self._kept is not None:
            scores = tf.where(self._kept, scores, float("-inf"))
        nothing = tf.fill(tf.shape(excluded)[:1], scores.dtype.as_numpy_dtype("-inf"))
        best = tf.math.top_k(tf.tensor_scatter_nd_update(scores, excluded, nothing), k)
        return best.values, best.indices


def exact_here(vectors: np.ndarray, kept: np.ndarray | None) -> SearchFunction:
    """Scores every candidate, in this process; those that are not `kept`, `[C]`, are not found."""
    lost = np.zeros(0, np.int64) if kept is None else np.flatnonzero(~kept)

    def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, positions = excluded.T
        ends = np.cumsum(np.bincount(rows, minlength=len(queries)))
        seen = np.split(positions[np.argsort(rows, kind="stable")], ends[:-1])
        left_out = [np.concatenate([own, lost]) for own in seen] if len(lost) else seen
        return exact_top_k(vectors, queries, int(k), exclude=left_out)

    return lambda *inputs: in_numpy(search, inputs)


def in_numpy(function: Callable[..., Any], inputs: Sequence[tf.Tensor]) -> Found:
    """What a function of arrays finds, in a graph of this process."""
    scores, positions = tf.numpy_function(function, inputs, [tf.float32, tf.int32])
    scores.set_shape([None, None])
    positions.set_shape([None, None])
    return scores, positions


class SearchModule(tf.Module):
    """The search of an `Index`.

    A process that loads a SavedModel of it must import `scann` first, unless the index is exact.

    Args:
        exact: Searches all candidates.
        manifest: What the index is.
        tree: The tree to search; None when exact.
        kept: Whether each of the candidates of a tree may be found, `[C]`; None for all.
        share: The share of them that may.
    """

    def __init__(
        self,
        *,
        exact: SearchFunction,
        manifest: Manifest,
        tree: TreeSearch | None,
        kept: tf.Tensor | tf.Variable | None,
        share: float,
    ) -> None:
        super().__init__()
        self._exact = exact
        self._manifest = manifest
        self._tree = tree
        self._kept = kept
        self._deeper = 1.0 if kept is None else MARGIN / share

    def search(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        """Returns the k best candidates of each query that it does not exclude, best first.

        Args:
            queries: `[B, D]` float32, or `[B, K, D]` of K vectors each.
            k: Number of candidates for each query, an int32 scalar.
            excluded: `[E, 2]` int32: the row of a query and a position that it leaves out.

        Returns:
            Scores `[B, k]` float32 and positions `[B, k]` int32.

        Raises:
            tf.errors.InvalidArgumentError: If fewer than k candidates are left for a query.
        """
        queries, excluded = tf.convert_to_tensor(queries), self._once(excluded)
        with tf.control_dependencies([self._check(queries, k, excluded)]):
            return self._up_to(queries, tf.identity(k), excluded)

    def up_to(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        """`search` with scores of -inf in places for which no candidate is left.

        Args:
            queries: As for `search`.
            k: As for `search`, and no more than there are candidates.
            excluded: As for `search`.
        """
        return self._up_to(tf.convert_to_tensor(queries), k, self._once(excluded))

    def _up_to(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        if self._tree is None:
            return self._exact(queries, k, excluded)
        scores, positions = self.in_tree(queries, k, excluded)
        # Rows that the tree cannot fill are searched exactly: S of them, which is seldom any.
        short = tf.cast(tf.where(tf.math.is_inf(scores[:, -1])), tf.int32)  # [S, 1]
        order = tf.range(1, tf.shape(short)[0] + 1)
        owner = tf.gather(tf.scatter_nd(short, order, tf.shape(scores)[:1]) - 1, excluded[:, 0])
        theirs = tf.boolean_mask(tf.stack([owner, excluded[:, 1]], axis=1), owner >= 0)
        exact = self._exact(tf.gather_nd(queries, short), k, theirs)
        return (
            tf.tensor_scatter_nd_update(scores, short, exact[0]),
            tf.tensor_scatter_nd_update(positions, short, exact[1]),
        )

    def _once(self, excluded: tf.Tensor) -> tf.Tensor:
        """Each of the pairs once."""
        size = self._manifest.catalogue_size
        pairs, _ = tf.unique(self._numbered(*tf.unstack(excluded, axis=1)))
        return tf.cast(tf.stack([pairs // size, pairs % size], axis=1), tf.int32)

    def _check(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> tf.Operation:
        left = self._manifest.catalogue_size - _most(excluded[:, 0], queries)
        return tf.debugging.Assert(
            (k >= 1) & (k <= left),
            [
                tf.strings.format(
                    "k must lie between 1 and {}, the number of items that may be recommended to"
                    " each of these users; got k={}.",
                    (left, k),
                )
            ],
        )

    def _numbered(self, rows: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        """One number for each pair of row and position."""
        rows, positions = tf.cast(rows, tf.int64), tf.cast(positions, tf.int64)
        return rows * self._manifest.catalogue_size + positions

    def in_tree(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        """Searches ScaNN, deeper by what may be excluded; a place it cannot fill scores -inf."""
        assert self._tree
        size, settings = self._manifest.catalogue_size, self._manifest.settings
        asked = tf.cast(k + _most(excluded[:, 0], queries), tf.float64)
        depth = tf.cast(tf.math.ceil(tf.minimum(asked * self._deeper, size)), tf.int32)
        # Recall was measured at depth k; a deeper search must look into more leaves.
        wider = tf.maximum(depth / self._manifest.k, 1.0)  # float64

        def widened(value: int, most: int) -> tf.Tensor:
            return tf.minimum(most, tf.cast(tf.math.ceil(wider * value), tf.int32))

        scores, positions = self._tree(
            tf.reshape(queries, [-1, queries.shape[-1]]),  # [B K, D]
            depth,
            widened(settings["reorder"], size),
            widened(settings["leaves_to_search"], settings["num_leaves"]),
        )
        # ScaNN pads with candidate 0 and NaN, and drops columns that no query could fill.
        dropped = [[0, 0], [0, depth - tf.shape(scores)[1]]]
        scores = tf.pad(scores, dropped, constant_values=float("nan"))
        positions = tf.pad(positions, dropped)
        scores = tf.where(tf.math.is_nan(scores), float("-inf"), scores)
        if len(queries.shape) == 3:
            shape = tf.shape(queries)[0], queries.shape[1] * depth  # [B, K depth]
            scores, positions = merge(*(tf.reshape(x, shape) for x in (scores, positions)))
        rows = tf.repeat(tf.range(tf.shape(scores)[0])[:, tf.newaxis], tf.shape(scores)[1], axis=1)
        left_out = is_in(
            self._numbered(rows, positions), self._numbered(*tf.unstack(excluded, axis=1))
        )
        if self._kept is not None:
            left_out |= ~tf.gather(self._kept, positions)
        scores = tf.where(left_out, float("-inf"), scores)
        best = tf.math.top_k(scores, k)
        return best.values, tf.gather(positions, best.indices, batch_dims=1)


def _most(rows: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """How often the most frequent of the query rows occurs in `rows`; 0 where there are none."""
    counts = tf.math.unsorted_segment_sum(tf.ones_like(rows, tf.int32), rows, tf.shape(queries)[0])
    return tf.reduce_max(tf.pad(counts, [[0, 1]]))
