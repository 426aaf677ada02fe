"""What a user said of the items they chose before."""

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.distributed.sharded_tables import make_table
from mtrec.distributed.tables import NormalRows
from mtrec.distributed.weights import seed_for, unnumbered
from mtrec.errors import UserError
from mtrec.heads.row_products import weighted
from mtrec.heads.segments import owned_sum


class LabelledHistory(keras.layers.Layer):
    """The items of a history, each by how its label differs from what the item gets: `[B, D]`.

    `sum_j (r_uj - m_j) y_j / sqrt(n + 1)` over the n items of a query with a label, with m_j the
    mean label of item j and y_j from a table of its own (the explicit part of the asymmetric model
    of Koren, KDD 2008). A history without labels, such as that of a new user, is zeros.

    Args:
        label: The column of the interactions, such as `rating`.
        prior: Labels that count as if they were the mean of all, in the mean of an item.

    Raises:
        UserError: If the prior is below 0.
    """

    def __init__(self, *, label: str, prior: float) -> None:
        super().__init__(name=unnumbered(self))
        if prior < 0:
            raise UserError(f"`prior` must be at least 0; got {prior}.")
        self.label = label
        self.prior = prior

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, named_by: str) -> None:
        """Learns the mean label of each item from the training rows `fit`.

        Raises:
            UserError: If the interactions lack the label.
        """
        labels = dataset.label(self.label, named_by=f"{named_by}.label")[fit]
        items = np.asarray(dataset.interactions["item"])[fit]
        known = np.isfinite(labels)
        mean = float(labels[known].mean(dtype=np.float64)) if known.any() else 0.0
        rows = dataset.num_items + 1
        total = np.bincount(items[known], labels[known], rows) + self.prior * mean
        count = np.bincount(items[known], minlength=rows) + self.prior
        means = np.divide(total, count, out=np.full(rows, mean), where=count > 0)
        self._means = means.astype(np.float32)
        self._labelled = np.bincount(items[known], minlength=rows) > 0

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the means of the items and the table of y, `[C + 1, dim]`."""
        self.means = self.add_weight(
            shape=self._means.shape, initializer="zeros", trainable=False, name="means"
        )
        self.means.assign(self._means)
        # An item that is first labelled in a held-out row has a row, and yet is never trained.
        values = NormalRows(self._labelled, dim=dim, stddev=stddev, seed=seed_for(seed, name))
        self.table = make_table(values, name=name.replace("/", "_"))
        self.built = True

    def call(
        self,
        items: tf.Tensor,
        places: tf.Tensor,
        owners: tf.Tensor,
        labels: tf.Tensor,
        num_queries: tf.Tensor,
    ) -> tf.Tensor:
        """See the class.

        Args:
            items: Item rows, `[M]`.
            places: Position in `items` of each entry of all histories side by side, `[H]`.
            owners: Query that each belongs to, `[H]`; -1 for padding.
            labels: Label of each, NaN where there is none, `[H]`.
            num_queries: Number of queries B.
        """
        known = tf.math.is_finite(labels)
        mean = tf.gather(tf.gather(self.means.value, items), places)
        over = tf.where(known, labels - mean, 0.0)[:, tf.newaxis]
        vectors = weighted(tf.gather(self.table(items), places), over)
        total = owned_sum(vectors, owners, num_queries)
        count = owned_sum(tf.cast(known, tf.float32), owners, num_queries)
        return weighted(total, tf.math.rsqrt(count + 1.0)[:, tf.newaxis])
