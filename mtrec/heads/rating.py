"""Rating regression: how well a user will like an item they take."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, Report
from mtrec.heads.pair import PairHead, sliced
from mtrec.heads.row_products import squared_error
from mtrec.heads.tally import PerUser


class Rating(PairHead):
    """The squared error of a label, such as the rating, whose scale it keeps; see `PairHead`."""

    rates = True

    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """The mean of the labels. Their scale is the data's own, or what occurs."""
        self.train_mean = float(labels.mean(dtype=np.float64)) if len(labels) else 0.0
        observed = (labels.min(), labels.max()) if len(labels) else (0.0, 0.0)
        scale = dataset.rating_scale if self.label == "rating" else observed
        self.low, self.high = map(float, scale)
        return self.train_mean

    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """The squared error."""
        return squared_error(output, label)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The output, within the scale."""
        return {name: tf.clip_by_value(output, self.low, self.high)}

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """Errors of the interactions that carry the label."""
        owner, _, truth = self.labelled(held_out)
        errors = metrics.row_errors(*self._told(measured), truth)
        return PerUser.summed(errors, owner, len(held_out.users))

    def _told(self, measured: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What is predicted of each labelled interaction, and the same within the scale."""
        return measured["output"], np.clip(measured["output"], self.low, self.high)

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """Errors, beside those of the mean of training."""
        report = super().report(held_out, measured)
        owner, item, truth = self.labelled(held_out)
        if not len(truth):
            return report
        _, clipped = self._told(measured)
        mean = np.full_like(truth, self.train_mean)
        errors = (np.square(clipped - truth), np.square(mean - truth))
        return replace(
            report,
            baseline=metrics.rating_errors(mean, mean, truth),
            slices=sliced(held_out, owner, item, "rmse", *errors, _root_of_mean),
            tables={
                "calibration": metrics.calibration(clipped, truth, bins=10),
                "predicted_against_true": metrics.predicted_against_true(
                    clipped, truth, low=self.low, high=self.high, bins=20
                ),
            },
        )


def _root_of_mean(squared: np.ndarray) -> float:
    return float(np.sqrt(np.mean(squared, dtype=np.float64)))
