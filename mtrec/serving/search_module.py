"""`Index.search` in TensorFlow ops, for a SavedModel."""

from typing import Protocol

import tensorflow as tf

from mtrec.heads.max_similarity import merge, score_all
from mtrec.serving.manifest import Manifest


class TreeSearch(Protocol):
    """ScaNN's tree as a `tf.Module`, which `mtrec.serving.index` hands over."""

    def __call__(
        self, queries: tf.Tensor, k: tf.Tensor, reorder: tf.Tensor, leaves: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores `[B, <=k]` and positions; what it could not fill is NaN or left out."""


class SearchModule(tf.Module):
    """The search of an `Index`, to be called in an exported function.

    A process that loads the SavedModel must import `scann` first, unless the index is exact.

    Args:
        vectors: The candidates, `[C, D]`.
        manifest: What the index is.
        tree: The tree to search; None when exact.
    """

    def __init__(
        self, *, vectors: tf.Variable, manifest: Manifest, tree: TreeSearch | None
    ) -> None:
        super().__init__()
        self._vectors = vectors
        self._manifest = manifest
        self._tree = tree

    def search(
        self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the k best candidates of each query that it does not exclude, best first.

        Args:
            queries: `[B, D]` float32, or `[B, K, D]` of K vectors each.
            k: Number of candidates for each query, an int32 scalar.
            excluded: `[E, 2]` int32: the row of a query and a position that it leaves out.

        Returns:
            Scores `[B, k]` float32 and positions `[B, k]` int32, equal to those of `Index.search`.

        Raises:
            tf.errors.InvalidArgumentError: If fewer than k candidates are left for a query.
        """
        with tf.control_dependencies([self._check(queries, k, excluded)]):
            k = tf.identity(k)
        if self._tree is None:
            return self._search_exactly(queries, k, excluded)
        scores, positions = self._search_tree(self._tree, queries, k, excluded)
        # Rows that the tree cannot fill are searched exactly: S of them, which is seldom any.
        short = tf.cast(tf.where(tf.math.is_inf(scores[:, -1])), tf.int32)  # [S, 1]
        order = tf.range(1, tf.shape(short)[0] + 1)
        owner = tf.gather(tf.scatter_nd(short, order, tf.shape(scores)[:1]) - 1, excluded[:, 0])
        theirs = tf.boolean_mask(tf.stack([owner, excluded[:, 1]], axis=1), owner >= 0)
        exact = self._search_exactly(tf.gather_nd(queries, short), k, theirs)
        return (
            tf.tensor_scatter_nd_update(scores, short, exact[0]),
            tf.tensor_scatter_nd_update(positions, short, exact[1]),
        )

    def _check(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> tf.Operation:
        size = self._manifest.catalogue_size
        pairs, _ = tf.unique(self._numbered(excluded[:, 0], excluded[:, 1]))
        left = size - _most(pairs // size, queries)
        return tf.debugging.Assert(
            (k >= 1) & (k <= left),
            [
                tf.strings.format(
                    "k must lie between 1 and {}, the number of items that each of these users"
                    " does not have yet; got k={}.",
                    (left, k),
                )
            ],
        )

    def _numbered(self, rows: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        """One number for each pair of row and position."""
        rows, positions = tf.cast(rows, tf.int64), tf.cast(positions, tf.int64)
        return rows * self._manifest.catalogue_size + positions

    def _search_exactly(
        self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        scores = score_all(queries, self._vectors)  # [B, C]
        nothing = tf.fill(tf.shape(excluded)[:1], scores.dtype.as_numpy_dtype("-inf"))
        best = tf.math.top_k(tf.tensor_scatter_nd_update(scores, excluded, nothing), k)
        return best.values, best.indices

    def _search_tree(
        self, tree: TreeSearch, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches as `Index` does; a place that the tree cannot fill scores -inf."""
        size, settings = self._manifest.catalogue_size, self._manifest.settings
        depth = tf.minimum(size, k + _most(excluded[:, 0], queries))
        wider = tf.maximum(depth / self._manifest.k, 1.0)  # float64

        def widened(value: int, most: int) -> tf.Tensor:
            return tf.minimum(most, tf.cast(tf.math.ceil(wider * value), tf.int32))

        scores, positions = tree(
            tf.reshape(queries, [-1, queries.shape[-1]]),  # [B K, D]
            depth,
            widened(settings["reorder"], size),
            widened(settings["leaves_to_search"], settings["num_leaves"]),
        )
        dropped = [[0, 0], [0, depth - tf.shape(scores)[1]]]
        scores = tf.pad(scores, dropped, constant_values=float("nan"))
        positions = tf.pad(positions, dropped)
        scores = tf.where(tf.math.is_nan(scores), float("-inf"), scores)
        if len(queries.shape) == 3:
            shape = tf.shape(queries)[0], queries.shape[1] * depth  # [B, K depth]
            scores, positions = merge(*(tf.reshape(x, shape) for x in (scores, positions)))
        rows = tf.repeat(tf.range(tf.shape(scores)[0])[:, tf.newaxis], tf.shape(scores)[1], axis=1)
        left_out = _is_in(
            self._numbered(rows, positions), self._numbered(*tf.unstack(excluded, axis=1))
        )
        scores = tf.where(left_out, float("-inf"), scores)
        best = tf.math.top_k(scores, k)
        return best.values, tf.gather(positions, best.indices, batch_dims=1)


def _most(rows: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """How often the most frequent of the query rows occurs in `rows`; 0 where there are none."""
    counts = tf.math.unsorted_segment_sum(tf.ones_like(rows, tf.int32), rows, tf.shape(queries)[0])
    return tf.reduce_max(tf.pad(counts, [[0, 1]]))


def _is_in(values: tf.Tensor, members: tf.Tensor) -> tf.Tensor:
    """Whether each of `values` is one of `members` `[M]`, none of which is negative."""
    members = tf.sort(tf.concat([members, [-1]], axis=0))
    flat = tf.reshape(values, [-1])
    place = tf.searchsorted(members, flat, side="right") - 1
    return tf.reshape(tf.gather(members, place) == flat, tf.shape(values))
