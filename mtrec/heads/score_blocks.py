"""Losses over all scores of queries and pool, of which the scores of some queries exist at a time.

Scores of Q queries and P items are `[Q, P]`, 16 GiB of 65,536 each. A block of queries is scored
and costed after the other, and scored once more for its gradient, as a step that keeps activations
for none of its layers does (Chen et al. 2016, arXiv:1604.06174).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from mtrec.data.inputs import Batch

# Scores that exist at a time: a few arrays of them fit a processor's cache, or fill a GPU.
SCORES_AT_ONCE = {"CPU": 2**20, "GPU": 2**26}

# What a pair of query and pool item is, beside one that is there by chance: what the query asks
# for, what the user has besides or says nothing of, what came with the query to be told from.
TARGET, HAD, BROUGHT = 1, 2, 3

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
    blocks = _Blocks(row_query, tf.shape(query)[0], tf.add_n([tf.shape(w)[0] for w in whole]))
    row_index = tf.zeros([0], tf.int64)

    @tf.custom_gradient
    def costs(query: tf.Tensor, positive: tf.Tensor, *whole: tf.Tensor) -> Any:
        def body(k: tf.Tensor, rows: Any, found: Any) -> tuple[Any, Any]:
            first, end, mine = blocks.block(k)
            owner = tf.gather(row_query, mine) - first
            costed = cost(first, end, query[first:end], tf.gather(positive, mine), owner, *whole)
            return rows.write(k, mine), found.write(k, costed)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def body(
                k: tf.Tensor, rows: Any, of_query: Any, of_row: Any, *sums: tf.Tensor
            ) -> tuple[Any, ...]:
                first, end, mine = blocks.block(k)
                owner = tf.gather(row_query, mine) - first
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
                blocks.array(row_index),
                blocks.array(query),
                blocks.array(positive),
                *map(tf.zeros_like, whole),
            )
            rows, of_query, of_row, *sums = blocks.loop(body, start)
            return of_query.concat(), blocks.placed(of_row, rows), *sums

        rows, found = blocks.loop(body, (blocks.array(row_index), blocks.array(positive)))
        return blocks.placed(found, rows), gradients

    return costs(query, positive, *whole)


class _Blocks:
    """Blocks of queries, one after the other."""

    def __init__(self, row_query: tf.Tensor, queries: tf.Tensor, width: tf.Tensor) -> None:
        self._row_query, self._queries = row_query, queries
        rows = -(-tf.size(row_query) // tf.maximum(queries, 1))  # some losses score row by row
        at_once = SCORES_AT_ONCE["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]
        most = at_once // tf.maximum(width * rows, 1)
        self._size = tf.clip_by_value(most, 1, tf.maximum(queries, 1))
        self._count = -(-queries // self._size)

    def block(self, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The first query of a block, its end, and its rows."""
        first = k * self._size
        end = tf.minimum(first + self._size, self._queries)
        return first, end, tf.where((self._row_query >= first) & (self._row_query < end))[:, 0]

    def array(self, like: tf.Tensor) -> tf.TensorArray:
        """Takes what is found of every block, of the kind of `like` and any length."""
        shape = [None, *like.shape[1:]]
        return tf.TensorArray(like.dtype, size=self._count, element_shape=shape, infer_shape=False)

    def loop(self, body: Callable[..., Any], start: Any) -> Any:
        """What `body` makes of `start`, block after block."""
        return tf.while_loop(
            lambda k, *_: k < self._count,
            lambda k, *found: (k + 1, *body(k, *found)),
            (0, *start),
            parallel_iterations=1,
        )[1:]

    def placed(self, values: tf.TensorArray, rows: tf.TensorArray) -> tf.Tensor:
        """Values of all rows in the rows' order, `[N]`."""
        places, size = rows.concat()[:, tf.newaxis], tf.size(self._row_query, tf.int64)
        return tf.scatter_nd(places, values.concat(), size[tf.newaxis])


class Beside:
    """What is said of single pairs of a query and an item of the pool, block by block.

    Args:
        batch: The batch, with the rows' kinds as of `mtrec.heads.retrieval_losses.kinds_of_rows`.
        replicas: How many replicas' slices the pool is made of.
    """

    def __init__(self, batch: Batch, *, replicas: int) -> None:
        self._batch = batch
        self._replicas = replicas
        # In order of the query, but for padding.
        own = batch.own.query
        self._own_query = tf.where(own >= 0, own, own.dtype.max)

    def of(self, first: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The pairs of the queries from `first` to before `end`.

        Returns:
            Places in the block and in the whole pool, `[n, 2]`, no pair twice; what the pairs are,
            one of the kinds above, `[n]`; and the item's log Q beside the query, `[n]`.
        """
        batch = self._batch
        mine = (batch.rows.query >= first) & (batch.rows.query < end)
        mine &= (batch.rows.kind > 0) & (batch.rows.pool >= 0)
        row = tf.where(mine)[:, 0]
        edges = tf.searchsorted(self._own_query, tf.stack([first, end]))
        owned = tf.range(edges[0], edges[1])
        kind = tf.gather(batch.rows.kind, row)
        weight = tf.gather(batch.own.weight, owned)
        owner = tf.concat(
            [tf.gather(batch.rows.query, row), self._own_query[edges[0] : edges[1]]], 0
        )
        place = tf.concat([tf.gather(batch.rows.pool, row), tf.gather(batch.own.pool, owned)], 0)
        # Replica r embeds the pool's items r, r + R, ...; gathering puts them behind others'.
        place = place % self._replicas * tf.shape(batch.pool.items)[0] + place // self._replicas
        of_rows = tf.where(kind == BROUGHT, 0.0, tf.gather(batch.rows.log_q, row))
        log_q = tf.concat([of_rows, -tf.math.log(tf.maximum(weight, 1.0))], 0)
        kind = tf.concat([kind, tf.where(weight > 0, BROUGHT, HAD)], 0)
        return tf.stack([owner - first, place], axis=1), kind, log_q
