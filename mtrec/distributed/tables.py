"""Embedding tables: made from a seed and a name, looked up and updated row by row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.distributed.row_files import ROWS_AT_ONCE, put

# The name of every embedding table's variable; optimizers are assigned by it.
TABLE = "embeddings"


@dataclass(frozen=True)
class NormalRows:
    """Normal numbers `[rows, dim]`, with zeros in rows that stand for an unknown value.

    Attributes:
        known: Whether each row stands for a known one, `[rows]`.
        dim: Width of each.
        stddev: Their standard deviation.
        seed: Seed of the numbers.
    """

    known: np.ndarray
    dim: int
    stddev: float
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of all of them."""
        return len(self.known), self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return 4 * len(self.known) * self.dim

    def blocks(self) -> Iterator[np.ndarray]:
        """Some rows after the other, `[n, dim]`; their numbers do not depend on how many."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, len(self.known), ROWS_AT_ONCE):
            known = self.known[start : start + ROWS_AT_ONCE]
            values = rng.standard_normal((len(known), self.dim), np.float32) * self.stddev
            values[~known] = 0.0
            yield values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(list(self.blocks()))


def blocks_of(values: np.ndarray | NormalRows) -> Iterator[np.ndarray]:
    """All rows of a table's initial values, some after the other, float32 `[n, ...]`."""
    if isinstance(values, NormalRows):
        yield from values.blocks()
        return
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield values[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)


def filled_with(number: float) -> Callable[..., tf.Tensor]:
    """An initializer that fills a variable; Keras' own makes another of ones first."""
    return lambda shape, dtype: tf.fill(shape, tf.cast(number, dtype))


def tables_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of all tables in a layer, `[rows, D]` each."""
    return [v for v in layer.trainable_variables if v.name == TABLE]


class Table(keras.layers.Layer):
    """An embedding table `[rows, D]` whose lookups and gradients touch only the rows asked for.

    `keras.layers.Embedding` reads the whole table densely, which makes TensorFlow copy it at every
    sparse update; `tf.nn.embedding_lookup` on the resource does neither.

    Args:
        values: The initial table, `[rows, D]`.
        name: Name of the table in checkpoints and reports.
    """

    def __init__(self, values: np.ndarray | NormalRows, *, name: str) -> None:
        super().__init__(name=name)
        self.embeddings = self.add_weight(
            shape=values.shape, initializer=filled_with(0.0), name=TABLE
        )
        copies = tf.distribute.get_strategy().experimental_local_results(self.embeddings.value)
        start = 0
        for block in blocks_of(values):
            for copy in copies:
                put(copy, np.arange(start, start + len(block), dtype=np.int32), block)
            start += len(block)
        self.built = True

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of `rows`: `[...] -> [..., D]`."""
        return tf.nn.embedding_lookup(self.embeddings.value, rows)
