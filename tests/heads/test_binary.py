"""The binary head by hand, and its metrics against scikit-learn's."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score
from small_batch import as_tensors, pairs_of, written
from small_data import all_rows, planted, written_out

from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.binary import Binary
from mtrec.heads.head import Examples
from mtrec.training.evaluate import Evaluator


def head(data, *, label="rating", at_least=4.0):
    made = Binary(label=label, at_least=at_least, dim=2, members=1, layers=[], l2=0.0)
    made.adapt(data, all_rows(data), name="liked", seed=4)
    return made


@pytest.fixture(scope="module")
def data():
    return written_out([(1, 1, 2, 1), (2, 2, 5, 2), (1, 2, np.nan, 3), (2, 1, 4, 4)])


def test_it_starts_at_the_log_odds_of_a_positive_label(data):
    # Two of three labels, and one of either kind.
    assert head(data).start.numpy() == pytest.approx(np.log(3 / 2))
    assert head(data, at_least=5).start.numpy() == pytest.approx(np.log(2 / 3))


def test_the_loss_is_hand_worked_and_masked(data):
    made = head(data)
    made.start.assign(0.0)
    batch = written(
        query_users=[1, 2],
        items=[1, 2],
        rows_query=[0, 1, 0],
        rows_item=[1, 0, 0],
        rows_labels={"rating": [4, 3.9, np.nan]},
        rows_weight=[1, 1, 1],
    )
    given = Examples(
        query=tf.constant([[1.0, 2.0], [0.0, 1.0]]),
        item=tf.constant([[0.5, 0.5], [-1.0, 1.0]]),
        pool=tf.zeros((0, 2)),
        batch=as_tensors(batch),
    )
    losses, mask = made.losses(given)

    # Outputs 1 and 0.5: -log sigmoid(1), -log(1 - sigmoid(0.5)).
    expected = [np.log(1 + np.exp(-1)), np.log(1 + np.exp(0.5))]
    assert losses.numpy()[:2] == pytest.approx(expected, rel=1e-6)
    assert mask.numpy().tolist() == [1, 1, 0]


def test_people_are_told_a_probability(data):
    made = head(data)
    made.start.assign(np.log(3.0))
    zeros = tf.zeros((1, 2))

    told = made.score_pairs(zeros, zeros, pairs_of([1], [1]), name="liked")
    assert list(told) == ["liked"]
    assert told["liked"].numpy() == pytest.approx([0.75])


def test_a_label_that_the_interactions_lack_is_refused(data):
    with pytest.raises(UserError, match=r"`heads.liked.label` must be .*\(rating\); got clicked"):
        head(data, label="clicked")


def test_metrics_equal_scikit_learn_s():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    logits = np.round(rng.normal(size=300) + positive, 1)  # with ties

    assert metrics.auc(logits, positive) == pytest.approx(roc_auc_score(positive, logits))
    expected = log_loss(positive, 1 / (1 + np.exp(-logits)))
    assert metrics.log_losses(logits, positive).mean() == pytest.approx(expected)


def test_the_grouped_auc_is_the_mean_of_scikit_learn_s_over_users_weighed_by_rows():
    rng = np.random.default_rng(0)
    owner = np.sort(rng.integers(3, 30, 300))
    positive = rng.random(300) < 0.2
    logits = np.round(rng.normal(size=300) + positive, 1)
    shuffled = rng.permutation(300)
    mine = [owner == user for user in range(30) if len({*positive[owner == user]}) == 2]
    assert len(mine) < 27  # some have rows of one kind alone
    expected = np.average(
        [roc_auc_score(positive[rows], logits[rows]) for rows in mine],
        weights=[rows.sum() for rows in mine],
    )
    found = metrics.grouped_auc(logits[shuffled], positive[shuffled], owner[shuffled])
    assert found == pytest.approx(expected)
    assert np.isnan(metrics.grouped_auc(logits, np.zeros(300, bool), owner))


def test_the_entropy_is_over_that_of_the_rows_own_share():
    positive = np.array([True, False, False, False])
    losses = metrics.log_losses(np.full(4, np.log(1 / 3)), positive)
    assert metrics.normalized_entropy(losses, positive) == pytest.approx(1)
    assert metrics.normalized_entropy(2 * losses, positive) == pytest.approx(2)
    assert np.isnan(metrics.normalized_entropy(losses, np.ones(4, bool)))


def test_a_constant_score_is_right_half_of_the_time():
    assert metrics.auc(np.zeros(5), np.array([True, False, False, True, True])) == 0.5
    assert np.isnan(metrics.auc(np.zeros(2), np.array([True, True])))


def test_the_report_is_of_the_held_out_rows_that_carry_the_label():
    data = planted()
    made = head(data)
    rows = all_rows(data)
    held_out = Evaluator(data, known=rows[:300], held_out=rows[300:]).held_out
    label = held_out.labels["rating"][np.isfinite(held_out.labels["rating"])]
    output = np.random.default_rng(0).normal(size=len(label))
    report = made.report(held_out, {"output": output})

    positive = label >= 4
    assert report.metrics["auc"] == pytest.approx(roc_auc_score(positive, output))
    expected = (1 / (1 + np.exp(-output))).sum() / positive.sum()
    assert report.metrics["calibration"] == pytest.approx(expected)
    share = np.full(len(label), made.train_share)
    assert report.baseline["log_loss"] == pytest.approx(log_loss(positive, share))
    per_user = report.per_user
    assert per_user.count.sum() == len(label)
    total = per_user.totals["log_loss"].sum() / len(label)
    assert total == pytest.approx(report.metrics["log_loss"])
    assert {row["metric"] for row in report.slices} == {"log_loss"}
