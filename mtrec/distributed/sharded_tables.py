"""Embedding tables whose rows are divided among the replicas: row r is on replica r % R.

A lookup gathers everybody's ids, each replica contributes the rows that it holds, and the sum of
those contributions is everybody's embeddings. The gradient comes back the same way, so that each
replica finds the whole batch's gradient of its own rows and updates them by itself.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import default_variable_creator_v2

from mtrec.distributed import row_files
from mtrec.distributed.row_files import ROWS_AT_ONCE, RowFiles, put
from mtrec.distributed.strategy import (
    all_gather,
    all_sum,
    from_workers,
    is_chief,
    local_devices,
    local_replicas,
    num_workers,
    own_replica,
)
from mtrec.distributed.tables import TABLE, NormalRows, Table, blocks_of, filled_with

_left_on_disk: ContextVar[bool] = ContextVar("left_on_disk", default=False)
_largest_replicated: ContextVar[float] = ContextVar("largest_replicated", default=math.inf)


@contextmanager
def sharded_above(mib: float) -> Iterator[None]:
    """Tables of more than `mib` MiB that are made inside are sharded; see `make_table`."""
    token = _largest_replicated.set(mib)
    try:
        yield
    finally:
        _largest_replicated.reset(token)


@contextmanager
def left_on_disk() -> Iterator[None]:
    """Tables that `sharded_above` shards hold no rows if they are made inside, in one process.

    They read what is asked for from the checkpoint that is read into them; see `mapped`.
    """
    token = _left_on_disk.set(True)
    try:
        yield
    finally:
        _left_on_disk.reset(token)


def make_table(values: np.ndarray | NormalRows, *, name: str) -> keras.layers.Layer:
    """A table of `values [rows, D]`: sharded where `sharded_above` says so and replicas are many.

    Args:
        values: The initial table, float32.
        name: Name of the table in checkpoints and reports.
    """
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    whole = alone and not _left_on_disk.get()
    if whole or values.nbytes <= _largest_replicated.get() * 2**20:
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
        self._files: RowFiles | None = None
        self._on_disk = _left_on_disk.get()
        super().__init__(
            filled_with(start), shape=shape, dtype="float32", trainable=trainable, name=name
        )

    def _initialize_with_initializer(self, initializer: Callable[..., tf.Tensor]) -> None:
        # A strategy makes its variables of copies that replicas send each other.
        with tf.variable_creator_scope(_made_here):
            self._local = [
                self._shard(initializer, device) for device in local_devices(self.strategy)
            ]
        self._value = self._local[0]
        for shard in self._local:
            # By which Keras knows a variable, whichever replica's step it meets it in.
            shard._unique_id = self._value._unique_id

    def _shard(self, initializer: Callable[..., tf.Tensor], device: str) -> tf.Variable:
        with tf.device(device):
            start = initializer(self.shard_shape, dtype=self.dtype)
            # Tapes are told to watch it.
            return tf.Variable(start, trainable=False, name=self.name)

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of what one replica holds."""
        if self._on_disk:
            return (0, *self.shape[1:])
        return (-(-self.shape[0] // self.num_replicas), *self.shape[1:])

    @property
    def shards(self) -> dict[int, tf.Variable]:
        """The shards of this process' replicas, by the replica's number."""
        if self._on_disk:
            return {}
        return dict(zip(local_replicas(self.strategy), self._local, strict=True))

    @property
    def value(self) -> tf.Variable:
        """In a replica its own shard; outside, the first of this process."""
        context = tf.distribute.get_replica_context()
        inside = context is not None and context.strategy is self.strategy
        return self.shards[own_replica()] if inside and not self._on_disk else self._value

    def assign(self, value: np.ndarray) -> None:
        """Gives every replica of this process its rows of `value [rows, ...]`."""
        self.fill(blocks_of(value))

    def fill(self, blocks: Iterable[np.ndarray]) -> None:
        """Gives every replica of this process its rows of the consecutive `blocks [n, ...]`."""
        if self._on_disk:
            return
        start = 0
        for block in blocks:
            for replica, shard in self.shards.items():
                rows = np.arange(start, start + len(block))
                held = rows % self.num_replicas == replica
                put(shard, rows[held] // self.num_replicas, block[held])
            start += len(block)

    def write(self, directory: Path, name: str) -> list[Path]:
        """Writes the shards of this process as files of the table `name`, and returns these."""
        whole = {"rows": self.shape[0], "replicas": self.num_replicas}
        return [
            row_files.write(shard, directory, name, replica=replica, **whole)
            for replica, shard in self.shards.items()
        ]

    def read(self, files: RowFiles) -> None:
        """Reads the shards of this process, or leaves all rows where they are."""
        self._files = files if self._on_disk else None
        for replica, shard in self.shards.items():
            row_files.read(shard, files, replica=replica, replicas=self.num_replicas)

    @property
    def everywhere(self) -> bool:
        """Whether this process has all rows as variables."""
        return self._files is None and num_workers(self.strategy) == 1

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Some rows out of files; where several workers train, within `readable` alone."""
        assert self._files is not None
        return self._files[rows]

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in their order, some at a time where they are in files."""
        if self.everywhere:
            yield self.numpy()
            return
        for start in range(0, self.shape[0], ROWS_AT_ONCE):
            yield self.rows(np.arange(start, min(start + ROWS_AT_ONCE, self.shape[0])))

    def numpy(self) -> np.ndarray:
        """All rows in their order; where several workers train, within `readable` alone."""
        if not self.everywhere:
            return np.concatenate(list(self.blocks()))
        whole = np.empty(self.shape, np.float32)
        for replica, shard in self.shards.items():
            rows = whole[replica :: self.num_replicas]
            rows[:] = shard.numpy()[: len(rows)]
        return whole


def _made_here(_: Any, **given: Any) -> tf.Variable:
    """A creator of variables that asks no strategy."""
    return default_variable_creator_v2(None, **given)


@contextmanager
def readable(variables: Sequence[keras.Variable], directory: Path) -> Iterator[None]:
    """Inside, all rows of the sharded ones of `variables` can be read by every worker.

    Where several workers train, all of them enter this together: each writes its shards to files
    that all map, so that none ever holds those of others.

    Args:
        variables: The variables.
        directory: Where all workers can write and read; it is deleted at the end.
    """
    sharded = [v for v in variables if isinstance(v, ShardedVariable)]
    if not sharded or num_workers(sharded[0].strategy) == 1 or sharded[0]._files:
        yield
        return
    strategy = sharded[0].strategy
    names = [f"table-{place:03d}" for place in range(len(sharded))]

    def write() -> dict[str, np.ndarray]:
        directory.mkdir(parents=True, exist_ok=True)
        for variable, name in zip(sharded, names, strict=True):
            variable.write(directory, name)
        return {}

    from_workers(strategy, write)
    for variable, name in zip(sharded, names, strict=True):
        variable._files = RowFiles(directory, name)
    try:
        yield
    finally:
        for variable in sharded:
            variable._files = None
    from_workers(strategy, dict)  # until nobody reads
    if is_chief(strategy):
        shutil.rmtree(directory)


@contextmanager
def mapped(variables: Sequence[keras.Variable], directory: Path) -> Iterator[None]:
    """Inside, those of `variables` that were left on disk are TensorFlow variables `[rows, ...]`.

    Their rows are in files that are mapped into memory, which need not hold them.

    Args:
        variables: The variables.
        directory: Where to write those files, which are no longer needed at the end.
    """
    on_disk = [v for v in variables if isinstance(v, ShardedVariable) and v._on_disk]
    before = [(v._files, v._local) for v in on_disk]
    try:
        for place, variable in enumerate(on_disk):
            assert variable._files is not None
            # On a GPU it would be a copy.
            with tf.device("CPU:0"):
                rows = row_files.mapped(variable._files, directory / f"table-{place:03d}")
                value = tf.Variable(rows, trainable=False, name=variable.name)
            variable._on_disk, variable._files = False, None
            variable._value, variable._local = value, [value]
        yield
    finally:
        for variable, (files, local) in zip(on_disk, before, strict=True):
            variable._on_disk, variable._files = True, files
            variable._value, variable._local = local[0], local


class ShardedTable(keras.layers.Layer):
    """A `Table` of which every replica holds and updates its own rows.

    All replicas must look up equally many rows at once, as padded batches do.

    Args:
        values: The initial table, `[rows, D]`.
        name: Name of the table in checkpoints and reports.
    """

    def __init__(self, values: np.ndarray | NormalRows, *, name: str) -> None:
        super().__init__(name=name)
        with keras.name_scope(self.name):
            self.embeddings = ShardedVariable(values.shape, start=0.0, trainable=True, name=TABLE)
        self.embeddings.fill(blocks_of(values))
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
        if not self.embeddings.everywhere:
            return tf.constant(self.embeddings.rows(rows.numpy()))
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
