"""Regression on a logarithm: how many, how much or how long."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, PerUser, Report
from mtrec.heads.pair import PairHead, sliced


class Amount(PairHead):
    """The squared error of log(1 + label), for counts, amounts and durations; see `PairHead`.

    Raises:
        UserError: A label of the training rows is below 0.
    """

    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """The mean of the logarithms."""
        if len(labels) and labels.min() < 0:
            raise UserError(
                f"An amount must be 0 or more, as it is learnt as a logarithm; got a {self.label} "
                f"of {labels.min():g}. Correct or empty it, or take another head."
            )
        self.train_mean = float(np.log1p(labels).mean(dtype=np.float64)) if len(labels) else 0.0
        self.highest = float(np.log1p(labels.max(initial=0)))
        return self.train_mean

    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """The squared error of the logarithm."""
        return tf.square(output - tf.math.log1p(label))

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The amount, in the units of the label, from 0 to the highest in training."""
        return {name: tf.math.expm1(tf.clip_by_value(output, 0.0, self.highest))}

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """Errors on the held-out interactions that carry the label.

        `rmsle` is the root mean square error of log(1 + amount), `mae` is in the label's units,
        `xauc` is the share of pairs of rows in order.
        """
        owner, item, truth = self.labelled(held_out)
        if not len(truth):
            return Report(metrics={})
        output = np.clip(measured["output"].astype(np.float64), 0, self.highest)
        found = self._errors(output, truth)
        if not full:
            return Report(metrics=_means(found) | {"xauc": metrics.xauc(output, truth)})
        mean = np.full(len(truth), self.train_mean)
        alike = self._errors(mean, truth)
        squared = found["rmsle"], alike["rmsle"]
        return Report(
            metrics=_means(found) | {"xauc": metrics.xauc(output, truth)},
            baseline=_means(alike) | {"xauc": metrics.xauc(mean, truth)},
            slices=sliced(held_out, owner, item, "rmsle", *squared, _root_of_mean),
            tables={"calibration": metrics.calibration(np.expm1(output), truth, bins=10)},
            per_user=PerUser.summed(found, owner, len(held_out.users)),
        )

    def _errors(self, output: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """What each row adds to the totals, `[N]`."""
        truth = truth.astype(np.float64)
        return {
            "rmsle": (output - np.log1p(truth)) ** 2,
            "mae": np.abs(np.expm1(output) - truth),
        }


def _means(errors: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        name: float(metrics.from_totals(name, rows.sum(), np.asarray(len(rows))))
        for name, rows in errors.items()
    }


def _root_of_mean(squared: np.ndarray) -> float:
    return float(np.sqrt(np.mean(squared)))
