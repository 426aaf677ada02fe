"""The listwise head against plain loops, and its metrics against scikit-learn's."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax
from sklearn.metrics import ndcg_score
from small_batch import as_tensors, written
from small_data import all_rows, planted

from mtrec.heads import metrics
from mtrec.heads.head import Examples
from mtrec.heads.ranking import Ranking
from mtrec.training.evaluate import Evaluator


def head(data):
    made = Ranking(label="rating", dim=2, members=1, layers=[], l2=0.0)
    made.adapt(data, all_rows(data), name="order", seed=4)
    return made


def test_the_loss_is_the_cross_entropy_of_each_list():
    made = head(planted())
    rng = np.random.default_rng(0)
    query, item = rng.normal(size=(3, 2)), rng.normal(size=(7, 2))
    owner = np.int32([0, 0, 0, 2, 2, 2, 0, 0])
    labels = np.float32([5, 3, np.nan, 1, 1, 4, 2, 5])
    weight = np.float32([1, 1, 1, 1, 1, 1, 1, 0])  # the last is padding
    batch = written(
        query_users=[1, 2, 3],
        items=np.arange(1, 8),
        rows_query=owner,
        rows_item=[0, 1, 2, 3, 4, 5, 6, 0],
        rows_labels={"rating": labels},
        rows_weight=weight,
    )
    given = Examples(
        query=tf.constant(query, tf.float32),
        item=tf.constant(item, tf.float32),
        pool=tf.zeros((0, 2)),
        batch=as_tensors(batch),
    )
    losses, mask = made.losses(given)

    assert mask.numpy().tolist() == [1, 1, 0, 1, 1, 1, 1, 0]
    scores = (query[owner] * item[batch.rows.item]).sum(axis=1)
    for rows in ([0, 1, 6], [3, 4, 5]):
        entropy = -(softmax(labels[rows].astype(np.float64)) * log_softmax(scores[rows])).sum()
        # The mean over rows is the mean of the lists, by their length.
        assert losses.numpy()[rows].mean() == pytest.approx(entropy, rel=1e-5)


def test_a_list_of_one_costs_nothing_and_moves_nothing():
    made = head(planted())
    batch = written(
        query_users=[1],
        items=[1],
        rows_query=[0],
        rows_item=[0],
        rows_labels={"rating": [3]},
        rows_weight=[1],
    )
    query = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        losses, _ = made.losses(
            Examples(
                query=query,
                item=tf.constant([[3.0, 4.0]]),
                pool=tf.zeros((0, 2)),
                batch=as_tensors(batch),
            )
        )
    assert losses.numpy().tolist() == [0.0]
    assert not np.any(tape.gradient(losses, query))


def test_graded_metrics_equal_scikit_learn_s_and_plain_loops():
    rng = np.random.default_rng(1)
    owner = np.sort(rng.integers(0, 12, 150))
    labels, scores = rng.integers(1, 6, 150).astype(float), rng.normal(size=150)
    found = metrics.graded_ranking(scores, labels, owner, 13)

    assert found["count"].tolist() == [1.0] * 12 + [0.0]
    for user in range(12):
        mine = owner == user
        gain, score = labels[mine] - labels[mine].min(), scores[mine]
        ndcg = ndcg_score([gain], [score], k=10)
        assert found["ndcg_at_10"][user] == pytest.approx(ndcg)
        pairs = [(i, j) for i in range(len(gain)) for j in range(len(gain)) if gain[i] > gain[j]]
        right = np.mean([score[i] > score[j] for i, j in pairs])
        assert found["pairs_in_order"][user] == pytest.approx(right)


def test_equal_scores_are_never_called_in_order():
    found = metrics.graded_ranking(np.zeros(2), np.array([1.0, 5.0]), np.array([0, 0]), 1)

    assert found["pairs_in_order"].tolist() == [0.5]
    # The worse of the two orders: the better item second.
    assert found["ndcg_at_10"] == pytest.approx([1 / np.log2(3)])


def test_users_whose_labels_are_alike_are_not_judged():
    data = planted()
    rows = all_rows(data)
    held_out = Evaluator(data, known=rows[:300], held_out=rows[300:]).held_out
    label = held_out.labels["rating"]
    known = np.isfinite(label)
    report = head(data).report(held_out, {"output": label[known]})

    assert report.metrics == {"ndcg_at_10": 1.0, "pairs_in_order": 1.0}
    owner = held_out.owner[known]
    differ = [len(set(label[known][owner == u])) > 1 for u in range(len(held_out.users))]
    assert 0 < sum(differ) < len(differ)
    assert report.per_user.count.tolist() == differ
    assert 0.3 < report.baseline["pairs_in_order"] < 0.7
