"""Gradient caching: the towers see a batch chunk by chunk, the losses see all of it.

Gao et al. 2021 (arXiv:2101.06983): representations are made without keeping what made them, the
losses give the gradient with respect to them, and the towers make each chunk once more to pass its
part of that gradient on to their weights. It is the gradient of the whole batch, for the memory of
one chunk and the time of encoding twice.

Shapes: `n` rows of a side, which are a batch's queries, items or pool.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from mtrec.data.inputs import Batch, QueryInputs
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import all_gather
from mtrec.errors import UserError
from mtrec.model.recommender import Recommender
from mtrec.training.gradient_balance import Gradient
from mtrec.training.optimizers import sum_by_row

# By side, `query`, `item` and `pool`, then by head: representations `[n, D]`.
Encoded: TypeAlias = dict[str, dict[str, tf.Tensor]]
# The same for some rows of one side, from the first to the last.
Encode: TypeAlias = Callable[[Any, Any], dict[str, tf.Tensor]]


def encode(model: Recommender, batch: Batch) -> Encoded:
    """The representations of all queries, items and pool items of a batch.

    Items and pool pass the tower together, each of whose operations then runs once.
    """
    items, pool = batch.items, batch.pool.items
    both = model.candidates(tf.concat([items, pool], 0))
    sizes = [tf.size(items), tf.size(pool)]
    parts = {head: tf.split(vectors, sizes, num=2) for head, vectors in both.items()}
    return {
        "query": model.queries(batch.query),
        "item": {head: item for head, (item, _) in parts.items()},
        "pool": {head: pool for head, (_, pool) in parts.items()},
    }


class GradientCache:
    """Encodes a batch in chunks, and passes gradients on in the same way.

    Args:
        model: The model, adapted.
        at_once: Queries, items or pool items of a replica that are encoded at once.

    Raises:
        UserError: If a table of the towers is sharded.
    """

    def __init__(self, model: Recommender, *, at_once: int) -> None:
        weights = model.query.trainable_variables + model.candidate.trainable_variables
        # Replicas would have to exchange rows within a loop, where they cannot wait for each other.
        if any(isinstance(v, ShardedVariable) for v in weights):
            raise UserError(
                "`encode_at_once` must be null where embedding tables are sharded; got "
                f"{at_once}. Set `encode_at_once`=null, or replicate the tables."
            )
        self.model = model
        self.at_once = at_once

    def encode(self, batch: Batch) -> Encoded:
        """What the function `encode` returns, to be called where no tape records."""
        heads, found = list(self.model.heads), {}
        for side, (rows, encode_rows) in self._sides(batch).items():

            def chunk(first: Any, last: Any, encode_rows: Encode = encode_rows) -> "_Parts":
                found = encode_rows(first, last)
                return [found[head] for head in heads], []

            vectors, _ = self._over_chunks(chunk, chunk(0, 0), rows)
            found[side] = dict(zip(heads, vectors, strict=True))
        return found

    def gradients(
        self,
        batch: Batch,
        variables: Sequence[tf.Variable],
        targets: Sequence[tuple[Sequence[Gradient], Mapping[str, Mapping[str, Gradient]]]],
    ) -> list[list[Gradient]]:
        """The gradient of each target with respect to each variable; None where no path leads.

        Args:
            batch: The batch.
            variables: The variables.
            targets: For each target, its gradients with respect to the variables where the
                representations do not change, and with respect to the representations.
        """
        parts = [[direct] for direct, _ in targets]
        for side, (rows, encode_rows) in self._sides(batch).items():
            upstream = [
                {head: _dense(g, tf.size(rows)) for head, g in of[side].items() if g is not None}
                for _, of in targets
            ]
            passed = self._passed_on(encode_rows, rows, variables, upstream)
            for part, gradients in zip(parts, passed, strict=True):
                part.append(gradients)
        return _alike([[_sum(each) for each in zip(*part, strict=True)] for part in parts])

    def _sides(self, batch: Batch) -> dict[str, tuple[tf.Tensor, Encode]]:
        """The rows of each side, and what encodes some of them."""
        model, query, items, pool = self.model, batch.query, batch.items, batch.pool.items
        return {
            "query": (query.users, lambda *part: model.queries(_chunk_of_queries(query, *part))),
            "item": (items, lambda first, last: model.candidates(items[first:last])),
            "pool": (pool, lambda first, last: model.candidates(pool[first:last])),
        }

    def _passed_on(
        self,
        encode_rows: Encode,
        rows: tf.Tensor,
        variables: Sequence[tf.Variable],
        upstream: Sequence[Mapping[str, tf.Tensor]],
    ) -> list[list[Gradient]]:
        """What the gradients with respect to a side's representations are to the variables."""

        def gradients(first: Any, last: Any) -> list[Gradient]:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(variables)
                found = encode_rows(first, last)
            return [
                gradient
                for of in upstream
                for gradient in tape.gradient(
                    [found[head] for head in of],
                    variables,
                    output_gradients=[g[first:last] for g in of.values()],
                )
            ]

        # Of no rows, to know which gradients there are.
        pattern = gradients(0, 0)
        found = self._over_chunks(
            lambda first, last: _taken_apart(gradients(first, last)), _taken_apart(pattern), rows
        )
        flat, count = _put_together(pattern, *found), len(variables)
        return [flat[k * count : (k + 1) * count] for k in range(len(upstream))]

    def _over_chunks(
        self, chunk: Callable[[Any, Any], "_Parts"], empty: "_Parts", rows: tf.Tensor
    ) -> "_Parts":
        """The parts of all chunks of `rows [n]`, of which one at a time is made.

        Args:
            chunk: The parts of the rows from a first to a last.
            empty: The parts of no rows.
            rows: The rows.
        """
        chunks = -(-tf.size(rows) // self.at_once)
        arrays = [
            tf.TensorArray(
                part.dtype, size=chunks, element_shape=[None, *part.shape[1:]], infer_shape=False
            )
            for part in empty[0]
        ]
        sums = [tf.zeros_like(part) for part in empty[1]]

        def body(k: tf.Tensor, arrays: Any, sums: Any) -> tuple[Any, Any, Any]:
            joined, added = chunk(k * self.at_once, (k + 1) * self.at_once)
            return (
                k + 1,
                [array.write(k, part) for array, part in zip(arrays, joined, strict=True)],
                [total + part for total, part in zip(sums, added, strict=True)],
            )

        _, arrays, sums = tf.while_loop(
            lambda k, *_: k < chunks, body, (0, arrays, sums), parallel_iterations=1
        )
        return [array.concat() for array in arrays], sums


# What comes of some rows: what is joined with that of other rows, `[n, ...]`, and what is added.
_Parts: TypeAlias = tuple[list[tf.Tensor], list[tf.Tensor]]


def _chunk_of_queries(query: QueryInputs, first: Any, last: Any) -> QueryInputs:
    """The queries from a first to a last with their histories, which lie side by side."""
    owners = query.history.owners
    first, last = (tf.cast(edge, owners.dtype) for edge in (first, last))
    start, stop = (tf.math.count_nonzero((owners >= 0) & (owners < edge)) for edge in (first, last))
    items, entries = query.history.items, query.history._replace(items=())
    entries = tf.nest.map_structure(lambda value: value[start:stop], entries)
    used, places = tf.unique(entries.places, tf.int64)
    history = entries._replace(
        items=tf.gather(items, used), owners=entries.owners - first, places=places
    )
    others = {name: value for name, value in query._asdict().items() if name != "history"}
    part = tf.nest.map_structure(lambda value: value[first:last], others)
    return QueryInputs(**part, history=history)


def _taken_apart(gradients: Sequence[Gradient]) -> _Parts:
    """Rows of tables are joined, gradients of dense weights added."""
    slices = [g for g in gradients if isinstance(g, tf.IndexedSlices)]
    return [part for g in slices for part in (g.values, g.indices)], [
        g for g in gradients if isinstance(g, tf.Tensor)
    ]


def _put_together(
    pattern: Sequence[Gradient], joined: Sequence[tf.Tensor], added: Sequence[tf.Tensor]
) -> list[Gradient]:
    """Undoes `_taken_apart`, for gradients that are of the kinds of those in `pattern`."""
    parts, sums = iter(joined), iter(added)
    found: list[Gradient] = []
    for like in pattern:
        if isinstance(like, tf.IndexedSlices):
            found.append(tf.IndexedSlices(next(parts), next(parts), like.dense_shape))
        else:
            found.append(None if like is None else next(sums))
    return found


def _sum(gradients: Sequence[Gradient]) -> Gradient:
    present = [g for g in gradients if g is not None]
    if len(present) < 2:
        return present[0] if present else None
    if not isinstance(present[0], tf.IndexedSlices):
        return tf.add_n(present)
    return tf.IndexedSlices(
        tf.concat([g.values for g in present], 0),
        tf.concat([g.indices for g in present], 0),
        present[0].dense_shape,
    )


def _alike(targets: Sequence[Sequence[Gradient]]) -> list[list[Gradient]]:
    """The gradients with tables summed by row, and of as many rows on every replica.

    Chunks meet an item anew, and each replica another number of times, but replicas exchange
    gradients of one length. It changes from step to step: take one step a call.
    """
    flat = [g for gradients in targets for g in gradients if isinstance(g, tf.IndexedSlices)]
    if not flat:
        return [list(gradients) for gradients in targets]
    summed = [sum_by_row(g) for g in flat]
    sizes = tf.stack([tf.size(rows) for rows, _ in summed])
    # Nor may there be none, as of the tables of a task without rows: TensorFlow 2.20 crashes where
    # replicas gather nothing.
    longest = tf.maximum(tf.reduce_max(all_gather(sizes[tf.newaxis]), axis=0), 1)
    extra = tf.unstack(longest - sizes)
    padded = iter(
        tf.IndexedSlices(
            tf.pad(values, [[0, more], [0, 0]]),
            tf.concat([rows, tf.zeros([more], rows.dtype)], 0),
            like.dense_shape,
        )
        for like, (rows, values), more in zip(flat, summed, extra, strict=True)
    )
    return [
        [next(padded) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        for gradients in targets
    ]


def _dense(gradient: Gradient, size: tf.Tensor) -> tf.Tensor:
    """A gradient of representations, whose rows a head may have picked."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, size)
    return gradient
