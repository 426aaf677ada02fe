"""Correlated feature masking: which features two views of an item are made of.

Features that tell much about each other are hidden together, or else a view would give away what
the other one hides (Yao et al., CIKM 2021, arXiv:2007.12865, section 3.2).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import tensorflow as tf

# Mutual information is estimated from at most so many items.
MOST_ITEMS = 2**16
# Numbers count by which of so many equally full bins they fall into.
BINS = 10


class CorrelatedMasks:
    """For each feature as seed, the half of the features that only one of two views shows.

    Args:
        columns: Each feature's encoded column `[C, ...]`, without the row of unknown items.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.names = list(columns)
        values = [np.asarray(column) for column in columns.values()]
        self.together = most_correlated(mutual_information(values))

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


def mutual_information(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Mutual information in nats of each two encoded columns, `[k, k]`, with zeros on the diagonal.

    It is that of the values' shares among the items, without a correction for their number. A row
    with several values, such as a bag of genres, stands for one of them, drawn evenly, as its
    embedding is the mean of theirs; a row with several numbers for one of those, by its bin. An
    unknown value counts as one of its own.

    Args:
        columns: Encoded columns of the same items: `[C]` or `[C, L]` row numbers of a vocabulary, 0
            where unknown, or `[C, F]` numbers.
    """
    values = [_values(column[:: max(1, -(-len(column) // MOST_ITEMS))]) for column in columns]
    information = np.zeros((len(values), len(values)))
    for i, j in combinations(range(len(values)), 2):
        information[i, j] = information[j, i] = _information(*values[i], *values[j])
    return information


def _values(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's values as whole numbers `[C, L]`, and the probability of each, `[C, L]`."""
    if column.dtype.kind == "f":
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        bins = [np.searchsorted(np.quantile(c, inner), c, side="right") for c in column.T]
        values = np.stack(bins, axis=1) + BINS * np.arange(len(bins))
        return values, np.full(values.shape, 1 / len(bins))
    values = column.reshape(len(column), -1).astype(np.int64)
    known = values > 0
    known[:, 0] |= ~known.any(axis=1)
    return values, known / known.sum(axis=1, keepdims=True)


def _information(x: np.ndarray, p: np.ndarray, y: np.ndarray, q: np.ndarray) -> float:
    """Mutual information of rows' values `[C, L]` and `[C, M]` with their probabilities."""
    weight = p[:, :, np.newaxis] * q[:, np.newaxis, :] / len(x)  # [C, L, M]
    pairs = x[:, :, np.newaxis] * (y.max() + 1) + y[:, np.newaxis, :]
    cells, place = np.unique(pairs[weight > 0], return_inverse=True)
    joint = np.bincount(place, weight[weight > 0])
    of_x, of_y = np.divmod(cells, y.max() + 1)
    apart = np.bincount(of_x, joint)[of_x] * np.bincount(of_y, joint)[of_y]
    return float(np.sum(joint * np.log(joint / apart)))
