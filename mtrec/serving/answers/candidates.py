"""Where the candidates of an answer come from.

Shapes: `Q` queries, `N` candidates of each, as item rows, 0 where a source has no more.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.inputs import HistoryInputs, QueryInputs
from mtrec.errors import require

_DAY = 86_400  # seconds


class Asked(NamedTuple):
    """What is asked of the sources.

    Attributes:
        inputs: The queries.
        k: How many items each is to be answered with.
        best: The index's best of a number for each query, `[Q, N]`, and their scores, -inf where
            there is no more.
    """

    inputs: QueryInputs
    k: tf.Tensor
    best: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Known(NamedTuple):
    """What sources are made ready with.

    Attributes:
        dataset: The data.
        histories: What is known of all users.
        kept: Whether the filter keeps each item, `[C]`.
    """

    dataset: Dataset
    histories: Histories
    kept: np.ndarray


# Item rows `[Q, N]`, and their scores by the retrieval head where the source knows them.
Found: TypeAlias = tuple[tf.Tensor, tf.Tensor | None]
Finder: TypeAlias = Callable[[Asked], Found]


class Source(ABC):
    """A source of candidates."""

    @abstractmethod
    def ready(self, known: Known) -> Finder:
        """What finds candidates for queries.

        Raises:
            UserError: If the data lacks what it is to go by.
        """


@dataclass(frozen=True, kw_only=True)
class CountedSource(Source):
    """A source of a number of candidates.

    Args:
        count: How many.
    """

    count: int

    def __post_init__(self) -> None:
        require("`count`", self.count, least=1)


@dataclass(frozen=True, kw_only=True)
class Best(Source):
    """The items of the index that the retrieval head scores highest.

    Args:
        count: How many; null for as many as are asked for.
    """

    count: int | None

    def __post_init__(self) -> None:
        if self.count is not None:
            require("`count`", self.count, least=1)

    def ready(self, known: Known) -> Finder:
        """What searches the index."""
        most = int(known.kept.sum())
        return lambda asked: asked.best(
            tf.minimum(asked.k, most) if self.count is None else tf.constant(min(self.count, most))
        )


class Own(CountedSource):
    """The items that a user has most often, of equally frequent ones the latest first."""

    def ready(self, known: Known) -> Finder:
        """What counts the items of histories."""
        return lambda asked: (most_frequent(asked.inputs.history, asked.inputs.users, self), None)


def most_frequent(history: HistoryInputs, users: tf.Tensor, own: Own) -> tf.Tensor:
    """Rows of the items that each history holds most often, `[Q, N]`."""
    total = tf.size(history.items, tf.int64)
    width = tf.cast(tf.reduce_max(tf.pad(history.items, [[0, 1]])), tf.int64) + 1
    pairs = tf.cast(history.owners, tf.int64) * width + tf.cast(history.items, tf.int64)
    distinct, which, counts = tf.unique_with_counts(pairs, tf.int64)
    latest = tf.math.unsorted_segment_max(tf.range(total), which, tf.size(distinct))
    # An owner's pairs lie together, the most frequent first, of equally frequent ones the latest.
    rank = counts * (total + 1) + latest
    order = tf.argsort(rank, direction="DESCENDING")
    order = tf.gather(order, tf.argsort(tf.gather(distinct // width, order), stable=True))
    pairs = tf.gather(distinct, order)
    owners = pairs // width
    place = tf.range(tf.size(owners, tf.int64)) - tf.searchsorted(owners, owners, out_type=tf.int64)
    first = place < own.count
    where = tf.boolean_mask(tf.stack([owners, place], axis=1), first)
    items = tf.cast(tf.boolean_mask(pairs % width, first), tf.int32)
    shape = tf.cast(tf.stack([tf.size(users), own.count]), tf.int64)
    return tf.scatter_nd(where, items, shape)


class ForAll(CountedSource):
    """A source that gives all users the same items, and whose values may be fused by its name."""

    @abstractmethod
    def values(self, known: Known) -> np.ndarray:
        """What it goes by, higher ones first, float32 `[C]`."""

    def ready(self, known: Known) -> Finder:
        """What gives all users the items of the highest values among those that are kept."""
        values, rows = self.values(known), np.flatnonzero(known.kept)
        best = rows[np.argsort(-values[rows], kind="stable")][: self.count] + 1
        items = tf.constant(best[np.newaxis].astype(np.int32))
        return lambda asked: (tf.repeat(items, tf.size(asked.inputs.users), axis=0), None)


@dataclass(frozen=True, kw_only=True)
class Popular(ForAll):
    """The items that users have most often; its values are the items' shares of all interactions.

    Args:
        half_life: Days in which an interaction comes to count half, back from the latest; null for
            all alike.
    """

    half_life: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half_life is not None:
            require("`half_life`", self.half_life, above=0)

    def values(self, known: Known) -> np.ndarray:
        """The shares."""
        histories = known.histories
        weights = np.ones(len(histories.items))
        if self.half_life is not None:
            age = (histories.times.max(initial=0) - histories.times) / _DAY
            weights = 0.5 ** (age / self.half_life)
        counts = np.bincount(histories.items, weights, len(known.kept) + 1)[1:]
        return (counts / max(weights.sum(), 1e-9)).astype(np.float32)


class Newest(ForAll):
    """The items that were first taken last; those that nobody took are the newest.

    Its values are days from when the first item was taken.
    """

    def values(self, known: Known) -> np.ndarray:
        """The days."""
        since = np.full(len(known.kept) + 1, known.histories.times.max(initial=0) + _DAY)
        np.minimum.at(since, known.histories.items, known.histories.times)
        return (since - since.min())[1:] / _DAY
