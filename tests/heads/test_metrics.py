"""Metrics against hand-worked values and plain loops."""

import math

import numpy as np
import pytest

from mtrec.heads import metrics


def rng():
    return np.random.default_rng(0)


def test_the_rank_is_the_number_of_candidates_that_score_higher():
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])

    found = metrics.ranks(scores, [np.array([2, 1]), np.array([3])], range(2))
    assert found.tolist() == [2, 0, 3]


def test_ranks_equal_plain_counting_on_random_scores():
    scores = rng().normal(size=(20, 50)).astype(np.float32)
    items = [rng().permutation(50)[: 1 + row % 4] for row in range(20)]

    expected = [
        sum(other > scores[row, item] for other in scores[row])
        for row in range(20)
        for item in items[row]
    ]
    assert metrics.ranks(scores, items, range(20)).tolist() == expected


def test_a_tied_item_gets_each_place_among_its_ties_equally_often():
    # Two items above, three tied with the target at places 2, 3, 4 and 5, one below.
    scores = np.array([[9.0, 8.0, 5.0, 5.0, 5.0, 5.0, 1.0]] * 4000)
    found = metrics.ranks(scores, [np.array([4])] * 4000, range(4000))

    counts = np.bincount(found, minlength=7)
    assert counts[[0, 1, 6]].tolist() == [0, 0, 0]
    # 1,000 times each, with a standard deviation of 27.
    assert np.abs(counts[2:6] - 1000).max() < 4 * 27


def test_a_row_draws_the_same_places_whatever_stands_beside_it():
    scores = rng().integers(0, 3, size=(30, 40)).astype(np.float32)
    items = [rng().permutation(40)[:5]] * 30
    whole = metrics.ranks(scores, items, range(30)).reshape(30, 5)
    alone = [metrics.ranks(scores[[row]], items[:1], [row]) for row in range(30)]

    assert whole.tolist() == np.stack(alone).tolist()
    # Equal rows with other seeds draw otherwise.
    drawn = metrics.ranks(np.zeros((50, 40)), [np.array([7])] * 50, range(50))
    assert len(np.unique(drawn)) > 20


def test_two_tied_items_never_share_a_place():
    scores = np.zeros((200, 3))
    found = metrics.ranks(scores, [np.array([0, 2])] * 200, range(200)).reshape(200, 2)

    assert (found[:, 0] != found[:, 1]).all()
    assert set(found.ravel()) == {0, 1, 2}


def test_all_items_of_a_constant_model_fill_all_places():
    (found,) = metrics.ranks(np.zeros((1, 6)), [np.arange(6)], [0]).reshape(1, 6)

    assert sorted(found) == [0, 1, 2, 3, 4, 5]


def test_a_column_asked_for_twice_has_one_rank():
    first, second = metrics.ranks(np.zeros((1, 100)), [np.array([7, 7])], [0])

    assert first == second


def test_a_candidate_at_minus_infinity_is_behind_all_others():
    scores = np.array([[-np.inf, 1.0, -np.inf, -3.0]])

    assert metrics.ranks(scores, [np.array([3, 1])], [0]).tolist() == [1, 0]


def test_a_constant_model_finds_as_many_as_chance():
    """10 of 1,682 items: the share within three standard deviations, and recall like it."""
    users, held_out, items = 1000, 20, 1682
    columns = [rng().permutation(items)[:held_out]] * users
    found = metrics.ranks(np.zeros((users, items), np.float32), columns, range(users))

    share = metrics.factorized_top_k(found)["factorized_top_10"]
    chance = 10 / items
    deviation = math.sqrt(chance * (1 - chance) / (users * held_out))
    assert abs(share - chance) < 3 * deviation
    owner = np.repeat(np.arange(users), held_out)
    recall = metrics.ranking(found, owner, users)["recall_at_100"].mean()
    assert recall == pytest.approx(100 / items, rel=0.05)


def test_no_ranks_of_no_users():
    assert metrics.ranks(np.zeros((0, 5)), [], []).tolist() == []


def test_top_k_is_in_order_of_the_score():
    scores = np.array([[3.0, 1.0, 4.0, 1.5], [0.0, -1.0, -np.inf, 2.0]])

    assert metrics.top_k(scores, 3).tolist() == [[2, 0, 3], [3, 0, 1]]
    assert metrics.top_k(scores, 4)[0].tolist() == [2, 0, 3, 1]


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


def test_factorized_top_k_is_a_share_of_interactions():
    found = metrics.factorized_top_k(np.array([0, 3, 9, 10, 49, 99, 100, 0]))

    assert found == {
        "factorized_top_1": 2 / 8,
        "factorized_top_5": 3 / 8,
        "factorized_top_10": 4 / 8,
        "factorized_top_50": 6 / 8,
        "factorized_top_100": 7 / 8,
    }


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
