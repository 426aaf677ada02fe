"""A feature of pairs: how often, how long ago and how regularly the user took the item before."""

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.before import NUMBERS, Before
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.inputs import PairInputs
from mtrec.distributed.weights import dense, unnumbered
from mtrec.errors import UserError, require

# Gaps of all items that count as if they were the item's own, and of its own as if the user's.
_PRIOR = 1.0
# Beyond seconds from 1900 to 2100, so that an owner and a time are one number.
_SHIFT, _ZERO = 1 << 34, 1 << 33
# Beyond any item row, likewise.
_WIDE = 1 << 32


class OwnItems(keras.layers.Layer):
    """Counts and recency of the user's own items: `[N, D]`.

    Of what is strictly earlier: how often the user took the item, in all and among what they took,
    how many interactions ago, and how long ago beside the usual gap of all items, of this item and
    of this user with this item, which are means shrunk towards each other in that order. All are
    logarithms, and go through a hidden layer. An item that the user does not have is zeros.

    Args:
        units: Width of the hidden layer.

    Raises:
        UserError: If the width is below 1.
    """

    reads_before = True
    reads_time = True

    def __init__(self, *, units: int) -> None:
        super().__init__(name=unnumbered(self))
        require("`units`", units, least=1)
        self.units = units

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, named_by: str) -> None:
        """Learns the usual gaps of items from the training rows `fit`.

        Raises:
            UserError: If the data is not of users who take items again.
        """
        if not dataset.repeats:
            raise UserError(
                f"`{named_by}` counts what users take again, and needs `repeats`=true; got false. "
                f"Set that, or leave `{named_by}` out."
            )
        self._gaps = Before(Histories.of(dataset, fit), dataset.num_items).gaps_of_items()
        total, count = self._gaps.sum(axis=0, dtype=np.float64)
        self._usual = float(total / count) if count else 86_400.0

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the hidden layer, the one to `dim`, and what is known of the items' gaps."""
        self.gaps, self.usual = (
            self.add_weight(shape=np.shape(v), initializer="zeros", trainable=False, name=n)
            for n, v in (("gaps", self._gaps), ("usual", self._usual))
        )
        self.gaps.assign(self._gaps)
        self.usual.assign(self._usual)
        path = name.replace("/", "_")
        self.layers = [
            dense(_WIDTH, self.units, "relu", name=f"{path}_hidden", seed=seed),
            dense(self.units, dim, name=f"{path}_out", seed=seed),
        ]
        self.built = True

    def call(self, pairs: PairInputs) -> tf.Tensor:
        """See the class."""
        numbers = self._of_histories(pairs) if isinstance(pairs.before, tuple) else pairs.before
        hidden = self._scaled(tf.unstack(tf.convert_to_tensor(numbers), len(NUMBERS), axis=1))
        for layer in self.layers:
            hidden = layer(hidden)
        had = tf.cast(numbers[:, :1] > 0, tf.float32)
        return had * hidden

    def _scaled(self, numbers: list[tf.Tensor]) -> tf.Tensor:
        count, since, span, later, total, gaps, num_gaps = numbers
        usual = self.usual.value
        of_item = (gaps + _PRIOR * usual) / (num_gaps + _PRIOR)
        of_pair = (span + _PRIOR * of_item) / (tf.maximum(count - 1, 0) + _PRIOR)
        told = (
            tf.math.log1p(count),
            tf.math.log((count + 1) / (total + 1)),
            tf.math.log1p(later),
            *(tf.math.log(since / gap + 0.01) for gap in (usual, of_item, of_pair)),
            tf.math.log(of_item / usual),
        )
        return tf.stack(told, axis=1)

    def _of_histories(self, pairs: PairInputs) -> tf.Tensor:
        """The numbers of pairs, all of whose queries' histories being earlier."""
        history, query = pairs.queries.history, tf.cast(pairs.query, tf.int64)
        owners, items = (tf.cast(x, tf.int64) for x in (history.owners, history.items))
        own, asked = (
            q * _WIDE + i for q, i in ((owners, items), (query, tf.cast(pairs.items, tf.int64)))
        )
        order = tf.argsort(own, stable=True)  # of one pair, by time
        own = tf.gather(own, order)
        start = tf.searchsorted(own, asked)
        count = tf.searchsorted(own, asked, side="right") - start
        entries = tf.pad(order, [[0, 1]])
        first, last = (tf.gather(entries, k) for k in (start, start + tf.maximum(count - 1, 0)))
        bounds = tf.searchsorted(owners, tf.range(tf.size(pairs.queries.users, tf.int64) + 1))
        begin, end = (tf.gather(bounds, query + k) for k in (0, 1))
        if isinstance(history.times, tuple):  # of a new user, only the order is known
            since = tf.fill(tf.shape(asked), self.usual.value)
            span, later = tf.zeros_like(asked), end - last - 1
        else:
            times = tf.cast(history.times, tf.int64)
            moments = owners * _SHIFT + times + _ZERO
            first, last = (tf.gather(tf.pad(times, [[0, 1]]), k) for k in (first, last))
            later = end - tf.searchsorted(moments, query * _SHIFT + last + _ZERO, side="right")
            since, span = tf.maximum(_asked(pairs) - last, 0), last - first
        had = count > 0
        told = (count, *(tf.where(had, x, tf.zeros_like(x)) for x in (since, span, later)))
        numbers = [tf.cast(x, tf.float32) for x in (*told, end - begin)]
        gaps = tf.gather(self.gaps.value, pairs.items)
        return tf.concat([tf.stack(numbers, axis=1), gaps], axis=1)


# Numbers that the hidden layer reads.
_WIDTH = 7


def _asked(pairs: PairInputs) -> tf.Tensor:
    """When pairs are asked about, `[N]`."""
    if isinstance(pairs.time, tuple):
        return tf.gather(tf.cast(pairs.queries.time, tf.int64), pairs.query)
    return tf.cast(pairs.time, tf.int64)
