"""Correlated feature masking: which features two views of an item are made of.

Features that tell much about each other are hidden together, or else a view would give away what
the other one hides (Yao et al., CIKM 2021, arXiv:2007.12865, section 3.2).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtrec.model.bags import EncodedBags

# Mutual information is estimated from at most so many items.
MOST_ITEMS = 2**16
# Numbers count by which of so many equally full bins they fall into.
BINS = 10


class CorrelatedMasks:
    """For each feature as seed, the half of the features that only one of two views shows.

    Args:
        columns: Each feature's encoded column `[C, ...]`, without the row of unknown items.
    """

    def __init__(self, columns: Mapping[str, np.ndarray | EncodedBags]) -> None:
        self.names = list(columns)
        self.together = most_correlated(mutual_information(list(columns.values())))

    def halves(self, draw: tf.Tensor) -> list[dict[str, tf.Tensor]]:
        """By name, whether a feature is shown by the one view, and whether by the other.

        The seed is drawn anew in each step and hidden from the first view, with its half.

        Args:
            draw: A whole number, a scalar: the seed is what remains of it divided by their number.
        """
        hidden = tf.unstack(tf.constant(self.together)[draw % len(self.names)])
        one = {name: ~h for name, h in zip(self.names, hidden, strict=True)}
        return [one, dict(zip(self.names, hidden, strict=True))]


def most_correlated(information: np.ndarray) -> np.ndarray:
    """For each feature itself and those it has most information on, `[k, k]` booleans by row.

    They are half of all, rounded up. Of two with equal information, the first is taken.

    Args:
        information: Mutual information of each two features, `[k, k]`.
    """
    count = len(information)
    strength = information.astype(np.float64)
    np.fill_diagonal(strength, np.inf)
    order = np.argsort(-strength, axis=1, kind="stable")[:, : -(-count // 2)]
    together = np.zeros((count, count), bool)
    np.put_along_axis(together, order, True, axis=1)
    return together


def mutual_information(columns: Sequence[np.ndarray | EncodedBags]) -> np.ndarray:
    """Mutual information in nats of each two encoded columns, `[k, k]`, with zeros on the diagonal.

    It is that of the values' shares among the items, without a correction for their number. A row
    with several values, such as a bag of genres, stands for one of them, drawn evenly, as its
    embedding is the mean of theirs; a row with several numbers for one of those, by its bin. An
    unknown value counts as one of its own.

    Args:
        columns: Encoded columns of the same items: `[C]` row numbers of a vocabulary, 0 where
            unknown, bags of such, or `[C, F]` numbers.
    """
    values = [_values(column) for column in columns]
    information = np.zeros((len(values), len(values)))
    for i, j in combinations(range(len(values)), 2):
        information[i, j] = information[j, i] = _information(values[i], values[j])
    return information


class _Values(NamedTuple):
    """The values of items, one item after the other: whole numbers and the probability of each."""

    starts: np.ndarray  # [C + 1]
    value: np.ndarray  # [E]
    probability: np.ndarray  # [E]


def _values(column: np.ndarray | EncodedBags) -> _Values:
    """The values of at most `MOST_ITEMS` items; an item without a known one has the value 0."""
    if isinstance(column, EncodedBags):
        offsets, values = np.asarray(column.offsets), np.asarray(column.values).astype(np.int64)
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        rows, values = rows[values > 0], values[values > 0]
        chosen = np.arange(0, len(offsets) - 1, _step(len(offsets) - 1))
        counts = np.bincount(rows, minlength=len(offsets) - 1)[chosen]
        place = np.searchsorted(chosen, rows).clip(max=len(chosen) - 1)
        values = values[chosen[place] == rows]
        starts = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))])
        owner = np.repeat(np.arange(len(chosen)), np.maximum(counts, 1))
        filled = np.zeros(len(owner), np.int64)
        filled[(counts > 0)[owner]] = values
        return _Values(starts, filled, 1 / np.maximum(counts, 1)[owner])
    column = np.asarray(column)[:: _step(len(column))]
    if column.dtype.kind == "f":
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        bins = [np.searchsorted(np.quantile(c, inner), c, side="right") for c in column.T]
        values = (np.stack(bins, axis=1) + BINS * np.arange(len(bins))).reshape(-1)
        width = len(bins)
    else:
        values, width = column.astype(np.int64), 1
    starts = np.arange(len(column) + 1) * width
    return _Values(starts, values, np.full(len(values), 1 / width))


def _step(items: int) -> int:
    return max(1, -(-items // MOST_ITEMS))


def _information(x: _Values, y: _Values) -> float:
    """Mutual information of two columns' values, of which every item's are paired."""
    of_x, of_y = np.diff(x.starts), np.diff(y.starts)
    items = len(of_x)
    first = np.repeat(np.arange(len(x.value)), np.repeat(of_y, of_x))
    counts = np.repeat(of_y, of_x)  # pairs of each value of x
    within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    second = np.repeat(np.repeat(y.starts[:-1], of_x), counts) + within
    weight = x.probability[first] * y.probability[second] / items
    width = y.value.max() + 1
    cells, place = np.unique(x.value[first] * width + y.value[second], return_inverse=True)
    joint = np.bincount(place, weight)
    a, b = np.divmod(cells, width)
    apart = np.bincount(a, joint)[a] * np.bincount(b, joint)[b]
    return float(np.sum(joint * np.log(joint / apart)))
