"""Intervals and tests over users against closed forms, enumeration and plain loops."""

from itertools import product

import numpy as np
import pytest

from mtrec.reports.paired import difference, holm

HOW = {"confidence": 0.95, "resamples": 4000, "seed": 0}


def compare(metric, ours, theirs, count, **changed):
    ours, theirs = (np.asarray(v, float).reshape(len(count), -1) for v in (ours, theirs))
    return difference(metric, ours, theirs, np.asarray(count), **{**HOW, **changed})


def test_holm_corrects_as_in_a_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; none below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_difference_of_an_rmse_is_of_roots_over_all_rows():
    # Ours: 8 over 4 rows; theirs: 16 over 4 rows.
    found = compare("rating/rmse", [6.0, 2.0], [4.0, 12.0], [3, 1])
    assert found.value == pytest.approx(np.sqrt(2) - 2)
    # A mean of users' RMSEs would be another number.
    users = (np.sqrt(6 / 3) + np.sqrt(2) - np.sqrt(4 / 3) - np.sqrt(12)) / 2
    assert found.value != pytest.approx(users)
    assert compare("rating/mae", [6.0, 2.0], [4.0, 12.0], [3, 1]).value == pytest.approx(-2.0)


def test_the_difference_is_the_mean_over_seeds():
    ours, theirs = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
    found = compare("recall_at_10", ours, theirs, [1, 1])
    assert found.value == pytest.approx((0.5 + 0.5) / 2)
    assert (found.users, found.seeds) == (2, 2)


def test_a_user_without_anything_counted_has_no_part():
    found = compare("rating/rmse", [6.0, 0.0, 2.0], [4.0, 0.0, 12.0], [3, 0, 1])
    assert found == compare("rating/rmse", [6.0, 2.0], [4.0, 12.0], [3, 1])
    assert found.users == 2


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    theirs = rng.random(2000)
    ours = theirs + rng.normal(0.02, 0.3, 2000)
    found = compare("recall_at_10", ours, theirs, np.ones(2000, int))
    gained = ours - theirs
    half = 1.96 * gained.std() / np.sqrt(2000)
    assert found.value == pytest.approx(gained.mean())
    assert found.low == pytest.approx(gained.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(gained.mean() + half, abs=0.1 * half)


def test_the_interval_of_an_rmse_is_that_of_a_loop_that_draws_users_with_their_rows():
    rng = np.random.default_rng(2)
    count = rng.integers(1, 30, 200)
    theirs = np.array([rng.chisquare(n) for n in count])
    ours = theirs * rng.uniform(0.8, 1.1, 200)
    found = compare("rating/rmse", ours, theirs, count)
    loop = []
    for _ in range(4000):
        drawn = rng.choice(200, 200)
        rows = count[drawn].sum()
        loop.append(np.sqrt(ours[drawn].sum() / rows) - np.sqrt(theirs[drawn].sum() / rows))
    width = found.high - found.low
    assert found.low == pytest.approx(np.quantile(loop, 0.025), abs=0.07 * width)
    assert found.high == pytest.approx(np.quantile(loop, 0.975), abs=0.07 * width)
    narrow = compare("rating/rmse", ours, theirs, count, confidence=0.5)
    assert narrow.high - narrow.low < 0.5 * width


def test_the_p_value_is_that_of_all_sign_flips():
    gains = np.array([0.5, -0.1, 0.4, 0.3, -0.2, 0.6, 0.1, 0.25])
    found = compare("recall_at_10", gains, np.zeros(8), np.ones(8, int), resamples=20_000)
    sums = [abs(np.dot(signs, gains)) for signs in product((-1, 1), repeat=8)]
    exact = np.mean(np.array(sums) >= abs(gains.sum()) - 1e-9)
    assert found.p_value == pytest.approx(exact, abs=0.006)


def test_models_that_are_alike_differ_by_nothing():
    same = np.random.default_rng(3).random((50, 2))
    found = compare("recall_at_10", same, same, np.ones(50, int))
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(4)
    held = 0
    for trial in range(200):
        gains = rng.normal(0.1, 1.0, 100)
        found = compare(
            "recall_at_10", gains, np.zeros(100), np.ones(100, int), resamples=500, seed=trial
        )
        held += found.low <= 0.1 <= found.high
    assert 178 <= held <= 198  # 190 within three standard deviations of its binomial


def test_the_seed_decides_the_draws_whatever_their_number_at_once(monkeypatch):
    rng = np.random.default_rng(5)
    ours, theirs = rng.random((40, 3)), rng.random((40, 3))
    first = compare("recall_at_10", ours, theirs, np.ones(40, int))
    assert first == compare("recall_at_10", ours, theirs, np.ones(40, int))
    assert first.low != compare("recall_at_10", ours, theirs, np.ones(40, int), seed=1).low
    monkeypatch.setattr("mtrec.reports.paired._AT_ONCE", 1000)
    in_parts = compare("recall_at_10", ours, theirs, np.ones(40, int))
    assert (in_parts.low, in_parts.high) == (first.low, first.high)
