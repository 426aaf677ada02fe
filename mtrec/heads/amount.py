"""Regression on a logarithm: how many, how much or how long."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, Report
from mtrec.heads.pair import PairHead, sliced
from mtrec.heads.row_products import squared_error
from mtrec.heads.tally import PerUser, Tally


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
        return squared_error(output, tf.math.log1p(label))

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The amount, in the units of the label, from 0 to the highest in training."""
        return {name: tf.math.expm1(tf.clip_by_value(output, 0.0, self.highest))}

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """Errors of the interactions that carry the label.

        `rmsle` is the root mean square error of log(1 + amount), `mae` is in the label's units.
        """
        owner, _, truth = self.labelled(held_out)
        return PerUser.summed(self._errors(self._told(measured), truth), owner, len(held_out.users))

    def tally(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Tally:
        """What `xauc`, the share of pairs of rows in order, is made of too."""
        _, _, truth = self.labelled(held_out)
        rows = {"output": self._told(measured), "truth": truth}
        return Tally.of(self.per_user(held_out, measured), rows=rows)

    def figures(self, tally: Tally) -> dict[str, float]:
        """`rmsle`, `mae` and `xauc`."""
        means = tally.means()
        return means and means | {"xauc": metrics.xauc(tally.rows["output"], tally.rows["truth"])}

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """Errors, beside those of the mean of training."""
        report = super().report(held_out, measured)
        owner, item, truth = self.labelled(held_out)
        if not len(truth):
            return report
        output, mean = self._told(measured), np.full(len(truth), self.train_mean)
        found, alike = self._errors(output, truth), self._errors(mean, truth)
        squared = found["rmsle"], alike["rmsle"]
        return replace(
            report,
            baseline=_means(alike) | {"xauc": metrics.xauc(mean, truth)},
            slices=sliced(held_out, owner, item, "rmsle", *squared, _root_of_mean),
            tables={"calibration": metrics.calibration(np.expm1(output), truth, bins=10)},
        )

    def _told(self, measured: Mapping[str, np.ndarray]) -> np.ndarray:
        """The logarithm that is predicted of each labelled interaction, within what occurs."""
        return np.clip(measured["output"].astype(np.float64), 0, self.highest)

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
