"""A feature of pairs: what is known of a row itself, such as a price or a place in a list."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.columns import Ragged, entries_of, held
from mtrec.data.dataset import Dataset
from mtrec.data.inputs import PairInputs
from mtrec.data.requests import CONTEXT, QueryColumns
from mtrec.distributed.weights import unnumbered
from mtrec.errors import UserError
from mtrec.model.features import Feature


class OfRow(keras.layers.Layer):
    """A column of context as it is of each row, even where rows of one request differ in it.

    What is only known once items are shown, such as their place, biases what users do with them.
    With `serve_as` it is learnt, and everybody is judged and answered as if it were that value.
    Without, a held-out row is judged by its own value, and whoever asks sends one for all items, or
    it is unknown.

    Args:
        feature: How the column becomes a vector.
        serve_as: The value that is served; null for what is sent.
    """

    reads_before = False
    reads_time = False

    def __init__(self, *, feature: Feature, serve_as: Any = None) -> None:
        super().__init__(name=unnumbered(self))
        self.feature = feature
        self.serve_as = serve_as

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, named_by: str) -> None:
        """Encodes the column.

        Raises:
            UserError: If it is no column of the context, or several numbers come of one value, or
                no training row has the value that is served.
        """
        columns, name = QueryColumns(dataset), self.feature.column
        if name not in columns or not name.startswith(CONTEXT):
            known = ", ".join(c for c in columns if c.startswith(CONTEXT)) or "there is none"
            raise UserError(
                f"`{named_by}.feature` must read a column of the context ({known}); got {name}. "
                "Name it in `context`."
            )
        values = held(columns[name])
        self.feature.check(values, named_by=f"{named_by}.feature")
        self.feature.adapt(values)
        encoded = self.feature.encode(values)
        if isinstance(encoded, Ragged):
            raise UserError(
                f"`{named_by}.feature` must make one value of a row; got a "
                f"{type(self.feature).__name__}, which makes several. Take another kind."
            )
        self.trained = None
        if encoded.dtype.kind == "i":
            self.trained = np.unique(entries_of(encoded, fit + 1))
        self.encoded = tf.constant(self._known(encoded))
        self.served = self.encode(self.serve_as)
        if self.serve_as is not None and not self.served.numpy().any() and self.trained is not None:
            raise UserError(
                f"`{named_by}.serve_as` must be a value that a row to fit has; got "
                f"{self.serve_as}. Set it to one of them."
            )

    def encode(self, value: Any) -> tf.Tensor:
        """A value that was sent, encoded, `[1, ...]`; None is unknown."""
        if value is None:
            return tf.zeros_like(self.encoded[:1])
        return tf.constant(self._known(self.feature.encode(held([value]))))

    def _known(self, encoded: Any) -> np.ndarray:
        if self.trained is None:
            return encoded
        return np.where(np.isin(encoded, self.trained), encoded, np.int32(0))

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the weights."""
        self.key = name
        self.feature.create(name=name, dim=dim, stddev=stddev, seed=seed)
        self.built = True

    def call(self, pairs: PairInputs) -> tf.Tensor:
        """Vectors of pairs, `[N, D]`."""
        queries = pairs.queries
        training = queries.draw is not None
        if self.serve_as is None or training:
            if not isinstance(pairs.requests, tuple):
                return self.feature(tf.gather(self.encoded, pairs.requests))
            if self.key in queries.replaced:
                return self.feature(tf.gather(queries.replaced[self.key], pairs.query))
        return self.feature(tf.repeat(self.served, tf.size(pairs.items), axis=0))
