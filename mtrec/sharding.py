"""Embedding tables whose rows are divided among the replicas: row r is on replica r % R.

A lookup gathers everybody's ids, each replica contributes the rows that it holds, and the sum of
those contributions is everybody's embeddings. The gradient comes back the same way, so that each
replica finds the whole batch's gradient of its own rows and updates them by itself.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from mtrec.strategy import all_gather, all_sum, local_replicas, num_workers, own_replica
from mtrec.tables import TABLE, Table

# Rows of each replica that travel at once when a table is gathered to be saved or judged.
ROWS_AT_ONCE = 65_536

_largest_replicated: ContextVar[float] = ContextVar("largest_replicated", default=math.inf)


@contextmanager
def sharded_above(mib: float) -> Iterator[None]:
    """Tables of more than `mib` MiB that are made inside are sharded; see `make_table`."""
    token = _largest_replicated.set(mib)
    try:
        yield
    finally:
        _largest_replicated.reset(token)


def make_table(values: np.ndarray, *, name: str) -> keras.layers.Layer:
    """A table of `values [rows, D]`: sharded where `sharded_above` says so and replicas are many.

    Args:
        values: The initial table, float32.
        name: Name of the table in checkpoints and reports.
    """
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if alone or values.nbytes <= _largest_replicated.get() * 2**20:
        return Table(values, name=name)
    return ShardedTable(values, name=name)


class ShardedVariable(keras.Variable):
    """A variable `[rows, ...]` of which every replica holds `[ceil(rows / R), ...]`.

    Its shape, `numpy` and `assign` are those of the whole variable. `value` is a replica's own
    shard in the replica's step.

    Args:
        shape: Shape of the whole variable.
        start: Initial value of all its numbers.
        trainable: Whether it is a weight, or a slot of an optimizer.
        name: Its name.
    """

    def __init__(self, shape: Sequence[int], *, start: float, trainable: bool, name: str) -> None:
        self.strategy = tf.distribute.get_strategy()
        self.num_replicas = self.strategy.num_replicas_in_sync
        self._gathered: np.ndarray | None = None
        initializer = keras.initializers.Constant(start)
        super().__init__(initializer, shape=shape, dtype="float32", trainable=trainable, name=name)

    def _initialize_with_initializer(self, initializer: Callable[..., tf.Tensor]) -> None:
        # TensorFlow lets no trainable variable differ between replicas: tapes must watch this one.
        self._value = tf.Variable(
            lambda: initializer(self.shard_shape, dtype=self.dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            name=self.name,
        )

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of what one replica holds."""
        return (-(-self.shape[0] // self.num_replicas), *self.shape[1:])

    @property
    def shards(self) -> dict[int, tf.Variable]:
        """The shards of this process' replicas, by the replica's number."""
        found = self.strategy.experimental_local_results(self._value)
        return dict(zip(local_replicas(self.strategy), found, strict=True))

    @property
    def value(self) -> tf.Variable:
        """In a replica its own shard; outside, all shards of this process as one variable."""
        context = tf.distribute.get_replica_context()
        inside = context is not None and context.strategy is self.strategy
        return self.shards[own_replica()] if inside else self._value

    def assign(self, value: np.ndarray) -> None:
        """Gives every replica of this process its rows of `value [rows, ...]`."""
        for replica, shard in self.shards.items():
            own = np.zeros(self.shard_shape, np.float32)
            rows = value[replica :: self.num_replicas]
            own[: len(rows)] = rows
            shard.assign(own)

    def numpy(self) -> np.ndarray:
        """All rows in their order; where several workers train, within `gathered` alone."""
        if self._gathered is not None:
            return self._gathered
        return self._interleaved([shard.numpy() for _, shard in sorted(self.shards.items())])

    def _interleaved(self, shards: Sequence[np.ndarray]) -> np.ndarray:
        whole = np.empty(self.shape, np.float32)
        for replica, shard in enumerate(shards):
            rows = whole[replica :: self.num_replicas]
            rows[:] = shard[: len(rows)]
        return whole

    @contextmanager
    def _kept_whole(self) -> Iterator[None]:
        if num_workers(self.strategy) == 1 or self._gathered is not None:
            yield
            return
        count = self.shard_shape[0]
        parts = [self._part(slice(i, i + ROWS_AT_ONCE)) for i in range(0, count, ROWS_AT_ONCE)]
        self._gathered = self._interleaved(list(np.concatenate(parts, axis=1)))
        try:
            yield
        finally:
            self._gathered = None

    def _part(self, rows: slice) -> np.ndarray:
        """Some rows of every replica's shard, `[R, n, ...]`."""
        part = self.strategy.experimental_distribute_values_from_function(
            lambda context: self.shards[context.replica_id_in_sync_group][rows]
        )
        part = self.strategy.experimental_local_results(_gathering(self.strategy)(part))[0].numpy()
        return part.reshape(self.num_replicas, -1, *self.shape[1:])


@functools.cache
def _gathering(strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    return cast(
        Callable[[Any], Any],
        tf.function(lambda part: strategy.run(all_gather, args=(part,)), reduce_retracing=True),
    )


@contextmanager
def gathered(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Inside, the sharded ones of `variables` can be read whole by every worker.

    Where several workers train, all of them enter this together. Each keeps the whole variables in
    its host's memory meanwhile; no device ever holds more than its shard and a part in transit.
    """
    with ExitStack() as stack:
        for variable in variables:
            if isinstance(variable, ShardedVariable):
                stack.enter_context(variable._kept_whole())
        yield


class ShardedTable(keras.layers.Layer):
    """A `Table` of which every replica holds and updates its own rows.

    All replicas must look up equally many rows at once, as padded batches do.

    Args:
        values: The initial table, `[rows, D]`.
        name: Name of the table in checkpoints and reports.
    """

    def __init__(self, values: np.ndarray, *, name: str) -> None:
        super().__init__(name=name)
        with keras.name_scope(self.name):
            self.embeddings = ShardedVariable(values.shape, start=0.0, trainable=True, name=TABLE)
        self.embeddings.assign(values)
        self.built = True

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of `rows`: `[...] -> [..., D]`."""
        rows = tf.convert_to_tensor(rows)
        flat = tf.reshape(rows, [-1])
        context = tf.distribute.get_replica_context()
        training = context is not None and context.num_replicas_in_sync > 1
        vectors = self._exchanged(flat) if training else self._read(flat)
        return tf.reshape(vectors, tf.concat([tf.shape(rows), [self.embeddings.shape[1]]], axis=0))

    def _exchanged(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of this replica's rows `[n]`, of which the others hold most: `[n, D]`."""
        replica = own_replica()
        found = self._held(self.embeddings.value, replica, all_gather(rows))  # [R * n, D]
        return _own_part(found, replica * tf.size(rows), tf.size(rows))

    def _read(self, rows: tf.Tensor) -> tf.Tensor:
        """The same outside the training step, where this process reads all rows by itself."""
        if num_workers(self.embeddings.strategy) > 1:
            return tf.constant(self.embeddings.numpy()[rows.numpy()])
        shards = self.embeddings.shards
        return tf.add_n([self._held(shard, replica, rows) for replica, shard in shards.items()])

    def _held(self, shard: tf.Variable, replica: int, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of those `rows [n]` that a replica holds, zeros for the others: `[n, D]`."""
        mine = rows % self.embeddings.num_replicas == replica
        place = tf.where(mine, rows // self.embeddings.num_replicas, 0)
        return tf.where(mine[:, tf.newaxis], tf.nn.embedding_lookup(shard, place), 0.0)


def _own_part(found: tf.Tensor, first: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """This replica's `size` rows from `first` on of the sum of every replica's `found`.

    The gradient with respect to that sum is the replicas' gradients one after the other: gathering
    them is half of what summing blocks of that size would send.
    """

    @tf.custom_gradient
    def exchange(found: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return all_sum(found)[first : first + size], all_gather

    return exchange(found)
