"""Synthetic data has the shape that was asked for, and its factors can be learnt from it."""

import numpy as np
import pytest

from mtrec.data import synthetic
from mtrec.errors import UserError

SIZES = {
    "num_users": 300,
    "num_items": 200,
    "num_interactions": 15_000,
    "num_factors": 3,
    "popularity_exponent": 0.8,
    "most_repeats": 1,
    "noise": 0.3,
    "rating_share": 1.0,
    "rating_agreement": 1.0,
    "seed": 5,
}


def load(**changed):
    return synthetic.load(**{**SIZES, **changed})


@pytest.fixture(scope="module")
def data():
    return load()


def test_sizes_are_those_asked_for_and_row_0_is_the_unknown(data):
    assert (data.num_users, data.num_items, len(data.interactions["user"])) == (300, 200, 15_000)
    assert data.users["user_id"][[0, 1, 300]].tolist() == ["", "1", "300"]
    assert data.items["item_title"][[0, 1, 200]].tolist() == ["", "Item 1", "Item 200"]
    assert data.items["item_genres"][0] == []
    assert set(data.users["user_gender"][1:]) == {"F", "M"}


def test_pairs_are_distinct_and_within_range(data):
    pairs = np.stack([data.interactions["user"], data.interactions["item"]])

    assert pairs.min() == 1
    assert (pairs.max(axis=1) <= [300, 200]).all()
    assert np.unique(pairs, axis=1).shape == (2, 15_000)


def test_pairs_are_repeated_as_often_as_is_drawn_evenly():
    columns = load(most_repeats=8).interactions
    pairs = columns["user"] * 201 + columns["item"]
    times = np.unique(pairs, return_counts=True)[1]

    assert len(pairs) == 15_000
    # About 15,000 / 4.5 pairs, an eighth of them of each number: a standard deviation of 19.
    assert np.bincount(times)[1:] == pytest.approx(15_000 / 4.5 / 8, abs=4 * 19 + 1)
    assert len(np.bincount(times)) == 9
    assert np.mean(pairs[1:] == pairs[:-1]) < 0.01  # in no order


def test_half_of_a_small_table_can_be_filled():
    data = load(num_users=6, num_items=5, num_interactions=15)

    pairs = set(zip(data.interactions["user"], data.interactions["item"], strict=True))
    assert len(pairs) == 15


def test_each_users_times_increase_strictly(data):
    for user in range(1, 301):
        times = data.interactions["timestamp"][data.interactions["user"] == user]
        assert (np.diff(times) > 0).all()


def test_the_seed_decides_everything(data):
    assert load().digest == data.digest
    assert load(seed=6).digest != data.digest


def test_ratings_are_whole_stars_that_use_the_scale(data):
    assert np.unique(data.interactions["rating"]).tolist() == [1, 2, 3, 4, 5]


def test_the_share_of_rows_with_a_rating_is_the_one_asked_for():
    rating = load(rating_share=0.4).interactions["rating"]

    assert np.isfinite(rating).mean() == pytest.approx(0.4, abs=0.02)


def test_popularity_follows_the_exponent():
    def share_of_top_tenth(exponent):
        data = load(popularity_exponent=exponent, num_interactions=3_000)
        return np.sort(np.bincount(data.interactions["item"]))[-20:].sum() / 3_000

    assert share_of_top_tenth(0.0) < 0.2 < share_of_top_tenth(0.8) < share_of_top_tenth(1.5)


def residual_of_factors(data, rank):
    """RMSE on the last fifth of the rows of least squares fits that alternate over the rest."""
    user, item = data.interactions["user"], data.interactions["item"]
    rating, cut = data.interactions["rating"], len(user) * 4 // 5
    rng = np.random.default_rng(0)
    mean = rating[:cut].mean()
    sides = [rng.normal(size=(301, rank + 2)), rng.normal(size=(201, rank + 2))]
    sides[0][:, 0] = sides[1][:, 1] = 1.0  # each side's bias meets a constant of the other
    for step in range(12):
        side, own, other = ((user, 0, sides[1][item]), (item, 1, sides[0][user]))[step % 2]
        for row in np.unique(side[:cut]):
            mine = np.flatnonzero(side[:cut] == row)
            x, y = other[mine].copy(), rating[mine] - mean
            fixed = sides[own][row, own]
            y, x[:, own] = y - x[:, own] * fixed, 0.0
            solved = np.linalg.solve(x.T @ x + 1.0 * np.eye(rank + 2), x.T @ y)
            solved[own] = fixed
            sides[own][row] = solved
    predicted = mean + (sides[0][user] * sides[1][item]).sum(axis=1)
    return np.sqrt(np.mean((predicted - rating)[cut:] ** 2))


def test_ratings_follow_the_factors_and_the_noise(data):
    biases, factors = residual_of_factors(data, 0), residual_of_factors(data, 3)

    assert factors < 0.85 * biases
    # Rounding alone leaves sqrt(1/12) = 0.29; noise of 0.3 makes it 0.42 before any estimation.
    assert 0.3 < factors < 0.65
    assert residual_of_factors(load(noise=1.0), 3) > factors + 0.3


def test_choices_follow_the_factors_beyond_popularity(data):
    user, item = data.interactions["user"], data.interactions["item"]
    cut = 12_000
    seen = np.zeros((301, 201))
    seen[user[:cut], item[:cut]] = 1.0
    popularity = np.broadcast_to(seen.sum(axis=0), seen.shape)
    left, values, right = np.linalg.svd(seen, full_matrices=False)
    factors = (left[:, :4] * values[:4]) @ right[:4]

    def held_out_in_top_20(scores):
        unseen = np.where(seen > 0, -np.inf, scores)
        rank = (unseen[user[cut:]] > unseen[user[cut:], item[cut:], None]).sum(axis=1)
        return (rank < 20).mean()

    assert held_out_in_top_20(factors) > 1.15 * held_out_in_top_20(popularity)


def test_women_choose_the_first_genre_more_often(data):
    of_genre = np.array(["genre 1" in row for row in data.items["item_genres"].tolist()])
    of_genre = of_genre[data.interactions["item"]]
    female = (np.asarray(data.users["user_gender"]) == "F")[data.interactions["user"]]

    assert of_genre[female].mean() > 1.2 * of_genre[~female].mean()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"num_users": 0}, r"`num_users` must be at least 1; got 0"),
        ({"num_factors": 0}, r"`num_factors` must be at least 1"),
        ({"num_interactions": 30_001}, r"at most half of users times items \(30000\); got 30001"),
        ({"most_repeats": 0}, r"`most_repeats` must be at least 1; got 0"),
        ({"noise": -0.1}, r"`noise` must not be negative; got -0\.1"),
        ({"rating_agreement": -2.0}, r"`rating_agreement` must lie from -1 to 1; got -2\.0"),
        ({"rating_share": 1.1}, r"`rating_share` must lie from 0 to 1; got 1\.1"),
    ],
)
def test_a_size_out_of_range_is_refused_by_its_name(changed, named):
    with pytest.raises(UserError, match=named):
        load(**changed)


def correlation_with_choices(data):
    """How ratings go with the affinity that a factorisation of the choices finds."""
    user, item = data.interactions["user"], data.interactions["item"]
    chosen = np.zeros((301, 201))
    chosen[user, item] = 1.0
    expected = np.outer(chosen.sum(axis=1), chosen.sum(axis=0)) / chosen.sum()
    left, values, right = np.linalg.svd((chosen - expected) / np.sqrt(expected + 1.0))
    affinity = (left[:, :3] * values[:3]) @ right[:3]
    return np.corrcoef(affinity[user, item], data.interactions["rating"])[0, 1]


def test_ratings_agree_with_choices_as_far_as_they_were_told_to():
    same, unrelated, opposed = (
        correlation_with_choices(load(rating_agreement=agreement)) for agreement in (1.0, 0.0, -1.0)
    )
    assert same > 0.25
    assert abs(unrelated) < 0.1
    assert opposed < -0.25


def test_ratings_that_disagree_follow_factors_of_their_own():
    data = load(rating_agreement=0.0)
    assert residual_of_factors(data, 3) < 0.85 * residual_of_factors(data, 0)
