"""Rating regression: how well a user will like an item they take."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, PerUser, Report
from mtrec.heads.pair import PairHead, sliced


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
        return tf.square(output - label)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The output, within the scale."""
        return {name: tf.clip_by_value(output, self.low, self.high)}

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """Errors on the held-out interactions that carry the label."""
        owner, item, truth = self.labelled(held_out)
        if not len(truth):
            return Report(metrics={})
        raw = measured["output"]
        clipped = np.clip(raw, self.low, self.high)
        found = metrics.rating_errors(raw, clipped, truth)
        if not full:
            return Report(metrics=found)
        of_rows = metrics.row_errors(raw, clipped, truth)
        mean = np.full_like(truth, self.train_mean)
        errors = (np.square(clipped - truth), np.square(mean - truth))
        return Report(
            metrics=found,
            baseline=metrics.rating_errors(mean, mean, truth),
            slices=sliced(held_out, owner, item, "rmse", *errors, _root_of_mean),
            tables={
                "calibration": metrics.calibration(clipped, truth, bins=10),
                "predicted_against_true": metrics.predicted_against_true(
                    clipped, truth, low=self.low, high=self.high, bins=20
                ),
            },
            per_user=PerUser.summed(of_rows, owner, len(held_out.users)),
        )


def _root_of_mean(squared: np.ndarray) -> float:
    return float(np.sqrt(np.mean(squared, dtype=np.float64)))
