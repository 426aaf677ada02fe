"""Binary classification: whether a user who takes an item will click, buy or like it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, PerUser, Report
from mtrec.heads.pair import PairHead, sliced


class Binary(PairHead):
    """The cross-entropy of whether a label is at least `at_least`; see `PairHead`.

    Args:
        at_least: Labels from here on are positive.
        pair: The arguments of `PairHead`.
    """

    def __init__(self, *, at_least: float, **pair: Any) -> None:
        super().__init__(**pair)
        self.at_least = at_least

    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """The log odds of a positive label, one of either kind being added to those there are.

        Raises:
            UserError: If all labels are of one kind.
        """
        positive = int((labels >= self.at_least).sum())
        if positive in (0, len(labels)):
            raise UserError(
                f"`at_least` of a binary head must part its labels; of {len(labels)} rows to fit, "
                f"{positive} have a {self.label} of at least {self.at_least:g}. They lie from "
                f"{labels.min():g} to {labels.max():g}: set at_least between."
            )
        self.train_share = (positive + 1) / (len(labels) + 2)
        return float(np.log(self.train_share / (1 - self.train_share)))

    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """The cross-entropy."""
        positive = tf.cast(label >= self.at_least, tf.float32)
        positive = tf.broadcast_to(positive, tf.shape(output))
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=positive, logits=output)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The probability of a positive label."""
        return {name: tf.sigmoid(output)}

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """Metrics of the held-out interactions that carry the label.

        `log_loss` in nats and as `normalized_entropy`; `auc` over all rows and `grouped_auc`, see
        `mtrec.heads.metrics`; `calibration`, the sum of probabilities over the positive rows.
        """
        owner, item, label = self.labelled(held_out)
        if not len(label):
            return Report(metrics={})
        positive, output = label >= self.at_least, measured["output"].astype(np.float64)
        losses = metrics.log_losses(output, positive)
        found = _found(output, losses, positive, owner)
        if not full:
            return Report(metrics=found)
        start = np.full(len(label), np.log(self.train_share / (1 - self.train_share)))
        baseline = metrics.log_losses(start, positive)
        probability = 1 / (1 + np.exp(-output))
        return Report(
            metrics=found,
            baseline=_found(start, baseline, positive, owner),
            slices=sliced(
                held_out, owner, item, "log_loss", losses, baseline, lambda x: float(np.mean(x))
            ),
            tables={"calibration": metrics.calibration(probability, positive, bins=10)},
            per_user=PerUser.summed({"log_loss": losses}, owner, len(held_out.users)),
        )


def _found(
    output: np.ndarray, losses: np.ndarray, positive: np.ndarray, owner: np.ndarray
) -> dict[str, float]:
    taken = int(positive.sum())
    return {
        "log_loss": float(losses.mean()),
        "normalized_entropy": metrics.normalized_entropy(losses, positive),
        "auc": metrics.auc(output, positive),
        "grouped_auc": metrics.grouped_auc(output, positive, owner),
        "calibration": float(np.sum(1 / (1 + np.exp(-output))) / taken) if taken else float("nan"),
    }
