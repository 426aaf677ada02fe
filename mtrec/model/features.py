"""Features: one small layer per kind of column, each mapping its column to `[B, D]`.

A feature does its work in two steps. `encode` turns raw values into numbers once, on the host;
`call` turns those numbers into embeddings in the training step and in the exported model.
"""

import re
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.columns import Bags, Column, Ragged, Texts, first_text
from mtrec.data.vocabulary import Vocabulary, as_text
from mtrec.distributed.sharded_tables import make_table
from mtrec.distributed.tables import NormalRows
from mtrec.distributed.weights import seed_for, twin, unnumbered
from mtrec.errors import UserError, require
from mtrec.model.bags import BagRows, mean, unknown_where
from mtrec.model.pooling import Pooling


class Feature(keras.layers.Layer, ABC):
    """A column of the users' or items' table and how it becomes a vector.

    Life of a feature: `adapt` to the raw column, `create` its weights, then `encode` and `call`.

    Args:
        column: The column it reads.
        dropout: Probability that a training query is served as if its value were unknown, so that
            the model learns to do without. For features of the query tower.
    """

    # What a column must hold, one value a row: `text` or `numbers`. Null: any, also a bag of them.
    reads: str | None

    def __init__(self, *, column: str, dropout: float = 0.0) -> None:
        super().__init__(name=unnumbered(self))
        _check_dropout(dropout, f"the feature of {column!r}")
        self.column = column
        self.dropout = dropout

    def check(self, values: Column, *, named_by: str) -> None:
        """Raises for a raw column that the feature cannot read.

        Args:
            values: The column: an array of numbers, `Texts` or `Bags`.
            named_by: Where the config names the feature.

        Raises:
            UserError: If it holds text for numbers, numbers for text, or a bag for either.
        """
        holds = "numbers" if values.dtype.kind in "biuf" else "text"
        if self.reads is None or (self.reads == holds and values.ndim == 1):
            return
        held = f"several values a row ({holds})" if values.ndim > 1 else holds
        if isinstance(values, Texts) and self.reads == "numbers":
            held += first_text(values)
        raise UserError(
            f"`{named_by}` must read a column of {self.reads}, one value a row; {self.column!r} "
            f"holds {held}. Name another column, or make the feature categorical."
        )

    @abstractmethod
    def adapt(self, values: Column) -> None:
        """Learns the vocabulary or the scale from the raw column."""

    def cut(self, encoded: np.ndarray | Ragged, times: np.ndarray) -> bool:
        """Forgets what training rows have too seldom; returns whether it did, and by default not.

        Args:
            encoded: The column, as `encode` has it.
            times: In how many training rows each row of the column is, `[rows]`.
        """
        return False

    @abstractmethod
    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the weights, for embeddings of width `dim` that start at `stddev`."""

    def twin(self) -> "Feature":
        """A feature that reads the same encoded values, with weights of its own to `create`.

        What `adapt` has learnt is not copied but shared.
        """
        return twin(self)

    @abstractmethod
    def encode(self, values: Column) -> np.ndarray | Ragged:
        """Raw values as int32 or float32 numbers `[rows, ...]` that `call` understands.

        An unknown value is zeros. Where a row has any number of values, the numbers are `Ragged`.
        """

    def recipe(self) -> dict[str, Any] | None:
        """What `encode` does, as JSON values for `mlflow_model.py`, which has no mtrec.

        Null where that file does not know how: new users cannot send the column there.
        """
        return None

    def dropped(self, encoded: tf.Tensor | BagRows, draw: tf.Tensor) -> tf.Tensor | BagRows:
        """Encoded values of B rows, those of unknown ones (zeros) where `draw [B] < dropout`."""
        return unknown_where(draw < self.dropout, encoded)

    @abstractmethod
    def call(self, encoded: Any) -> tf.Tensor:
        """Encoded values `[B, ...]`, or of `Ragged` ones `BagRows`, as embeddings `[B, D]`."""


class _Lookup(Feature):
    """What features with one embedding per row share: the table, looked up and returned."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows of the table, row 0 for unknown values included."""

    def adapt(self, values: Column) -> None:
        """Nothing to learn, unless a feature says otherwise."""

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the table."""
        known = np.arange(self.num_rows) > 0
        values = NormalRows(known, dim=dim, stddev=stddev, seed=seed_for(seed, name))
        self.table = make_table(values, name=name.replace("/", "_"))
        self.built = True

    def call(self, encoded: tf.Tensor | BagRows) -> tf.Tensor:
        """Rows `[B]` give one embedding each, `BagRows` the mean over those that are known."""
        if isinstance(encoded, BagRows):
            return mean(self.table(encoded.values), encoded)
        return self.table(encoded)


class Categorical(_Lookup):
    """A value from a list, such as an id, a gender or (as a bag) the genres of a film.

    Args:
        column: The column it reads.
        min_count: Values that fewer training rows have are served like those that none has: they
            have no row of their own, and share row 0, which learns from them.
        dropout: See `Feature`.

    Raises:
        UserError: If `min_count` is below 1.
    """

    reads = None

    def __init__(self, *, column: str, min_count: int = 1, dropout: float = 0.0) -> None:
        super().__init__(column=column, dropout=dropout)
        require("`min_count`", min_count, least=1)
        self.min_count = min_count

    def adapt(self, values: Column) -> None:
        """Takes the distinct values as vocabulary."""
        self.vocabulary = Vocabulary(values)

    def cut(self, encoded: np.ndarray | Ragged, times: np.ndarray) -> bool:
        """Forgets values that fewer than `min_count` training rows have."""
        if self.min_count == 1:
            return False
        if isinstance(encoded, Ragged):
            times = np.repeat(times, np.diff(encoded.offsets))
            encoded = encoded.values
        counts = np.bincount(encoded, times, minlength=self.num_rows)
        self.vocabulary = self.vocabulary.kept(counts[1:] >= self.min_count)
        return True

    @property
    def num_rows(self) -> int:
        """Distinct values and the unknown one."""
        return len(self.vocabulary)

    def encode(self, values: Column) -> np.ndarray | Ragged:
        """Row numbers in the vocabulary."""
        text = as_text(values)
        rows = self.vocabulary.rows(text)
        return Ragged(text.offsets, rows) if isinstance(text, Bags) else rows

    def recipe(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"kind": "vocabulary", "values": self.vocabulary.values}


class Hashed(_Lookup):
    """A value from a list too long or too changeable to keep, such as a zip code.

    Args:
        column: The column it reads.
        bins: Number of hash bins.
        dropout: See `Feature`.
    """

    reads = None

    def __init__(self, *, column: str, bins: int, dropout: float = 0.0) -> None:
        super().__init__(column=column, dropout=dropout)
        require("`bins`", bins, least=1)
        self.bins = bins

    @property
    def num_rows(self) -> int:
        """The bins and the missing value."""
        return self.bins + 1

    def recipe(self) -> dict[str, Any]:
        """The number of bins."""
        return {"kind": "hash", "bins": self.bins}

    def encode(self, values: Column) -> np.ndarray | Ragged:
        """CRC-32 of the text, modulo the bins; 0 for a missing value."""
        text = as_text(values)
        if isinstance(text, Bags):
            return Ragged(text.offsets, self._hashes(text.labels)[text.codes])
        return self._hashes(text)

    def _hashes(self, text: Texts) -> np.ndarray:
        rows = [zlib.crc32(t.encode()) % self.bins + 1 if t else 0 for t in text.tolist()]
        return np.asarray(rows, np.int32)


class Bucketized(_Lookup):
    """A number by the quantile it falls into, such as an age or a year.

    Args:
        column: The column it reads.
        bins: Number of buckets, with about equally many rows in each.
        dropout: See `Feature`.
    """

    reads = "numbers"

    def __init__(self, *, column: str, bins: int, dropout: float = 0.0) -> None:
        super().__init__(column=column, dropout=dropout)
        require("`bins`", bins, least=1)
        self.bins = bins

    def adapt(self, values: Column) -> None:
        """Puts the boundaries at the quantiles of the known values."""
        known = values[np.isfinite(values)].astype(np.float64)
        inner = np.linspace(0, 1, self.bins + 1)[1:-1]
        self.boundaries = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)

    @property
    def num_rows(self) -> int:
        """The buckets and the missing value."""
        return len(self.boundaries) + 2

    def encode(self, values: Column) -> np.ndarray:
        """Bucket numbers from 1; 0 where the value is missing."""
        values = np.asarray(values, np.float64)
        rows = np.searchsorted(self.boundaries, values, side="right") + 1
        return np.where(np.isfinite(values), rows, 0).astype(np.int32)

    def recipe(self) -> dict[str, Any]:
        """The boundaries."""
        return {"kind": "buckets", "boundaries": self.boundaries.tolist()}


class Text(_Lookup):
    """A line of text, such as a title, as the mean embedding of its words.

    Args:
        column: The column it reads.
        max_words: Words kept of each text.
        min_count: Words that occur in fewer texts are left out.
        dropout: See `Feature`.
    """

    reads = "text"

    def __init__(
        self, *, column: str, max_words: int, min_count: int, dropout: float = 0.0
    ) -> None:
        super().__init__(column=column, dropout=dropout)
        require("`max_words`", max_words, least=1)
        require("`min_count`", min_count, least=1)
        self.max_words = max_words
        self.min_count = min_count

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    def adapt(self, values: Column) -> None:
        """Takes the words that occur in at least `min_count` texts as vocabulary."""
        counts = Counter(word for text in _lines(values) for word in set(self._words(text)))
        kept = sorted(word for word, count in counts.items() if count >= self.min_count)
        self.vocabulary = Vocabulary(Texts.of(kept))

    @property
    def num_rows(self) -> int:
        """Words and the unknown one."""
        return len(self.vocabulary)

    def encode(self, values: Column) -> Ragged:
        """Row numbers of the first `max_words` words of each text."""
        words = Bags.of(self._words(text)[: self.max_words] for text in _lines(values))
        return Ragged(words.offsets, self.vocabulary.rows(words))

    def recipe(self) -> dict[str, Any]:
        """The words, and how many of a text are read."""
        words = self.vocabulary.values
        return {"kind": "words", "values": words, "max_words": self.max_words}


def _lines(values: Column) -> Iterator[str]:
    """One text after the other, so that no more than one is a Python string at a time."""
    text = as_text(values)
    return (text[row] for row in range(len(text)))


class Dense(Feature):
    """What features made of numbers share: a learnt direction for each number."""

    reads = "numbers"

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the `[F, D]` kernel; its width F is that of the encoded column."""
        rng = np.random.default_rng(seed_for(seed, name))
        values = rng.standard_normal((self.width, dim), dtype=np.float32) * stddev
        self.kernel = self.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype: tf.constant(values, dtype),
            name="kernel",
        )
        self.built = True

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers per row of the encoded column."""

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """`[B, F] x [F, D] -> [B, D]`."""
        return tf.matmul(encoded, self.kernel.value)


class Numeric(Dense):
    """A number, standardised with the mean and deviation of the column; 0 where missing."""

    width = 1

    def adapt(self, values: Column) -> None:
        """Learns mean and standard deviation of the known values."""
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        self.mean = known.mean() if len(known) else 0.0
        self.deviation = (known.std() if len(known) else 0.0) or 1.0

    def encode(self, values: Column) -> np.ndarray:
        """Standardised values, `[rows, 1]`."""
        scaled = (np.asarray(values, np.float64) - self.mean) / self.deviation
        return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)[:, np.newaxis]

    def recipe(self) -> dict[str, Any]:
        """Mean and deviation."""
        return {"kind": "number", "mean": float(self.mean), "deviation": float(self.deviation)}


class History:
    """The items that a user chose before, pooled: `[B, D]`.

    It looks items up in the embeddings of a candidate feature, so that the two towers share one
    table of items. A training row never sees its own target here, however often the user took it:
    `mtrec.data.batches` decides what is shown.

    Args:
        candidate: Name of the shared candidate feature whose embeddings are pooled.
        pooling: What makes one vector of them. Where heads have tables of their own, each table
            gets a pooling of its own.
        dropout: Probability that a training query is served as if it had no history, so that the
            model learns what to say then. Its targets stay what they are.
    """

    def __init__(self, *, candidate: str, pooling: Pooling, dropout: float = 0.0) -> None:
        _check_dropout(dropout, f"the history of {candidate!r}")
        self.candidate = candidate
        self.pooling = pooling
        self.dropout = dropout


def _check_dropout(dropout: float, of: str) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"`dropout` of {of} must be at least 0 and below 1; got {dropout}.")
