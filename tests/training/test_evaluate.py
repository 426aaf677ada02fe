"""Evaluation on held-out rows against plain loops over users and items."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_data import all_rows, planted, written_out
from small_model import implicit_squared, rating, recommender, softmax

from mtrec.data import progress
from mtrec.data.histories import Histories
from mtrec.data.negatives import Catalogue
from mtrec.errors import PreemptedError
from mtrec.heads import metrics, ranks
from mtrec.heads.ranks import ByOwn, Known
from mtrec.heads.retrieval import Retrieval
from mtrec.heads.retrieval_losses import ImplicitSquared
from mtrec.heads.tally import packed
from mtrec.model import encode
from mtrec.model.encode import embed_items, embed_users
from mtrec.reports import per_user
from mtrec.training import evaluate
from mtrec.training.evaluate import Evaluator, Sample, flat_metrics
from mtrec.training.measured import joined


class Scores:
    """Stands for a model whose score of each user and item is given, `[U + 1, C + 1]`."""

    def __init__(self, scores, **heads):
        self.scores = np.float32(scores)
        loss = ImplicitSquared(all_pairs_weight=0.1)
        how = {
            "dim": None,
            "normalize": False,
            "temperature": 1.0,
            "negatives": Catalogue(most_items=1000),
        }
        self.heads = {"retrieval": Retrieval(**how, loss=loss), **heads}
        self.asked = []

    def queries(self, inputs):
        items, owners = inputs.history.items, inputs.history.owners
        self.asked += [
            (int(row), items[owners == place].tolist()) for place, row in enumerate(inputs.users)
        ]
        return dict.fromkeys(self.heads, tf.constant(self.scores[inputs.users]))

    def candidates(self, rows):
        return dict.fromkeys(self.heads, tf.one_hot(rows, self.scores.shape[1]))


def retrieval_of(dataset, known, held_out, scores, *, full=False):
    evaluator = Evaluator(dataset, known=np.array(known), held_out=np.array(held_out))
    return evaluator(Scores(scores), full=full)["retrieval"]


def test_known_items_are_masked_and_held_out_ones_ranked():
    # User 1 knows items 1 and 2; item 4 is held out.
    data = written_out([(1, 1, 3, 1), (1, 2, 3, 2), (1, 4, 3, 3)], num_items=5)
    scores = np.zeros((2, 6))
    scores[1] = [0, 9, 8, 3, 2, 1]
    found = retrieval_of(data, [0, 1], [2], scores).metrics

    assert found["mrr"] == 1 / 2  # only item 3 is above it
    assert found["recall_at_1"] == 0.0
    assert found["recall_at_5"] == 1.0
    assert found["factorized_top_1"] == 0.0
    assert found["factorized_top_5"] == 1.0


def test_an_item_that_is_known_twice_is_taken_out_once():
    # Item 1 is above item 4, which is held out; so is item 3, which the user lacks.
    data = written_out([(1, 1, 3, 1), (1, 1, 3, 2), (1, 4, 3, 3)], num_items=5)
    scores = np.zeros((2, 6))
    scores[1] = [0, 9, 1, 3, 2, 1]

    assert retrieval_of(data, [0, 1], [2], scores).metrics["mrr"] == 1 / 2


def test_nothing_is_excluded_from_the_factorized_metric():
    rows = [(1, item, 3, item) for item in range(1, 12)]
    data = written_out(rows, num_items=12)
    scores = np.zeros((2, 13))
    scores[1, 1:12] = np.arange(11, 0, -1)
    # Ten known items are above the held-out item 11, which is first among the others.
    found = retrieval_of(data, range(10), [10], scores).metrics

    assert found["recall_at_1"] == 1.0
    assert found["factorized_top_10"] == 0.0
    assert found["factorized_top_50"] == 1.0


def test_a_pair_that_is_known_already_tests_ratings_but_not_retrieval():
    data = written_out([(1, 1, 3, 1), (1, 1, 5, 2), (1, 2, 4, 3), (2, 1, 2, 1), (2, 1, 2, 4)])
    evaluator = Evaluator(data, known=np.array([0, 3]), held_out=np.array([1, 2, 4]))

    assert evaluator.held_out.item.tolist() == [1, 2, 1]
    assert evaluator.held_out.labels["rating"].tolist() == [5, 4, 2]
    assert evaluator.held_out.time.tolist() == [2, 3, 4]
    assert evaluator.held_out.of(slice(1, 2)).time.tolist() == [4]
    assert evaluator.held_out.new.tolist() == [False, True, False]
    found = evaluator(Scores([[0, 0, 0], [0, 1, 0], [0, 1, 0]]), full=True)["retrieval"]
    # User 2 has nothing new and is not counted; user 1's only other item is item 2.
    assert found.metrics["recall_at_1"] == 1.0
    assert sum(row["count"] for row in found.slices if row["slice"] == "activity") == 1
    # But both are held-out interactions: item 1 of both users is first, item 2 is not.
    assert found.metrics["factorized_top_1"] == pytest.approx(2 / 3)


def test_a_pair_held_out_twice_is_found_once():
    data = written_out([(1, 1, 3, 1), (1, 2, 3, 2), (1, 2, 3, 3), (1, 3, 3, 4)], num_items=30)
    scores = np.zeros((2, 31))
    scores[1, 1:4] = [9, 8, 7]
    evaluator = Evaluator(data, known=np.array([0]), held_out=np.array([1, 2, 3]))
    found = evaluator(Scores(scores), full=False)["retrieval"].metrics

    assert evaluator.held_out.new.sum() == 3
    assert found["recall_at_1"] == 1 / 2
    assert found["ndcg_at_10"] == pytest.approx(1.0)


def test_a_user_without_held_out_rows_is_not_counted():
    data = written_out([(1, 1, 3, 1), (2, 1, 3, 1), (3, 2, 3, 1), (2, 2, 3, 2), (3, 1, 3, 2)])
    scores = np.zeros((4, 3))
    scores[:, 2] = 1.0
    found = retrieval_of(data, [0, 1, 2], [3, 4], scores).metrics

    # Both have one item left, which is theirs; user 1 would have dragged the mean down.
    assert found["recall_at_1"] == 1.0


def test_without_anything_new_there_are_no_figures():
    data = written_out([(1, 1, 3, 1), (1, 1, 3, 2)])
    found = retrieval_of(data, [0], [1], np.zeros((2, 2)), full=True)

    assert found.metrics == {}
    assert found.slices == []


def test_a_catalogue_of_fewer_than_ten_items_is_ranked_whole():
    data = written_out([(1, 1, 3, 1), (1, 2, 3, 2)], num_items=3)
    found = retrieval_of(data, [0], [1], np.zeros((2, 4))).metrics

    assert found["recall_at_5"] == 1.0
    # Two items can be recommended, neither of which anybody has; the known one cannot.
    assert found["coverage_at_10"] == pytest.approx(2 / 3)
    assert found["popularity_at_10"] == 0.0


@pytest.fixture(scope="module")
def split():
    data = planted(num_items=80, num_interactions=900)
    known, held_out = np.split(np.random.default_rng(1).permutation(all_rows(data)), [700])
    return data, known, held_out


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(2).normal(size=(41, 81))


def plain(data, known, held_out, scores):
    """Metrics by loops; scores must not tie."""
    columns = data.interactions
    mine = {row: set() for row in range(1, 41)}
    for row in known:
        mine[columns["user"][row]].add(columns["item"][row])
    recall, gain, mrr, shown, in_top = [], [], [], [], []
    for user in np.unique(columns["user"][held_out]):
        wanted = set(columns["item"][held_out[columns["user"][held_out] == user]].tolist())
        ranked = sorted(range(1, 81), key=lambda item, user=user: -scores[user][item])
        in_top += [item in ranked[:10] for item in wanted]
        ranked = [item for item in ranked if item not in mine[user]]
        places = [place for place, item in enumerate(ranked) if item in wanted]
        recall.append(sum(place < 10 for place in places) / len(wanted))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(wanted))))
        gain.append(sum(1 / math.log2(place + 2) for place in places if place < 10) / ideal)
        mrr.append(1 / (places[0] + 1))
        shown += ranked[:10]
    popularity = [sum(item in items for items in mine.values()) / 40 for item in shown]
    return {
        "recall_at_10": np.mean(recall),
        "ndcg_at_10": np.mean(gain),
        "mrr": np.mean(mrr),
        "coverage_at_10": len(set(shown)) / 80,
        "popularity_at_10": np.mean(popularity),
        "factorized_top_10": np.mean(in_top),
    }


def test_metrics_equal_plain_loops(split, scores):
    found = retrieval_of(*split, scores).metrics

    for name, value in plain(*split, scores).items():
        assert found[name] == pytest.approx(value), name


def test_the_baseline_is_popularity_among_known_rows(split):
    data, known, held_out = split
    counts = np.bincount(data.interactions["item"][known], minlength=81)
    # Ties are broken at random: plain loops give a mean over many ways to break them.
    ways = [
        plain(data, known, held_out, np.tile(counts + np.random.default_rng(i).random(81), (41, 1)))
        for i in range(30)
    ]
    found = retrieval_of(data, known, held_out, np.zeros((41, 81)), full=True).baseline
    for name in ("recall_at_10", "ndcg_at_10", "factorized_top_10"):
        values = [way[name] for way in ways]
        assert min(values) - 0.01 < found[name] < max(values) + 0.01


def test_popularity_ranks_as_a_model_does_that_scores_by_it(split):
    data, known, held_out = split
    counts = np.bincount(data.interactions["item"][known], minlength=81)
    found = retrieval_of(data, known, held_out, np.tile(counts, (41, 1)), full=True)

    assert found.metrics == found.baseline


def test_a_constant_model_does_as_well_as_chance():
    data = planted(num_users=400, num_items=200, num_interactions=12_000)
    known, held_out = np.split(np.random.default_rng(0).permutation(all_rows(data)), [8_000])
    found = retrieval_of(data, known, held_out, np.zeros((401, 201))).metrics

    deviation = math.sqrt(0.05 * 0.95 / 4_000)
    assert found["factorized_top_10"] == pytest.approx(0.05, abs=3 * deviation)
    columns = data.interactions["user"]
    users, wanted = np.unique(columns[held_out], return_counts=True)
    chance = 10 / (200 - np.bincount(columns[known], minlength=401)[users])
    deviation = math.sqrt((chance * (1 - chance) / wanted).sum()) / len(users)
    assert found["recall_at_10"] == pytest.approx(chance.mean(), abs=3 * deviation)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_of_any_size_give_the_same(split, scores, monkeypatch, size):
    whole = retrieval_of(*split, scores).metrics
    real = metrics.chunks
    monkeypatch.setattr(metrics, "chunks", lambda total, _, *what: real(total, size, *what))

    assert retrieval_of(*split, scores).metrics == pytest.approx(whole)


@pytest.mark.parametrize("size", [1, 7])
def test_ties_are_broken_alike_in_chunks_of_any_size(split, monkeypatch, size):
    few = np.random.default_rng(2).integers(0, 4, size=(41, 81))
    whole = retrieval_of(*split, few, full=True)
    real = metrics.chunks
    monkeypatch.setattr(metrics, "chunks", lambda total, _, *what: real(total, size, *what))
    found = retrieval_of(*split, few, full=True)

    assert found.metrics == whole.metrics
    assert found.baseline == whole.baseline


@pytest.mark.parametrize("together", [1, 7])
def test_parts_of_any_size_are_counted_alike(split, monkeypatch, together):
    few = np.random.default_rng(2).integers(0, 4, size=(41, 81))
    whole = retrieval_of(*split, few, full=True)
    monkeypatch.setattr(ranks, "USERS_AT_ONCE", together)
    found = retrieval_of(*split, few, full=True)

    assert found.metrics == whole.metrics
    assert found.baseline == whole.baseline


def in_shares(evaluator, model, workers):
    """Each worker's measurements, and the reports that are made of them."""
    parts = [evaluator.measure(model, s) for s in evaluator.shares(workers)]
    return parts, evaluator.report(joined(parts), model.heads)


def assert_same_report(found, expected):
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-6)
    assert found.baseline == pytest.approx(expected.baseline, abs=1e-6)
    assert len(found.slices) == len(expected.slices)
    for row, other in zip(found.slices, expected.slices, strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    assert found.tables.keys() == expected.tables.keys()
    for total, values in expected.per_user.totals.items():
        np.testing.assert_allclose(found.per_user.totals[total], values, atol=1e-6)


@pytest.mark.parametrize("workers", [2, 4, 45])
def test_shares_of_any_number_of_workers_give_the_figures_of_one(split, workers):
    data, known, held_out = split
    evaluator = Evaluator(data, known=known, held_out=held_out)
    heads = {"retrieval": softmax(dim=5), "implicit": implicit_squared(), "rating": rating()}
    model = recommender(data, heads, fit=known)
    parts, found = in_shares(evaluator, model, workers)

    # The 45 workers are more than there are users.
    assert sum(len(part) > 0 for part in parts) == min(workers, len(evaluator.held_out.users))
    whole = evaluator(model, full=True)
    assert found.keys() == whole.keys() == heads.keys()
    for name, report in whole.items():
        assert_same_report(found[name], report)


@pytest.mark.parametrize("workers", [2, 4])
def test_shares_break_ties_like_one_process(split, workers):
    data, known, held_out = split
    evaluator = Evaluator(data, known=known, held_out=held_out)
    model = Scores(np.random.default_rng(2).integers(0, 4, size=(41, 81)))
    _, found = in_shares(evaluator, model, workers)

    expected = evaluator(model, full=True)["retrieval"]
    assert found["retrieval"].metrics == expected.metrics
    assert_same_report(found["retrieval"], expected)


def test_a_share_asks_the_model_for_its_own_users_alone(split, scores):
    data, known, held_out = split
    evaluator = Evaluator(data, known=known, held_out=held_out)
    users = np.unique(data.interactions["user"][held_out]).tolist()
    asked = []
    for share in evaluator.shares(3):
        model = Scores(scores)
        found = evaluator.measure(model, share)
        asked.append([user for user, _ in model.asked])
        mine = np.isin(data.interactions["user"][held_out], asked[-1])
        assert len(found["retrieval/ranks_of_all"]) == mine.sum()

    assert [user for share in asked for user in share] == users
    assert max(map(len, asked)) - min(map(len, asked)) <= 1


def test_a_sample_holds_all_rows_of_so_many_users_whatever_the_order_of_the_rows(split):
    data, _, held_out = split
    user = data.interactions["user"]
    some, population = Sample(9, seed=1).of(data, held_out)
    again, _ = Sample(9, seed=1).of(data, held_out[::-1])
    other, _ = Sample(9, seed=2).of(data, held_out)

    assert (len(set(user[some])), population) == (9, len(set(user[held_out])))
    assert len(set(user[other])) == 9
    assert sorted(some) == sorted(held_out[np.isin(held_out, again)])
    assert sorted(some) == [row for row in sorted(held_out) if user[row] in set(user[some])]
    assert set(user[some]) != set(user[other])
    for all_of_them in (None, 40, 1000):
        kept, population = Sample(all_of_them, seed=1).of(data, held_out)
        assert population is None
        np.testing.assert_array_equal(kept, held_out)


def test_slices_add_up_to_the_whole(split, scores):
    data, known, held_out = split
    report = retrieval_of(data, known, held_out, scores, full=True)
    users = len(np.unique(data.interactions["user"][held_out]))
    by_slice = {}
    for row in report.slices:
        assert row["metric"] == "recall_at_10"
        by_slice.setdefault(row["slice"], []).append(row)

    assert set(by_slice) == {"activity", "user_gender", "items"}
    assert {row["value"] for row in by_slice["activity"]} == {
        "least active",
        "middle",
        "most active",
    }
    assert {row["value"] for row in by_slice["user_gender"]} == {"F", "M"}
    assert {row["value"] for row in by_slice["items"]} == {"head", "tail"}
    for name in ("activity", "user_gender"):
        rows = by_slice[name]
        assert sum(row["count"] for row in rows) == users
        for figure, whole in (("model", report.metrics), ("baseline", report.baseline)):
            mean = sum(row[figure] * row["count"] for row in rows) / users
            assert mean == pytest.approx(whole["recall_at_10"])
    assert sum(row["count"] for row in by_slice["items"]) == len(held_out)


def test_the_head_is_the_most_popular_fifth_of_the_items(split, scores):
    data, known, held_out = split
    report = retrieval_of(data, known, held_out, scores, full=True)
    counts = np.bincount(data.interactions["item"][known], minlength=81)[1:]
    head = np.argsort(-counts, kind="stable")[:16] + 1
    in_head = np.isin(data.interactions["item"][held_out], head).sum()

    (row,) = [row for row in report.slices if row["value"] == "head"]
    assert row["count"] == in_head


def test_the_model_is_asked_once_for_each_user_with_their_known_items_in_time_order():
    rows = [(2, 3, 3, 9), (1, 1, 3, 5), (2, 2, 3, 4), (2, 1, 3, 6), (1, 2, 3, 7)]
    data = written_out(rows, num_items=4)
    model = Scores(np.zeros((3, 5)))
    Evaluator(data, known=np.array([0, 1, 2]), held_out=np.array([3, 4]))(model, full=False)

    assert model.asked == [(1, [1]), (2, [2, 3])]


def test_embedding_in_parts_equals_the_whole(split, monkeypatch):
    data, known, held_out = split
    evaluator = Evaluator(data, known=known, held_out=held_out)
    model = recommender(data, {"retrieval": softmax(), "rating": rating()}, fit=known)
    users, histories = evaluator.held_out.users, evaluator.held_out.known
    whole = embed_users(model, users, histories), embed_items(model, 80)
    monkeypatch.setattr(encode, "USERS_AT_ONCE", 7)
    monkeypatch.setattr(encode, "ITEMS_AT_ONCE", 9)
    parts = embed_users(model, users, histories), embed_items(model, 80)

    for one, other in zip(whole, parts, strict=True):
        assert set(one) == {"retrieval", "rating"}
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
    assert whole[0]["retrieval"].shape == (len(users), 8)
    assert whole[1]["rating"].shape == (80, 4)


class RatedScores(Scores):
    """A model whose predicted rating of each pair is its score, the head's mean being 0."""

    def __init__(self, scores, data, fit):
        head = rating(dim=scores.shape[1])
        head.adapt(data, fit, name="rating", seed=0)
        head.start.assign(0.0)
        super().__init__(scores, rating=head)


def test_rating_errors_are_of_the_held_out_rows_that_carry_a_rating(split, scores):
    data, known, held_out = split
    predicted = scores * 2 + 3
    evaluator = Evaluator(data, known=known, held_out=held_out)
    report = evaluator(RatedScores(predicted, data, known), full=True)["rating"]

    columns = data.interactions
    rated = held_out[np.isfinite(columns["rating"][held_out])]
    truth = columns["rating"][rated].astype(float)
    guess = predicted[columns["user"][rated], columns["item"][rated]]
    assert 0 < len(rated) < len(held_out)
    assert report.metrics["rmse"] == pytest.approx(np.sqrt(np.mean((guess - truth) ** 2)), 1e-5)
    assert report.metrics["mae"] == pytest.approx(np.mean(np.abs(guess - truth)), 1e-5)
    clipped = np.clip(guess, 1, 5)
    expected = np.sqrt(np.mean((clipped - truth) ** 2))
    assert report.metrics["rmse_clipped"] == pytest.approx(expected, 1e-5)
    mean = np.nanmean(columns["rating"][known])
    expected = np.sqrt(np.mean((mean - truth) ** 2))
    assert report.baseline["rmse"] == pytest.approx(expected, 1e-5)
    assert sum(row["count"] for row in report.tables["calibration"]) == len(rated)
    assert np.sum(report.tables["predicted_against_true"]["counts"]) == len(rated)
    for name in ("activity", "user_gender", "items"):
        rows = [row for row in report.slices if row["slice"] == name]
        assert sum(row["count"] for row in rows) == len(rated)
        squared = sum(row["model"] ** 2 * row["count"] for row in rows) / len(rated)
        assert np.sqrt(squared) == pytest.approx(report.metrics["rmse_clipped"], 1e-5)


def test_without_held_out_ratings_there_are_no_rating_figures():
    data = written_out([(1, 1, 3, 1), (1, 2, np.nan, 2)])
    model = RatedScores(np.zeros((2, 3)), data, np.array([0]))
    report = Evaluator(data, known=np.array([0]), held_out=np.array([1]))(model, full=True)

    assert report["rating"].metrics == {}
    assert report["retrieval"].metrics["recall_at_1"] == 1.0


def test_flat_metrics_have_the_names_of_the_contract(split, scores):
    data, known, held_out = split
    model = RatedScores(scores, data, known)
    reports = Evaluator(data, known=known, held_out=held_out)(model, full=True)
    flat = flat_metrics(reports, "test")

    ranks = {f"recall_at_{k}" for k in (1, 5, 10, 20, 50, 100)}
    ranks |= {"ndcg_at_10", "ndcg_at_20", "mrr", "hit_rate_at_10"}
    ranks |= {f"factorized_top_{k}" for k in (1, 5, 10, 50, 100)}
    ranks |= {"coverage_at_10", "popularity_at_10"}
    expected = {f"test/retrieval/{name}" for name in ranks}
    expected |= {f"test/rating/{name}" for name in ("rmse", "mae", "rmse_clipped")}
    assert set(flat) == expected | {f"baseline/{name}" for name in expected}
    assert all(isinstance(value, float) for value in flat.values())


def test_metrics_come_again_out_of_what_each_user_adds_to_them(tmp_path):
    data = planted()
    rows = all_rows(data)
    model = recommender(data, {"retrieval": softmax(), "rating": rating()}, fit=rows[:400])
    evaluator = Evaluator(data, known=rows[:400], held_out=rows[400:])
    reports = evaluator(model, full=True)
    ids = np.asarray(data.users["user_id"])[evaluator.held_out.users]
    per_user.save(reports, ids, tmp_path / "users.parquet")
    table = per_user.load(tmp_path / "users.parquet")

    assert table.index.tolist() == ids.tolist()
    rated = np.isfinite(data.interactions["rating"][rows[400:]])
    mine = np.bincount(data.interactions["user"][rows[400:]][rated], minlength=41)
    assert table["rating/count"].tolist() == mine[evaluator.held_out.users].tolist()
    assert set(table["retrieval/count"]) <= {0, 1}
    for head, report in reports.items():
        for name in report.per_user.totals:
            mean = table[f"{head}/{name}"].sum() / table[f"{head}/count"].sum()
            value = math.sqrt(mean) if name.startswith("rmse") else mean
            assert value == pytest.approx(report.metrics[name], rel=1e-9), name
    assert {"recall_at_10", "ndcg_at_10"} <= set(reports["retrieval"].per_user.totals)
    assert {"rmse", "mae"} <= set(reports["rating"].per_user.totals)


def test_what_users_take_again_is_judged_beside_what_is_new():
    # User 1 has item 1 twice, item 2 once and later; then takes 2 again and 4 as new. User 2 has
    # item 3 and takes it again.
    rows = [(1, 1, 3, 1), (1, 1, 3, 2), (1, 2, 3, 3), (2, 3, 3, 1), (2, 5, 3, 1), (2, 5, 3, 2)]
    rows += [(1, 2, 3, 8), (1, 4, 3, 8), (2, 3, 3, 8)]
    data = replace(written_out(rows, num_items=1000), repeats=True)
    scores = np.zeros((3, 1001))
    scores[1, [1, 2, 3]] = [9, 8, 7]
    scores[1, 5:] = 1  # item 4 is the last
    scores[2, 1:4] = [3, 2, 1]
    found = retrieval_of(data, range(6), [6, 7, 8], scores, full=True)

    first, second, third = 1 / np.log2([2, 3, 4])
    metrics, baseline = found.metrics, found.baseline
    assert metrics["recall_at_10"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["repeat_recall_at_10"] == 1.0
    assert metrics["new_recall_at_10"] == 0.0
    assert metrics["repeat_ndcg_at_10"] == pytest.approx((second + third) / 2)
    assert metrics["new_ndcg_at_10"] == 0.0
    assert metrics["ndcg_at_10"] == pytest.approx((second / (first + second) + third) / 2)
    # Their own most frequent items: user 1's item 2 is second and item 4 among 998 others, where
    # chance puts it; user 2's item 3 is second.
    assert baseline["own_recall_at_10"] == pytest.approx((1 / 2 + 1) / 2)
    # Popularity counts what a user has: items 1 and 5 come first for both.
    assert baseline["repeat_recall_at_10"] == 1.0
    assert baseline["recall_at_1"] == 0.0


def test_of_own_items_taken_equally_often_the_latest_comes_first():
    rows = [(1, 1, 3, 1), (1, 2, 3, 2), (1, 3, 3, 3), (1, 2, 3, 4), (1, 1, 3, 5), (1, 1, 3, 8)]
    data = replace(written_out(rows, num_items=30), repeats=True)
    held_out = Evaluator(data, known=np.arange(5), held_out=np.array([5])).held_out
    own = ByOwn(held_out)
    with ThreadPoolExecutor(1) as threads:
        own.score(np.array([0]), threads)
    known = Known(held_out, np.array([0]))

    assert own.top(slice(0, 1), known, 4).tolist() == [[0, 1, 2, -1]]
    found = own.standing(slice(0, 1), np.zeros(2, int), np.array([0, 2]))
    assert found == pytest.approx(np.array([[0, 2], [1, 1]]))


def test_a_request_is_judged_with_what_was_known_before_it():
    rows = [(1, 1, 3, 1), (1, 2, 3, 5), (2, 1, 3, 9)]
    rows += [(1, 2, 3, 3), (1, 4, 3, 9), (1, 3, 3, 3), (2, 2, 3, 9)]
    data = replace(written_out(rows, num_items=5), by_request=True)
    scores = np.zeros((3, 6))
    scores[1] = [0, 9, 3, 8, 7, 6]
    scores[2, 2] = 1
    evaluator = Evaluator(data, known=np.arange(3), held_out=np.arange(3, 7))
    model = Scores(scores)
    found = evaluator(model, full=True)["retrieval"]

    # At time 3, user 1 has item 1 alone; at 9, what was held out at 3 and then item 2 as well. User
    # 2 has item 1 at 9, not before.
    assert model.asked == [(1, [1]), (1, [1, 2, 3, 2]), (2, [])]
    assert evaluator.held_out.requests.tolist() == [4, 5, 7]
    # Items 3 and 2 are asked for first (of 3, 4, 5, 2 in order), then item 4 (of 4, 5).
    assert found.metrics["recall_at_1"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert found.metrics["mrr"] == pytest.approx((1 + 1 + 1) / 3)
    assert found.per_user.count.tolist() == [2, 1]
    assert found.per_user.totals["mrr"].tolist() == [2.0, 1.0]
    # What is popular is what was known before anything was held out.
    assert np.bincount(evaluator.held_out.known.items).tolist() == [0, 2, 1]
    # Two workers find the same.
    parts = [evaluator.measure(model, users) for users in evaluator.shares(2)]
    assert evaluator.report(joined(parts), model.heads)["retrieval"].metrics == (found.metrics)


def test_rows_of_one_moment_on_both_sides_of_a_split_are_kept_apart_where_items_are_taken_again():
    rows = [(1, 1, 3, 1), (1, 2, 3, 5), (1, 3, 3, 5), (1, 2, 3, 8), (2, 4, 3, 5)]
    data = written_out(rows)
    for repeats, known, new in (
        (True, [1], [True, True]),
        (False, [1, 2], [True, False]),
    ):
        data = replace(data, repeats=repeats)
        held_out = Evaluator(data, known=np.arange(2), held_out=np.array([2, 3, 4])).held_out
        items, owners = held_out.own(slice(0, 2))
        assert (items.tolist(), owners.tolist()) == (known, [0] * len(known))
        assert held_out.inputs(slice(0, 2)).history.items.tolist() == known
        assert held_out.new[:2].tolist() == new
        assert held_out.times.tolist() == [5, 5]


def test_rows_of_a_basket_are_one_query_known_by_its_first_row():
    rows = [(1, 1, 3, 1), (1, 2, 3, 5), (1, 3, 3, 4), (1, 4, 3, 6)]
    data = written_out(rows)
    columns = {**data.interactions, "request": np.array([0, 7, 8, 7], np.int32)}
    data = replace(data, interactions=columns, by_request=True)
    held_out = Evaluator(data, known=np.arange(1), held_out=np.array([3, 1, 2])).held_out

    assert held_out.requests.tolist() == [3, 2]
    assert held_out.owner.tolist() == [0, 1, 1]
    assert held_out.item.tolist() == [3, 2, 4]


@pytest.mark.parametrize("at_once", [1, 7])
def test_blocks_of_any_size_give_the_figures_of_one(split, scores, monkeypatch, at_once):
    data, known, held_out = split
    heads = {"implicit": implicit_squared(), "rating": rating()}
    model = recommender(data, heads, fit=known)
    judge = Evaluator(data, known=known, held_out=held_out)
    expected = [judge(model, full=full) for full in (False, True)]
    monkeypatch.setattr(evaluate, "MOST_USERS", at_once)
    found = [judge(model, full=full) for full in (False, True)]

    for name in heads:
        assert found[0][name].metrics == pytest.approx(expected[0][name].metrics, abs=1e-6)
        assert found[0][name].metrics == pytest.approx(found[1][name].metrics, abs=1e-6)
        assert_same_report(found[1][name], expected[1][name])


def test_what_travels_of_ranks_and_ratings_does_not_grow_with_the_users(split):
    data, known, held_out = split
    heads = {"implicit": implicit_squared(), "rating": rating()}
    model = recommender(data, heads, fit=known)
    judge = Evaluator(data, known=known, held_out=held_out)
    few, many = (packed(judge.tally(model, slice(0, users))) for users in (3, 40))

    assert few.keys() == many.keys()
    assert [v.size for v in few.values()] == [v.size for v in many.values()]
    items = data.num_items
    assert max(v.size for v in many.values()) == items + 1


def test_histories_that_are_there_are_not_made_again(split):
    data, known, held_out = split
    there = Histories.of(data, known)
    judge = Evaluator(data, known=there, held_out=held_out)
    other = Evaluator(data, known=known, held_out=held_out)

    assert judge.held_out.known is there
    np.testing.assert_array_equal(judge.held_out.new, other.held_out.new)


def test_an_evaluation_that_is_to_stop_ends_within_a_block(split, scores):
    data, known, held_out = split

    class Asks(Silent):
        asked = 0

        def should_stop(self):
            self.asked += 1
            return self.asked == 2

    model = Scores(scores)
    judge = Evaluator(data, known=known, held_out=held_out)
    with (
        progress.followed_by(Asks()),
        pytest.raises(PreemptedError, match="stopped during it"),
        progress.stage("it", stoppable=True),
    ):
        judge(model, full=False)


def test_the_users_are_counted_once_however_much_is_done_for_them(split, scores, monkeypatch):
    data, known, held_out = split
    told = []

    class Notes(Silent):
        def advance(self, done, total, unit):
            told.append((done, total, unit))

    monkeypatch.setattr(evaluate, "SCORES_AT_ONCE", 30 * 80)
    monkeypatch.setattr(evaluate, "LEAST_USERS", 1)
    judge = Evaluator(data, known=known, held_out=held_out)
    with progress.followed_by(Notes()), progress.stage("it"):
        judge(Scores(scores), full=False)
    users = len(judge.held_out.users)
    assert told == [
        *((0, 80, "items"), (80, 80, "items")),
        *((0, users, "users"), (30, users, "users"), (users, users, "users")),
    ]


def test_the_margin_of_a_sample_is_told_beside_each_mean(split, scores):
    data, known, held_out = split
    some, population = Sample(9, seed=1).of(data, held_out)
    judge = Evaluator(data, known=known, held_out=some, population=population)
    found = judge(Scores(scores), full=False)["retrieval"].metrics
    recall = judge(Scores(scores), full=True)["retrieval"].per_user.totals["recall_at_10"]

    left_out = 1 - 9 / 40
    margin = 1.96 * recall.std(ddof=1) / 3 * math.sqrt(left_out)
    assert len(recall) == 9
    assert margin > 0
    assert found["recall_at_10_margin"] == pytest.approx(margin)
    assert "coverage_at_10_margin" not in found
