"""Losses over all scores of queries and pool, of which the scores of some queries exist at a time.

Scores of Q queries and P items are `[Q, P]`, 16 GiB of 65,536 each. A block of queries is scored
and costed after the other, and scored once more for its gradient, as a step that keeps activations
for none of its layers does (Chen et al. 2016, arXiv:1604.06174).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from mtrec.data.inputs import Batch

# Scores that exist at a time: a few arrays of them fit a processor's cache, or fill a GPU.
SCORES_AT_ONCE = {"CPU": 2**20, "GPU": 2**26}

# What a pair of query and pool item is, beside one that is there by chance: what the query asks
# for, what the user has besides or says nothing of, what came with the query to be told from.
TARGET, HAD, BROUGHT = (np.int64(kind) for kind in (1, 2, 3))

# What rows cost, `[n]`, given the number of a block's first query and its end, its queries
# `[b, ...]`, the scores of its rows `[n]`, the query of each row, and what all blocks read.
Cost: TypeAlias = Callable[..., tf.Tensor]


def in_blocks(
    cost: Cost,
    query: tf.Tensor,
    positive: tf.Tensor,
    row_query: tf.Tensor,
    whole: Sequence[tf.Tensor],
) -> tf.Tensor:
    """The cost of every row, `[N]`, block by block of the queries; differentiable in all tensors.

    Args:
        cost: What rows cost: `cost(first, end, query, positive, owner, *whole)`, where `owner` is
            each row's place in the block.
        query: `[Q, D]` or `[Q, K, D]`.
        positive: What a row reads of its own, `[N]`.
        row_query: The query of each row, `[N]`.
        whole: What every query is scored with, `[P, D]` each.
    """
    queries = tf.shape(query)[0]
    # A row is scored by itself.
    rows_each = -(-tf.size(row_query) // tf.maximum(queries, 1))
    blocks = Blocks(queries, rows_each * tf.add_n([tf.shape(w)[0] for w in whole]))
    row_query = tf.cast(row_query, tf.int64)

    def rows_of(first: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows of a block, and the place of each one's query in it."""
        first, end = (tf.cast(edge, tf.int64) for edge in (first, end))
        rows = tf.where((row_query >= first) & (row_query < end))[:, 0]
        return rows, tf.gather(row_query, rows) - first

    @tf.custom_gradient
    def costs(query: tf.Tensor, positive: tf.Tensor, *whole: tf.Tensor) -> Any:
        def body(k: tf.Tensor, rows: Any, found: Any) -> tuple[Any, Any]:
            first, end = blocks.of(k)
            mine, owner = rows_of(first, end)
            costed = cost(first, end, query[first:end], tf.gather(positive, mine), owner, *whole)
            return rows.write(k, mine), found.write(k, costed)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def body(
                k: tf.Tensor, rows: Any, of_query: Any, of_row: Any, *sums: tf.Tensor
            ) -> tuple[Any, ...]:
                first, end = blocks.of(k)
                mine, owner = rows_of(first, end)
                part = query[first:end], tf.gather(positive, mine), *whole
                with tf.GradientTape() as tape:
                    tape.watch(part)
                    costed = cost(first, end, part[0], part[1], owner, *part[2:])
                found = tape.gradient(
                    costed,
                    part,
                    output_gradients=tf.gather(upstream, mine),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                added = [total + g for total, g in zip(sums, found[2:], strict=True)]
                written = of_query.write(k, found[0]), of_row.write(k, found[1])
                return rows.write(k, mine), *written, *added

            start = (
                blocks.array(dtype=tf.int64),
                blocks.array(*query.shape[1:]),
                blocks.array(),
                *map(tf.zeros_like, whole),
            )
            rows, of_query, of_row, *sums = blocks.loop(body, start)
            return of_query.concat(), _placed(of_row, rows), *sums

        rows, found = blocks.loop(body, (blocks.array(dtype=tf.int64), blocks.array()))
        return _placed(found, rows), gradients

    return costs(query, positive, *whole)


def _placed(values: tf.TensorArray, rows: tf.TensorArray) -> tf.Tensor:
    """Values of all rows in the rows' order, `[N]`."""
    places = rows.concat()
    return tf.scatter_nd(places[:, tf.newaxis], values.concat(), tf.shape(places, tf.int64))


class Blocks:
    """Blocks of queries, one after the other.

    Args:
        queries: How many queries there are.
        scores: How many scores each has.
    """

    def __init__(self, queries: tf.Tensor, scores: tf.Tensor) -> None:
        self._queries = queries
        at_once = SCORES_AT_ONCE["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]
        self._size = tf.clip_by_value(at_once // tf.maximum(scores, 1), 1, tf.maximum(queries, 1))
        self._count = -(-queries // self._size)

    def of(self, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The first query of a block, and its end."""
        first = k * self._size
        return first, tf.minimum(first + self._size, self._queries)

    def array(self, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorArray:
        """Takes what is found of every block, numbers of any length and this shape behind it."""
        return tf.TensorArray(
            dtype,
            size=self._count,
            element_shape=[None, *shape],
            infer_shape=False,
            clear_after_read=False,
        )

    def loop(self, body: Callable[..., Any], start: Any) -> Any:
        """What `body` makes of `start`, block after block."""
        return tf.while_loop(
            lambda k, *_: k < self._count,
            lambda k, *found: (k + 1, *body(k, *found)),
            (0, *start),
            parallel_iterations=1,
        )[1:]


class Beside:
    """What is said of single pairs of a query and an item of the pool, no pair twice.

    Args:
        batch: The batch, with the rows' kinds as of `mtrec.heads.retrieval_losses.kinds_of_rows`.
        replicas: How many replicas' slices the pool is made of.

    Attributes:
        place: The item's place in the whole pool, int64 `[n]`.
        kind: What a pair is, one of the kinds above, `[n]`.
        log_q: The item's log Q beside the query, `[n]`.
    """

    def __init__(self, batch: Batch, *, replicas: int) -> None:
        rows, own = batch.rows, batch.own
        said = tf.where((rows.kind > 0) & (rows.pool >= 0))[:, 0]
        kind = tf.gather(rows.kind, said)
        # Targets in order of their query; then own pairs in the same order, padding last.
        own_query = tf.where(own.query >= 0, own.query, own.query.dtype.max)
        self._halves = tf.gather(rows.query, said), own_query
        self._query = tf.concat(self._halves, 0)
        place = tf.concat([tf.gather(rows.pool, said), own.pool], 0)
        # Replica r embeds the pool's items r, r + R, ...; gathering puts them behind others'.
        length = tf.size(batch.pool.items, tf.int64)
        self.place = tf.maximum(place % replicas * length + place // replicas, 0)
        self.kind = tf.concat([kind, tf.where(own.weight > 0, BROUGHT, HAD)], 0)
        of_rows = tf.where(kind == BROUGHT, 0.0, tf.gather(rows.log_q, said))
        self.log_q = tf.concat([of_rows, -tf.math.log(tf.maximum(own.weight, 1.0))], 0)

    def of(
        self, first: tf.Tensor, end: tf.Tensor, *values: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The pairs of the queries from `first` to before `end`, m of them, and what they have.

        Args:
            first: See above.
            end: See above.
            values: A value for each pair, `[n]`, such as the attributes.

        Returns:
            Places in the block and in the whole pool, `[m, 2]`, and their values, `[m]` each.
        """
        edges = tf.cast(tf.stack([first, end]), tf.int64)
        of_rows, of_own = (tf.searchsorted(half, edges) for half in self._halves)
        of_own += tf.size(self._halves[0])

        def cut(value: tf.Tensor) -> tf.Tensor:
            return tf.concat([value[e[0] : e[1]] for e in (of_rows, of_own)], 0)

        query = cut(self._query) - tf.cast(first, tf.int64)
        return tf.stack([query, cut(self.place)], axis=1), [cut(value) for value in values]
