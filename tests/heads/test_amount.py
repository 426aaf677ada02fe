"""The head for amounts by hand."""

import numpy as np
import pytest
import tensorflow as tf
from small_data import all_rows, written_out

from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.amount import Amount
from mtrec.training.evaluate import Evaluator

ROWS = [(1, 1, 0, 1), (2, 2, 9, 2), (1, 2, np.nan, 3), (2, 1, 3, 4)]


def head(data):
    made = Amount(label="rating", dim=2, members=1, layers=[], l2=0.0)
    made.adapt(data, all_rows(data), name="plays", seed=4)
    return made


def test_it_starts_at_the_mean_of_the_logarithms():
    assert head(written_out(ROWS)).start.numpy() == pytest.approx(np.log(1 * 10 * 4) / 3)


def test_the_error_is_that_of_the_logarithm():
    error = head(written_out(ROWS)).error(
        tf.constant([[1.0], [0.0]]), tf.constant([[9.0], [0.0]]), {}
    )
    assert error.numpy()[:, 0] == pytest.approx([(1 - np.log(10)) ** 2, 0])


def test_people_are_told_an_amount_within_what_occurred():
    made = head(written_out(ROWS))
    told = made.served(tf.constant([np.log(4.0), 50.0, -1.0]), tf.constant([1, 1, 1]), name="plays")
    assert told["plays"].numpy() == pytest.approx([3, 9, 0], rel=1e-6)


def test_an_amount_below_0_is_refused():
    with pytest.raises(UserError, match=r"must be 0 or more, .* got a rating of -2"):
        head(written_out([(1, 1, -2, 1), (2, 2, 3, 1)]))


def test_the_report_is_in_logarithms_and_in_units():
    data = written_out(ROWS)
    held_out = Evaluator(data, known=np.array([0]), held_out=np.array([1, 2, 3])).held_out
    made = head(data)
    # User 2's rows: 9 was told as 4, and 3 as 3.
    report = made.report(held_out, {"output": np.log([5.0, 4.0])})
    assert report.metrics["mae"] == pytest.approx(2.5)
    assert report.metrics["rmsle"] == pytest.approx(np.log(2) / np.sqrt(2))
    assert (report.metrics["xauc"], report.baseline["xauc"]) == (1, 0.5)
    alike = np.log(40) / 3
    errors = alike - np.log([10, 4])
    assert report.baseline["rmsle"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert report.per_user.totals["rmsle"].sum() == pytest.approx(np.log(2) ** 2)
    assert {row["metric"] for row in report.slices} == {"rmsle"}


def test_pairs_in_order_are_counted_as_one_by_one():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 9, 60), rng.integers(0, 12, 60).astype(float)
    ahead = [
        (np.sign(scores[a] - scores[b]) + 1) / 2
        for a in range(60)
        for b in range(60)
        if truth[a] > truth[b]
    ]
    assert metrics.xauc(scores, truth) == pytest.approx(np.mean(ahead))
    assert metrics.xauc(np.zeros(60), truth) == 0.5
    assert np.isnan(metrics.xauc(scores, np.ones(60)))
