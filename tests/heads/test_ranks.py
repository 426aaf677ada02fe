"""Ranks against plain counting, and the top k against sorting."""

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from mtrec.heads import exact_search, metrics
from mtrec.heads.exact_search import top_k
from mtrec.heads.ranks import ByOwn, Known
from mtrec.heads.standing import places, places_of_each, standing, standing_among


def rng():
    return np.random.default_rng(0)


def ranks(scores, items, seeds):
    """Ranks of each row's items, row after row."""
    place = np.repeat(np.arange(len(scores)), [len(columns) for columns in items])
    columns = np.concatenate(items)
    targets = scores[place, columns]
    higher, equal = standing(scores, place, targets)
    return higher + places_of_each(place, columns, targets, equal, np.array(seeds))


def test_the_rank_is_the_number_of_candidates_that_score_higher():
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])

    found = ranks(scores, [np.array([2, 1]), np.array([3])], range(2))
    assert found.tolist() == [2, 0, 3]


def test_ranks_equal_plain_counting_on_random_scores():
    scores = rng().normal(size=(20, 50)).astype(np.float32)
    items = [rng().permutation(50)[: 1 + row % 4] for row in range(20)]

    expected = [
        sum(other > scores[row, item] for other in scores[row])
        for row in range(20)
        for item in items[row]
    ]
    assert ranks(scores, items, range(20)).tolist() == expected


def test_a_tied_item_gets_each_place_among_its_ties_equally_often():
    # Two items above, three tied with the target at places 2, 3, 4 and 5, one below.
    scores = np.array([[9.0, 8.0, 5.0, 5.0, 5.0, 5.0, 1.0]] * 4000)
    found = ranks(scores, [np.array([4])] * 4000, range(4000))

    counts = np.bincount(found, minlength=7)
    assert counts[[0, 1, 6]].tolist() == [0, 0, 0]
    # 1,000 times each, with a standard deviation of 27.
    assert np.abs(counts[2:6] - 1000).max() < 4 * 27


def test_a_row_draws_the_same_places_whatever_stands_beside_it():
    scores = rng().integers(0, 3, size=(30, 40)).astype(np.float32)
    items = [rng().permutation(40)[:5]] * 30
    whole = ranks(scores, items, range(30)).reshape(30, 5)
    alone = [ranks(scores[[row]], items[:1], [row]) for row in range(30)]

    assert whole.tolist() == np.stack(alone).tolist()
    # Equal rows with other seeds draw otherwise.
    drawn = ranks(np.zeros((50, 40)), [np.array([7])] * 50, range(50))
    assert len(np.unique(drawn)) > 20


def test_two_tied_items_never_share_a_place():
    scores = np.zeros((200, 3))
    found = ranks(scores, [np.array([0, 2])] * 200, range(200)).reshape(200, 2)

    assert (found[:, 0] != found[:, 1]).all()
    assert set(found.ravel()) == {0, 1, 2}


def test_all_items_of_a_constant_model_fill_all_places():
    (found,) = ranks(np.zeros((1, 6)), [np.arange(6)], [0]).reshape(1, 6)

    assert sorted(found) == [0, 1, 2, 3, 4, 5]


def test_a_column_asked_for_twice_has_one_rank():
    first, second = ranks(np.zeros((1, 100)), [np.array([7, 7])], [0])

    assert first == second


def test_a_candidate_at_minus_infinity_is_behind_all_others():
    scores = np.array([[-np.inf, 1.0, -np.inf, -3.0]])

    assert ranks(scores, [np.array([3, 1])], [0]).tolist() == [1, 0]


def test_a_constant_model_finds_as_many_as_chance():
    """10 of 1,682 items: the share within three standard deviations, and recall like it."""
    users, held_out, items = 1000, 20, 1682
    columns = [rng().permutation(items)[:held_out]] * users
    found = ranks(np.zeros((users, items), np.float32), columns, range(users))

    share = metrics.factorized_hits(found)[metrics.FACTORIZED_AT.index(10)] / len(found)
    chance = 10 / items
    deviation = math.sqrt(chance * (1 - chance) / (users * held_out))
    assert abs(share - chance) < 3 * deviation
    owner = np.repeat(np.arange(users), held_out)
    recall = metrics.ranking(found, owner, users)["recall_at_100"].mean()
    assert recall == pytest.approx(100 / items, rel=0.05)


def plain(values, targets):
    """How many of the values are above each target, and how many equal it, as `standing` says."""
    above = [sum(not value <= target for value in values) for target in targets]
    return above, [sum(value == target for value in values) for target in targets]


@pytest.mark.parametrize("size", [40, 5000])
@pytest.mark.parametrize("asked", [[0], [3], [30], [30, 8, 8, 3, 1, 0], [1, 30, 0, 3, 2]])
def test_counts_of_what_is_above_and_level_are_plain_ones(size, asked):
    scores = rng().integers(0, 30, (len(asked), size)).astype(np.float32)
    place = np.repeat(np.arange(len(asked)), asked)
    targets = rng().integers(-1, 31, len(place)).astype(np.float32)
    higher, equal = standing(scores, place, targets)
    expected = [plain(scores[n], [target]) for n, target in zip(place, targets, strict=True)]

    assert higher.tolist() == [above[0] for above, _ in expected]
    assert equal.tolist() == [level[0] for _, level in expected]


def test_all_of_a_row_are_counted_where_all_are_level():
    higher, equal = standing(np.ones((2, 20_000), np.float32), np.array([0]), np.ones(1))

    assert (higher.tolist(), equal.tolist()) == ([0], [20_000])


@pytest.mark.parametrize("size", [40, 5000])
@pytest.mark.parametrize("asked", [1, 30])
def test_a_score_that_is_no_number_is_behind_all_and_ahead_of_any(size, asked):
    values = np.arange(size, dtype=np.float32)
    values[[3, 4]] = np.nan
    targets = np.repeat(values[[3, size - 1]], asked)
    higher, equal = standing(values[np.newaxis], np.zeros(2 * asked, int), targets)

    assert higher.tolist() == [size] * asked + [2] * asked
    assert equal.tolist() == [0] * asked + [1] * asked


def test_what_stands_among_what_users_have_is_counted_for_each_of_them():
    owner = np.sort(rng().integers(2, 9, 300))
    owner = owner[owner != 5]  # and user 5 has nothing
    values = rng().integers(0, 12, len(owner)).astype(np.float32)
    values[rng().integers(0, len(owner), 30)] = np.nan
    place = np.sort(rng().integers(2, 9, 80))
    targets = rng().integers(-1, 13, 80).astype(np.float32)
    targets[::7] = np.nan
    higher, equal = standing_among(values, owner, targets, place)
    expected = [plain(values[owner == n], [t]) for n, t in zip(place, targets, strict=True)]

    assert higher.tolist() == [above[0] for above, _ in expected]
    assert equal.tolist() == [level[0] for _, level in expected]


def test_a_place_among_many_ties_is_drawn_evenly():
    ties = np.full(3, 100_000)
    drawn = np.concatenate([places(np.arange(3), np.zeros(3), ties, s) for s in range(500)])

    # 1,500 even draws: the mean's standard deviation is 100,000 / sqrt(12 * 1,500).
    assert abs(drawn.mean() - 50_000) < 4 * 745
    assert (np.diff(drawn.reshape(500, 3)) != 0).all()


@pytest.mark.parametrize(("width", "k"), [(3, 3), (50, 7), (4_001, 5), (9_999, 40)])
@pytest.mark.parametrize("levels", [2, 10**6])
def test_top_k_equals_a_stable_sort(width, k, levels):
    scores = rng().integers(0, levels, size=(6, width)).astype(np.float32)
    scores[1] = -np.inf
    scores[2, 2:] = -np.inf
    values, columns = top_k(scores, k)

    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_the_top_of_many_rows_is_found_some_at_a_time(monkeypatch):
    monkeypatch.setattr(exact_search, "SCORES_IN_CACHE", 250)
    scores = rng().integers(0, 50, size=(7, 100)).astype(np.float32)
    values, columns = top_k(scores, 4)

    expected = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_a_score_that_is_no_number_comes_last_in_the_top():
    scores = np.array([[1.0, np.nan, 3.0]] * 2, np.float32)

    assert top_k(scores, 3)[1].tolist() == [[2, 0, 1]] * 2


def owned(items, owners, num_items):
    """Held-out users who have these item rows, oldest first."""
    items, owners = np.array(items), np.array(owners)
    dataset = SimpleNamespace(num_items=num_items)
    held_out = SimpleNamespace(dataset=dataset, own=lambda users: (items, owners))
    scored = ByOwn(held_out)
    with ThreadPoolExecutor(1) as threads:
        scored.score(np.arange(owners.max(initial=0) + 1), threads)
    return scored


def nothing_known(users):
    """So many users who may be recommended what they have again."""
    dataset = SimpleNamespace(num_items=1, repeats=True)
    return Known(SimpleNamespace(dataset=dataset), np.arange(users))


def test_own_items_stand_as_counting_all_items_has_them():
    owners = np.sort(rng().integers(0, 9, 200))
    items = 1 + rng().integers(0, 12, 200)
    items[owners == 3], owners[owners == 5] = 7, 6  # one item alone, and none at all
    scored, every = owned(items, owners, 30), np.arange(30)
    for place in range(9):
        own = (items[owners == place] - 1).tolist()
        last = {item: number for number, item in enumerate(own, start=1)}
        whole = [own.count(item) + last.get(item, 0) / (len(own) + 1) for item in every]
        user = np.full(30, place)
        higher, equal = scored.standing(slice(place, place + 1), user, every)

        assert scored.of(user, every).tolist() == whole
        assert higher.tolist() == [sum(other > mine for other in whole) for mine in whole]
        assert equal.tolist() == [whole.count(mine) for mine in whole]
        best = sorted(set(own), key=lambda item: -whole[item])
        found = scored.top(slice(place, 9), nothing_known(9), 5).tolist()[0]
        assert found == [*best, -1, -1, -1, -1, -1][:5]


def test_own_items_of_a_huge_catalogue_are_ranked_without_its_scores():
    """A row of scores would be 8 TB."""
    scored = owned([5, 7, 5], [0, 0, 0], 10**12)
    higher, equal = scored.standing(slice(0, 1), np.zeros(3, int), np.array([4, 6, 10**11]))

    assert higher.tolist() == [0, 1, 2]
    assert equal.tolist() == [1, 1, 10**12 - 2]


def test_own_items_are_recommended_to_users_who_have_some():
    scored = owned([2], [0], 3)
    assert scored.top(slice(0, 0), nothing_known(1), 2).shape == (0, 2)
    assert scored.top(slice(0, 1), nothing_known(1), 2).tolist() == [[1, -1]]


def test_what_users_know_is_told_of_each_once():
    items, owners = np.array([3, 1, 3, 2, 5]), np.array([0, 0, 0, 2, 2])
    dataset = SimpleNamespace(num_items=5, repeats=False)
    held_out = SimpleNamespace(dataset=dataset, own=lambda users: (items, owners))
    known = Known(held_out, np.arange(3))

    assert [each.tolist() for each in known.of(slice(0, 1))] == [[0, 0], [0, 2]]
    assert [each.tolist() for each in known.of(slice(1, 3))] == [[2, 2], [1, 4]]
