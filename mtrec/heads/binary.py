"""Binary classification: whether a user who takes an item will click, buy or like it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import HeldOut, Report
from mtrec.heads.pair import PairHead, sliced
from mtrec.heads.tally import PerUser, Tally


class Binary(PairHead):
    """The cross-entropy of whether a label is at least `at_least`; see `PairHead`.

    Args:
        at_least: Labels from here on are positive.
        pair: The arguments of `PairHead`.
    """

    odds = True

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

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """`log_loss` in nats of the interactions that carry the label."""
        owner, _, output, positive = self._rows(held_out, measured)
        losses = {"log_loss": metrics.log_losses(output, positive)}
        return PerUser.summed(losses, owner, len(held_out.users))

    def tally(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Tally:
        """What each metric of `figures` is made of."""
        owner, _, output, positive = self._rows(held_out, measured)
        return Tally.of(
            self.per_user(held_out, measured),
            sums={
                "positive": np.array([positive.sum(), np.sum(_probability(output))]),
                "grouped_auc": metrics.grouped_auc_totals(output, positive, owner),
            },
            rows={"output": measured["output"], "positive": positive},
        )

    def figures(self, tally: Tally) -> dict[str, float]:
        """`log_loss`, also as `normalized_entropy`, areas under the curve, and `calibration`.

        `auc` is over all rows; see `mtrec.heads.metrics` for it and `grouped_auc`. `calibration` is
        the sum of probabilities over the positive rows.
        """
        means = tally.means()
        if not means:
            return {}
        output, positive = tally.rows["output"], tally.rows["positive"]
        taken, expected = tally.sums["positive"]
        total, rows = tally.sums["grouped_auc"]
        return means | {
            "normalized_entropy": metrics.normalized_entropy(means["log_loss"], positive),
            "auc": metrics.auc(output, positive),
            "grouped_auc": float(total / rows) if rows else float("nan"),
            "calibration": float(expected / taken) if taken else float("nan"),
        }

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """The metrics, beside those of telling of all rows the share of training."""
        report = super().report(held_out, measured)
        owner, item, output, positive = self._rows(held_out, measured)
        if not len(output):
            return report
        start = np.full(len(output), np.log(self.train_share / (1 - self.train_share)))
        model, alike = (metrics.log_losses(told, positive) for told in (output, start))
        return replace(
            report,
            baseline=self.figures(self.tally(held_out, {"output": start})),
            slices=sliced(
                held_out, owner, item, "log_loss", model, alike, lambda x: float(np.mean(x))
            ),
            tables={"calibration": metrics.calibration(_probability(output), positive, bins=10)},
        )

    def _rows(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Owner, item row, log odds and truth of the interactions that carry the label."""
        owner, item, label = self.labelled(held_out)
        return owner, item, measured["output"].astype(np.float64), label >= self.at_least


def _probability(output: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-output))
