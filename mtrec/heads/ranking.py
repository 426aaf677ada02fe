"""Listwise ranking: in what order a user will like the items they take."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.heads import metrics, slices
from mtrec.heads.head import HeldOut, Report
from mtrec.heads.pair import PairHead
from mtrec.heads.tally import PerUser


class Ranking(PairHead):
    """The cross-entropy between the softmax of a user's labels and that of their outputs.

    ListNet (Cao et al., ICML 2007) over the rows of a query: with `batch_of=users`, all of a
    user's targets. Outputs mean something beside those of the same user alone; see `PairHead`.
    """

    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """Zero: what is added to all outputs of a user changes no order."""
        return 0.0

    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """A row's share of its query's cross-entropy, times the query's rows."""
        known = tf.math.is_finite(self.learnt(batch).label)
        known = batch.rows.weight * tf.cast(known, tf.float32)
        known = known[:, tf.newaxis]
        owner, queries = batch.rows.query, tf.shape(batch.query.users)[0]
        rows = tf.gather(tf.math.unsorted_segment_sum(known, owner, queries), owner)
        truth = tf.exp(_log_softmax(label, known, owner, queries))
        return -rows * truth * _log_softmax(output, known, owner, queries)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The output."""
        return {name: output}

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """How well the items of each user with two labels that differ are ordered by them."""
        owner, _, label = self.labelled(held_out)
        found = metrics.graded_ranking(measured["output"], label, owner, len(held_out.users))
        return PerUser(count=found.pop("count"), totals=found)

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """The metrics, beside those of items by popularity."""
        report = super().report(held_out, measured)
        if not report.metrics:
            return report
        _, item, _ = self.labelled(held_out)
        popularity = np.bincount(held_out.known.items, minlength=held_out.dataset.num_items + 1)
        by_popularity = {"output": popularity[item]}
        found, popular = (self.per_user(held_out, told) for told in (measured, by_popularity))
        judged = found.count > 0
        model, baseline = (each.totals["pairs_in_order"][judged] for each in (found, popular))
        groups = slices.user_groups(held_out.dataset, held_out.known, held_out.users[judged])
        return replace(
            report,
            baseline=self.figures(self.tally(held_out, by_popularity)),
            slices=[
                row
                for name, group in groups.items()
                for row in slices.by_group(name, group, "pairs_in_order", model, baseline, np.mean)
            ],
        )


def _log_softmax(
    values: tf.Tensor, known: tf.Tensor, owner: tf.Tensor, queries: tf.Tensor
) -> tf.Tensor:
    """Log softmax of values `[N, E]` over the known rows `[N, 1]` of each query; 0 for others."""
    lowest = values.dtype.min
    highest = tf.math.unsorted_segment_max(tf.where(known > 0, values, lowest), owner, queries)
    shifted = tf.where(known > 0, values - tf.gather(tf.stop_gradient(highest), owner), 0.0)
    total = tf.math.unsorted_segment_sum(known * tf.exp(shifted), owner, queries)
    total = tf.gather(tf.where(total > 0, total, 1.0), owner)
    return tf.where(known > 0, shifted - tf.math.log(total), 0.0)
