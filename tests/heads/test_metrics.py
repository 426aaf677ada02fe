"""Metrics against hand-worked values and plain loops."""

import math

import numpy as np
import pytest

from mtrec.heads import metrics


def rng():
    return np.random.default_rng(0)


def test_chunks_cover_a_range_once():
    parts = [(part.start, part.stop) for part in metrics.chunks(10, 4)]

    assert parts == [(0, 4), (4, 8), (8, 10)]
    assert list(metrics.chunks(0, 4)) == []


def test_ranking_metrics_are_hand_worked():
    # User 0 has items at ranks 0, 2 and 30; user 1 one at rank 10.
    found = metrics.ranking(np.array([0, 2, 30, 10]), np.array([0, 0, 0, 1]), 2)

    assert found["recall_at_1"].tolist() == pytest.approx([1 / 3, 0])
    assert found["recall_at_5"].tolist() == pytest.approx([2 / 3, 0])
    assert found["recall_at_10"].tolist() == pytest.approx([2 / 3, 0])
    assert found["recall_at_20"].tolist() == pytest.approx([2 / 3, 1])
    assert found["recall_at_50"].tolist() == pytest.approx([1, 1])
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["ndcg_at_10"].tolist() == pytest.approx([(1 + 1 / 2) / ideal, 0])
    assert found["ndcg_at_20"].tolist() == pytest.approx([(1 + 1 / 2) / ideal, 1 / math.log2(12)])
    assert found["mrr"].tolist() == pytest.approx([1, 1 / 11])
    assert found["hit_rate_at_10"].tolist() == [1, 0]


def test_the_ideal_ndcg_has_no_more_hits_than_places():
    # 12 items at the first 12 ranks: nothing could be better at 10 or at 20.
    found = metrics.ranking(np.arange(12), np.zeros(12, int), 1)

    assert found["ndcg_at_10"].tolist() == pytest.approx([1])
    assert found["ndcg_at_20"].tolist() == pytest.approx([1])
    assert found["recall_at_10"].tolist() == pytest.approx([10 / 12])


def looped(lists, k):
    """Recall, NDCG, MRR and hit rate of lists of ranks, written as anybody would."""
    recall, ndcg, mrr, hits = [], [], [], []
    for ranks in lists:
        found = [rank for rank in ranks if rank < k]
        recall.append(len(found) / len(ranks))
        gain = sum(1 / math.log2(rank + 2) for rank in found)
        ndcg.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(ranks)))))
        mrr.append(1 / (min(ranks) + 1))
        hits.append(float(bool(found)))
    return recall, ndcg, mrr, hits


def test_ranking_metrics_equal_plain_loops():
    draws = rng()
    lists = [draws.permutation(60)[: draws.integers(1, 25)].tolist() for _ in range(40)]
    owner = np.repeat(np.arange(40), [len(ranks) for ranks in lists])
    found = metrics.ranking(np.concatenate(lists), owner, 40)

    for k in (10, 20):
        recall, ndcg, mrr, _ = looped(lists, k)
        np.testing.assert_allclose(found[f"recall_at_{k}"], recall)
        np.testing.assert_allclose(found[f"ndcg_at_{k}"], ndcg)
        np.testing.assert_allclose(found["mrr"], mrr)
    np.testing.assert_allclose(found["hit_rate_at_10"], looped(lists, 10)[3])
    assert set(found) == {
        *(f"recall_at_{k}" for k in (1, 5, 10, 20, 50, 100)),
        "ndcg_at_10",
        "ndcg_at_20",
        "mrr",
        "hit_rate_at_10",
    }


def test_factorized_hits_are_interactions_in_the_top_1_5_10_50_and_100():
    found = metrics.factorized_hits(np.array([0, 3, 9, 10, 49, 99, 100, 0]))

    assert found.tolist() == [2, 3, 4, 6, 7]


def test_rating_errors_are_hand_worked():
    raw, truth = np.float32([3, 6, 0.5]), np.float32([4, 5, 2])
    found = metrics.rating_errors(raw, np.clip(raw, 1, 5), truth)

    assert found["rmse"] == pytest.approx(math.sqrt((1 + 1 + 2.25) / 3))
    assert found["mae"] == pytest.approx((1 + 1 + 1.5) / 3)
    assert found["rmse_clipped"] == pytest.approx(math.sqrt((1 + 0 + 1) / 3))


def test_calibration_is_hand_worked():
    predicted = np.float32([4, 1, 3, 2])
    truth = np.float32([5, 1, 2, 3])
    rows = metrics.calibration(predicted, truth, bins=2)

    assert rows == [
        {"predicted": 1.5, "observed": 2.0, "count": 2, "stderr": pytest.approx(1 / math.sqrt(2))},
        {
            "predicted": 3.5,
            "observed": 3.5,
            "count": 2,
            "stderr": pytest.approx(1.5 / math.sqrt(2)),
        },
    ]


def test_calibration_has_no_more_bins_than_rows():
    rows = metrics.calibration(np.float32([1, 2]), np.float32([1, 2]), bins=10)

    assert [row["count"] for row in rows] == [1, 1]


def test_predicted_against_true_counts_every_row_once():
    predicted = np.float32([1.0, 1.1, 5.0, 3.0, 2.999, 9.0, -9.0])
    truth = np.float32([1, 1, 5, 3, 3, 5, 1])
    found = metrics.predicted_against_true(predicted, truth, low=1, high=5, bins=4)

    assert found["ratings"] == [1, 3, 5]
    assert found["edges"] == [1, 2, 3, 4, 5]
    assert found["counts"] == [[3, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 2]]
