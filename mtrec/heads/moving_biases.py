"""Biases that move with time: what a user and an item gain or lose as it goes by."""

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.distributed.sharded_tables import make_table
from mtrec.distributed.weights import unnumbered
from mtrec.errors import UserError

DAY = 86_400
# How fast a user drifts: Koren's exponent, found by cross-validation.
EXPONENT = 0.4


class MovingBiases(keras.layers.Layer):
    """`alpha_u dev_u(t)` of users and `b_{i, Bin(t)}` of items, which come to biases that stay.

    `dev_u(t) = sign(t - t_u) |t - t_u|^0.4` in days, with t_u the mean time of the user's training
    rows; the bins of the training time have about equally many rows each (timeSVD++; Koren, KDD
    2009, section 3, without a user's bias of a single day). All of them start at 0.

    Nothing is extrapolated: before and after the times that a user has training rows of, dev_u is
    what it is at the nearest of them, and the first and last bin have no end. A row without a time
    (0) has neither part.

    Args:
        bins: Number of bins.

    Raises:
        UserError: If there are fewer than 2 bins.
    """

    def __init__(self, *, bins: int) -> None:
        super().__init__(name=unnumbered(self))
        if bins < 2:
            raise UserError(f"`moving_biases` must be at least 2 bins, or null; got {bins}.")
        self.bins = bins

    def adapt(self, dataset: Dataset, rows: np.ndarray, *, name: str) -> None:
        """Makes the weights, and learns the times of users and bins from training rows.

        Args:
            dataset: The data.
            rows: Row numbers of the interactions to learn from, `[rows]`.
            name: What the model calls the head.

        Raises:
            UserError: If those rows do not have two different times.
        """
        users, times = (np.asarray(dataset.interactions[n])[rows] for n in ("user", "timestamp"))
        users, times = users[times != 0], times[times != 0].astype(np.int64)
        if not len(times) or np.ptp(times) == 0:
            raise UserError(
                f"`heads.{name}.moving_biases` needs times that differ; the rows of "
                f"{dataset.name} to fit have none. Name a timestamp column, or set "
                f"`heads.{name}.moving_biases`=null."
            )
        self.end = int(times.max())
        inner = np.linspace(0, 1, self.bins + 1)[1:-1]
        self.edges = np.quantile(times, inner, method="higher")
        values = _mean_first_last(users, times, dataset.num_users + 1)
        # Whole seconds: float32 would round seconds since 1970 to two minutes.
        self.user_times = self.add_weight(
            shape=values.shape,
            initializer="zeros",
            dtype="int64",
            trainable=False,
            name=f"{name}_user_times",
        )
        self.user_times.assign(values)
        self.drift = make_table(
            np.zeros((dataset.num_users + 1, 1), np.float32), name=f"{name}_user_drift"
        )
        # A row for each item and bin, so that a step touches those of the batch alone.
        items = np.zeros(((dataset.num_items + 1) * self.bins, 1), np.float32)
        self.of_bin = make_table(items, name=f"{name}_item_bins")
        self.built = True

    def deviation(self, users: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
        """`dev_u(t)` of user rows `[N]` at seconds since 1970 `[N]`, `[N]`."""
        times = tf.gather(self.user_times.value, users)
        mean, first, last = (times[:, column] for column in range(3))
        time = tf.clip_by_value(time, first, last)
        days = tf.cast(time - mean, tf.float32) / DAY
        return tf.sign(days) * tf.abs(days) ** EXPONENT

    def call(
        self, users: tf.Tensor, items: tf.Tensor, time: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What moves of users' and of items' biases, and what is regularised, `[N, 1]` each.

        Args:
            users: User rows, `[N]`.
            items: Item rows, `[N]`.
            time: Seconds since 1970, `[N]`, 0 where there is none; None for the end of training.
        """
        if time is None:
            time = tf.fill(tf.shape(users), tf.constant(self.end, tf.int64))
        known = tf.cast(time != 0, tf.float32)[:, tf.newaxis]
        drift = known * self.drift(users)
        edges = tf.constant(self.edges, tf.int64)
        place = tf.searchsorted(edges, time, side="right", out_type=tf.int64)
        of_bin = known * self.of_bin(tf.cast(items, tf.int64) * self.bins + place)
        size = drift**2 + of_bin**2
        return drift * self.deviation(users, time)[:, tf.newaxis], of_bin, size


def _mean_first_last(users: np.ndarray, times: np.ndarray, rows: int) -> np.ndarray:
    """Mean, first and last of each user's times in whole seconds, `[rows, 3]`; 0 without any."""
    found = np.zeros((rows, 3), np.int64)
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    owner, start, count = np.unique(users, return_index=True, return_counts=True)
    first, last = times[start], times[start + count - 1]
    # Sums of seconds since the user's own first row: float64 holds them all.
    after = np.bincount(users, times - np.repeat(first, count))[owner] / count
    found[owner] = np.stack([first + np.rint(after).astype(np.int64), first, last], axis=1)
    return found
