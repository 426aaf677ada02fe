"""A feature of pairs: how old the item is when it is asked about."""

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import PairInputs
from mtrec.distributed.weights import dense, unnumbered
from mtrec.errors import UserError, require

_DAY = 86_400
# Days since 1970 of an item of which no date is known.
_UNKNOWN = -1e9


class ItemAge(keras.layers.Layer):
    """The item's age at the row's time, or when one asks: `[N, D]`.

    The logarithm of 1 + days since the date that the items' table has or, without such a column,
    since the first training row with the item; standardised, and through a hidden layer. What comes
    before the date is of age 0, an item without a date is zeros.

    Args:
        column: The column of the items with seconds since 1970; null for their first rows.
        units: Width of the hidden layer.

    Raises:
        UserError: If the width is below 1.
    """

    reads_before = False
    reads_time = True

    def __init__(self, *, column: str | None, units: int) -> None:
        super().__init__(name=unnumbered(self))
        require("`units`", units, least=1)
        self.column = column
        self.units = units

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, named_by: str) -> None:
        """Learns the items' dates, and the scale of ages from the training rows `fit`.

        Raises:
            UserError: If the items lack the column, it holds no numbers, or rows have no times.
        """
        items, times = (np.asarray(dataset.interactions[n])[fit] for n in ("item", "timestamp"))
        if not times.any():
            raise UserError(
                f"`{named_by}` needs times; the rows to fit have none. Name a `timestamp` column, "
                f"or leave `{named_by}` out."
            )
        days = times / _DAY
        if self.column is None:
            born = np.full(dataset.num_items + 1, np.inf)
            np.minimum.at(born, items, days)
        else:
            column = dataset.items.get(self.column)
            if not isinstance(column, np.ndarray) or column.ndim != 1:
                raise UserError(
                    f"`{named_by}.column` must name a column of the items with seconds since 1970; "
                    f"got {self.column}. Name one, or set it to null for their first rows."
                )
            born = column.astype(np.float64) / _DAY
        self._born = np.where(np.isfinite(born), born, _UNKNOWN).astype(np.float32)
        ages = np.log1p(np.maximum(days - self._born[items], 0))[self._born[items] > _UNKNOWN]
        self._scale = (ages.mean(), ages.std() or 1.0) if len(ages) else (0.0, 1.0)

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the dates, the hidden layer and the one to `dim`."""
        self.born, self.scale = (
            self.add_weight(shape=np.shape(v), initializer="zeros", trainable=False, name=n)
            for n, v in (("born", self._born), ("scale", self._scale))
        )
        self.born.assign(self._born)
        self.scale.assign(self._scale)
        path = name.replace("/", "_")
        self.layers = [
            dense(1, self.units, "relu", name=f"{path}_hidden", seed=seed),
            dense(self.units, dim, name=f"{path}_out", seed=seed),
        ]
        self.built = True

    def call(self, pairs: PairInputs) -> tf.Tensor:
        """See the class."""
        time = pairs.time
        if isinstance(time, tuple):
            time = tf.gather(pairs.queries.time, pairs.query)
        born = tf.gather(self.born.value, pairs.items)
        # float32 would round days since 1970 to minutes, and seconds to two.
        age = tf.cast(time, tf.float64) / _DAY - tf.cast(born, tf.float64)
        mean, deviation = tf.unstack(self.scale.value)
        hidden = (tf.math.log1p(tf.cast(tf.maximum(age, 0), tf.float32)) - mean) / deviation
        hidden = hidden[:, tf.newaxis]
        for layer in self.layers:
            hidden = layer(hidden)
        return tf.where(born[:, tf.newaxis] > _UNKNOWN, hidden, 0.0)
