"""Ordinal regression: the probability of each step of a label's scale, and so its spread."""

from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.distributed.sharded_tables import make_table
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, Report
from mtrec.heads.rating import Rating
from mtrec.heads.tally import PerUser, Tally

# More steps than this are a quantity to regress on.
MOST_LEVELS = 100
# Stands for infinity where a gradient must not be NaN.
_FAR = 1e4


class Ordinal(Rating):
    """The likelihood of a label's level, after OrdRec (Koren, Sill, RecSys 2011); see `PairHead`.

    The levels are the values that occur in training, rising. Of an output x,
    `P(label <= level k) = sigmoid((t_k - x) s_user)`: thresholds t are shared, and the sharpness s,
    which starts at 1 and is regularised as biases are, says how much of a user's labels is chance.
    A row costs its level's negative log probability. The mean of the distribution is what is
    predicted, and its standard deviation is the spread.
    """

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, name: str, seed: int) -> None:
        """Starts from the shares of the levels, for every pair; see `PairHead`.

        Raises:
            UserError: If the labels have fewer than 2 or more than 100 levels, or see `PairHead`.
        """
        super().adapt(dataset, fit, name=name, seed=seed)
        labels = np.asarray(dataset.interactions[self.label])[fit]
        labels = labels[np.isfinite(labels)]
        self.levels, counts = np.unique(labels, return_counts=True)
        if not 2 <= len(self.levels) <= MOST_LEVELS:
            raise UserError(
                f"`heads.{name}.label` of an ordinal head must have 2 to {MOST_LEVELS} levels; "
                f"{self.label} has {len(self.levels)}. Use a mtrec.Rating instead."
            )
        self.train_shares = counts / counts.sum()
        below = np.cumsum(self.train_shares)[:-1]
        threshold = np.log(below / (1 - below))
        # The first threshold is 0, since `start` moves all of them.
        self.start.assign(-threshold[0])
        gaps = keras.initializers.Constant(np.log(np.diff(threshold)))
        self.log_gaps = self.add_weight(
            shape=(len(self.levels) - 2,), initializer=gaps, name=f"{name}_log_gaps"
        )
        users = np.zeros((dataset.num_users + 1, 1), np.float32)
        self.log_sharpness = make_table(users, name=f"{name}_user_log_sharpness")

    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """The negative log probability of the label's level, and sharpness' regularisation."""
        users = tf.gather(batch.query.users, batch.rows.query)
        log_sharpness = self.log_sharpness(users)  # [N, 1]
        levels = tf.constant(self.levels, tf.float32)
        level = tf.searchsorted(levels, label[:, 0], out_type=tf.int64)
        return self._cost(output, level, log_sharpness) + self.l2 * log_sharpness**2

    def _cost(self, output: tf.Tensor, level: tf.Tensor, log_sharpness: tf.Tensor) -> tf.Tensor:
        """Negative log probability of levels `[N]` given outputs `[N, E]`, `[N, E]`."""
        ends = tf.concat([[-_FAR], self._thresholds(), [_FAR]], axis=0)
        sharpness = tf.exp(log_sharpness)
        low, high = (
            (tf.gather(ends, k)[:, tf.newaxis] - output) * sharpness for k in (level, level + 1)
        )
        # sigmoid(high) - sigmoid(low), without the difference of two numbers near 1.
        width = tf.gather(ends[1:] - ends[:-1], level)[:, tf.newaxis] * sharpness
        apart = tf.math.log(-tf.math.expm1(-width))
        return tf.math.softplus(-high) + tf.math.softplus(low) - apart

    def _thresholds(self) -> tf.Tensor:
        """Rising thresholds between the levels, `[K - 1]`."""
        return tf.concat([[0.0], tf.cumsum(tf.exp(self.log_gaps.value))], axis=0)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The mean of the label's distribution, and as `<name>_spread` its standard deviation."""
        mean, spread = self.distribution(output, users)
        return {name: mean, f"{name}_spread": spread}

    def distribution(self, output: tf.Tensor, users: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of the label, `[N]` each, given outputs `[N]` of users."""
        sharpness = tf.exp(self.log_sharpness(users))  # [N, 1]
        below = tf.sigmoid((self._thresholds() - output[:, tf.newaxis]) * sharpness)  # [N, K - 1]
        # Squares are taken about the middle of the scale, so that nothing large cancels.
        middle = self.levels.mean()
        levels = tf.constant(self.levels - middle, tf.float32)
        steps, squared = levels[1:] - levels[:-1], levels[1:] ** 2 - levels[:-1] ** 2
        mean = levels[-1] - tf.linalg.matvec(below, steps)
        square = levels[-1] ** 2 - tf.linalg.matvec(below, squared)
        return mean + middle, tf.sqrt(tf.maximum(square - mean**2, 0.0))

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """`output` and `spread`, mean and standard deviation, and `log_loss` of each label.

        A label that is none of the levels is taken for the nearest.
        """
        output = tf.constant(super().measure(held_out, query, candidate, full=full)["output"])
        owner, _, label = self.labelled(held_out)
        users = held_out.users[owner]
        mean, spread = self.distribution(output, users)
        level = tf.constant(self._level(label))
        cost = self._cost(output[:, tf.newaxis], level, self.log_sharpness(users))
        found = {"output": mean, "spread": spread, "log_loss": cost[:, 0]}
        return {name: values.numpy() for name, values in found.items()}

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """The errors of `Rating`, and `log_loss` in nats."""
        errors = super().per_user(held_out, measured)
        owner, _, _ = self.labelled(held_out)
        losses = {"log_loss": measured["log_loss"]}
        summed = PerUser.summed(losses, owner, len(held_out.users))
        return replace(errors, totals=errors.totals | summed.totals)

    def tally(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Tally:
        """What `spread_ratio` is made of too."""
        _, _, truth = self.labelled(held_out)
        squares = _squared_ratios(measured["output"] - truth, measured["spread"])
        sums = {"spread_ratio": np.array([squares.sum(), len(squares)])}
        return Tally.of(self.per_user(held_out, measured), sums=sums)

    def figures(self, tally: Tally) -> dict[str, float]:
        """The errors, and how well the spread tells them.

        `spread_ratio` is the root mean square of errors over spreads: 1 where they are as large as
        foretold, above where the head is too sure.
        """
        means, (squares, rows) = tally.means(), tally.sums["spread_ratio"]
        return means and means | {"spread_ratio": float(np.sqrt(squares / rows))}

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """What `Rating` reports, and how well the spread tells the errors; a baseline's is one."""
        report = super().report(held_out, measured)
        _, _, truth = self.labelled(held_out)
        if not len(truth):
            return report
        alike = -np.log(self.train_shares)[self._level(truth)]
        squares = _squared_ratios(self.train_shares @ self.levels - truth, self._spread_of_all())
        error = measured["output"] - truth
        return replace(
            report,
            baseline=report.baseline
            | {"log_loss": float(alike.mean()), "spread_ratio": float(np.sqrt(squares.mean()))},
            tables=report.tables | {"spread": metrics.spread(measured["spread"], error, bins=10)},
        )

    def _level(self, label: np.ndarray) -> np.ndarray:
        """The nearest level of each label."""
        return np.searchsorted((self.levels[1:] + self.levels[:-1]) / 2, label)

    def _spread_of_all(self) -> np.ndarray:
        mean = self.train_shares @ self.levels
        return np.sqrt(self.train_shares @ (self.levels - mean) ** 2)


def _squared_ratios(error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Squares of errors over spreads, `[N]`."""
    return np.square(error / np.maximum(spread, 1e-6), dtype=np.float64)
