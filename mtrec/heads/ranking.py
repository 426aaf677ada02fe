"""Listwise ranking: in what order a user will like the items they take."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.heads import metrics, slices
from mtrec.heads.head import HeldOut, PerUser, Report
from mtrec.heads.pair import PairHead


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
        known = batch.rows.weight * tf.cast(
            tf.math.is_finite(batch.rows.labels[self.label]), tf.float32
        )
        known = known[:, tf.newaxis]
        owner, queries = batch.rows.query, tf.shape(batch.query.users)[0]
        rows = tf.gather(tf.math.unsorted_segment_sum(known, owner, queries), owner)
        truth = tf.exp(_log_softmax(label, known, owner, queries))
        return -rows * truth * _log_softmax(output, known, owner, queries)

    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """The output."""
        return {name: output}

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """How well the held-out items of each user are ordered by their labels.

        NDCG and the share of pairs in order are means over the users with two labels that differ.
        The baseline orders items by popularity.
        """
        owner, item, label = self.labelled(held_out)
        if not len(label):
            return Report(metrics={})
        num_users = len(held_out.users)
        found = metrics.graded_ranking(measured["output"], label, owner, num_users)
        if not found["count"].any():
            return Report(metrics={})
        if not full:
            return Report(metrics=_means(found))
        popularity = np.bincount(held_out.known.items, minlength=held_out.dataset.num_items + 1)
        popular = metrics.graded_ranking(popularity[item], label, owner, num_users)
        judged = found["count"] > 0
        model, baseline = (each["pairs_in_order"][judged] for each in (found, popular))
        groups = slices.user_groups(held_out.dataset, held_out.known, held_out.users[judged])
        return Report(
            metrics=_means(found),
            baseline=_means(popular),
            slices=[
                row
                for name, group in groups.items()
                for row in slices.by_group(name, group, "pairs_in_order", model, baseline, np.mean)
            ],
            per_user=PerUser(
                count=found["count"],
                totals={name: values for name, values in found.items() if name != "count"},
            ),
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


def _means(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    count = found["count"].sum()
    return {name: float(v.sum() / count) for name, v in found.items() if name != "count"}
