"""Each kind of split against rows picked by hand or by plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from mtrec.data import room
from mtrec.data.copies import first_copies
from mtrec.data.dataset import Dataset
from mtrec.data.split import keep_ratings, split
from mtrec.errors import UserError

TAKES = {
    "random": {"seed": 42, "train_share": 0.8, "validation_share": 0.1},
    "temporal": {"train_share": 0.8, "validation_share": 0.1},
    "leave_one_out": {},
    "fold": {"seed": 42, "fold": 1, "validation_share": 0.1},
}


def how(kind="random", **changed):
    return {"kind": kind, **TAKES[kind], **changed}


def dataset(users, times):
    users = np.array(users, np.int32)
    interactions = {
        "user": users,
        "item": np.arange(1, len(users) + 1, dtype=np.int32),
        "rating": np.ones(len(users), np.float32),
        "timestamp": np.array(times, np.int64),
    }
    return Dataset(
        name="made_up",
        users={"user_id": np.arange(10).astype(str)},
        items={"item_id": np.array(["", *map(str, range(1, len(users) + 1))])},
        interactions=interactions,
        user_key="user_id",
        item_key="item_id",
        title="item_id",
        rating_scale=(1.0, 5.0),
        source="made up",
        digest="",
    )


def test_random_takes_train_then_test_from_one_seeded_permutation():
    order = np.random.RandomState(42).permutation(100)

    parts = split(dataset([1] * 100, range(100)), **how())

    np.testing.assert_array_equal(parts.fit, order[:72])
    np.testing.assert_array_equal(parts.validation, order[72:80])
    np.testing.assert_array_equal(parts.test, order[80:])
    np.testing.assert_array_equal(parts.train, order[:80])


def test_random_with_another_seed_takes_other_rows():
    data = dataset([1] * 100, range(100))

    parts = split(data, **how(seed=43))

    assert set(parts.test) != set(split(data, **how()).test)


def test_temporal_tests_the_latest_rows_and_keeps_the_order_of_equal_times():
    times = [50, 10, 40, 40, 20, 60, 30, 40, 15, 5]

    parts = split(
        dataset([1] * 10, times),
        **how("temporal", train_share=0.7, validation_share=0.3),
    )

    # By time: rows 9, 1, 8, 4, 6, then 2, 3 and 7 (all at 40), then 0 and 5.
    np.testing.assert_array_equal(parts.fit, [9, 1, 8, 4, 6])
    np.testing.assert_array_equal(parts.validation, [2, 3])
    np.testing.assert_array_equal(parts.test, [7, 0, 5])


def test_leave_one_out_tests_each_users_last_row_and_spares_users_with_two():
    users = [3, 1, 3, 1, 1, 2, 2, 3, 3]
    times = [9, 5, 7, 5, 1, 8, 9, 9, 8]

    parts = split(
        dataset(users, times),
        **how("leave_one_out"),
    )

    # User 1 by time: rows 4, 1, 3. User 3: rows 2, 8, 0, 7. User 2 has two rows only.
    np.testing.assert_array_equal(parts.test, [3, 7])
    np.testing.assert_array_equal(parts.validation, [1, 0])
    np.testing.assert_array_equal(parts.fit, [2, 4, 5, 6, 8])


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_fold_tests_a_consecutive_fifth_and_validates_on_a_permutation_of_the_rest(fold):
    first = 20 * (fold - 1)
    rest = np.delete(np.arange(100), np.arange(first, first + 20))
    shuffled = np.random.RandomState(42).permutation(rest)

    parts = split(dataset([1] * 100, [0] * 100), **how("fold", fold=fold))

    np.testing.assert_array_equal(parts.test, np.arange(first, first + 20))
    np.testing.assert_array_equal(parts.fit, shuffled[:72])
    np.testing.assert_array_equal(parts.validation, shuffled[72:])


@pytest.mark.parametrize("kind", ["random", "temporal", "leave_one_out", "fold"])
def test_every_row_is_in_exactly_one_part(kind):
    rng = np.random.default_rng(0)
    data = dataset(rng.integers(1, 10, 203), rng.integers(0, 50, 203))

    parts = split(data, **how(kind))

    rows = np.concatenate([parts.fit, parts.validation, parts.test])
    assert {part.dtype for part in (parts.fit, parts.validation, parts.test)} == {np.dtype("i8")}
    np.testing.assert_array_equal(np.sort(rows), np.arange(203))


def test_nothing_may_be_held_out_for_validation():
    data = dataset([1] * 100, range(100))
    with_some, without = (split(data, **how(validation_share=v)) for v in (0.1, 0.0))

    assert len(without.validation) == 0
    assert without.fit.tolist() == with_some.train.tolist()
    assert without.test.tolist() == with_some.test.tolist()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kind": "fold", "fold": 0}, r"`fold` must be from 1 to 5; got 0"),
        ({"kind": "fold", "fold": 6}, r"`fold` must be from 1 to 5; got 6"),
        ({"train_share": 1.0}, r"`train_share` must lie between 0 and 1; got 1\.0"),
        ({"train_share": 0.0}, r"`train_share`"),
        ({"validation_share": -0.1}, r"`validation_share` must lie between"),
        ({"seed": -1}, r"`seed` must be from 0"),
        ({"train_share": 0.999}, r"its test part of 100 rows is empty"),
        ({"validation_share": 0.001}, r"its validation part of 100 rows is empty"),
        ({"train_share": 0.01, "validation_share": 0.9}, r"its fit part of 100 rows is empty"),
    ],
)
def test_what_cannot_be_split_is_refused_by_the_name_of_its_option(changed, named):
    with pytest.raises(UserError, match=named):
        split(dataset([1] * 100, range(100)), **how(**changed))


def test_a_kind_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"`kind` must be one of .* got 'last'"):
        split(dataset([1] * 10, range(10)), kind="last")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("random", {**TAKES["random"], "fold": 9}, r"`kind`=random must be given seed, .*fold"),
        ("temporal", {"train_share": 0.8}, r"must be given train_share, validation_share; got tra"),
        ("leave_one_out", {"train_share": 0.8}, r"must be given no options; got train_share"),
    ],
)
def test_a_kind_is_given_what_it_takes_and_nothing_else(kind, options, named):
    with pytest.raises(UserError, match=named):
        split(dataset([1] * 100, range(100)), kind=kind, **options)


def test_a_fold_of_rows_that_are_sorted_by_user_is_refused():
    with pytest.raises(UserError, match=r"sorted by user.* Set `kind`=random or temporal"):
        split(dataset([1] * 50 + [2] * 50, range(100)), **how("fold"))


def doubled(data, *, order):
    """The data with every row twice, the second time in another order."""
    twice = {n: np.concatenate([c, c[order]]) for n, c in data.interactions.items()}
    return replace(data, interactions=twice)


@pytest.mark.parametrize("kind", TAKES)
def test_copies_of_a_row_are_in_its_part_and_the_parts_are_those_without_copies(kind):
    rng = np.random.default_rng(0)
    data = dataset(rng.integers(1, 10, 203), rng.integers(0, 50, 203))
    data.interactions["rating"][:20] = np.nan
    order = rng.permutation(203)
    number = np.concatenate([np.arange(203), order])  # which of the 203 rows each row is

    once, twice = split(data, **how(kind)), split(doubled(data, order=order), **how(kind))

    for name in ("fit", "validation", "test"):
        part = np.sort(number[getattr(twice, name)])
        np.testing.assert_array_equal(part, np.repeat(np.sort(getattr(once, name)), 2))


def test_the_same_pair_at_another_time_or_rated_otherwise_is_a_row_of_its_own():
    columns = {
        "user": np.int32([1, 1, 1, 1, 2, 1, 1]),
        "item": np.int32([5, 5, 5, 5, 5, 5, 5]),
        "rating": np.float32([3, 3, 4, np.nan, 3, np.nan, 3]),
        "timestamp": np.int64([7, 8, 7, 7, 7, 7, 7]),
    }
    # Row 5 is like row 3 (neither is rated), and row 6 is like row 0.
    assert first_copies(columns).tolist() == [0, 1, 2, 3, 4, 3, 0]


@pytest.mark.parametrize("ordered", [True, False])
def test_copies_are_found_some_users_at_a_time_where_rows_are_sorted(ordered, monkeypatch):
    monkeypatch.setattr(room, "AT_ONCE", 16)
    rng = np.random.default_rng(0)
    # Users of no row, of some, and of more than are looked at together.
    user = rng.choice(9, 300, p=np.array([0, 4, 1, 1, 0, 12, 1, 1, 0]) / 20)
    columns = {"user": np.sort(user) if ordered else user, "item": rng.integers(1, 6, 300)}
    expected, seen = [], {}
    for row, pair in enumerate(zip(*columns.values(), strict=True)):
        expected.append(seen.setdefault(pair, row))

    assert first_copies(columns).tolist() == expected


def test_a_temporal_split_without_times_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"et `kind`=random"):
        split(dataset([1] * 100, [0] * 100), **how("temporal"))


def test_leave_one_out_without_a_user_of_three_rows_is_refused():
    with pytest.raises(UserError, match="No user has three rows"):
        split(dataset([1, 1, 2, 2], [1, 2, 3, 4]), **how("leave_one_out"))


def kept(share, *, seed=42, fit=range(60)):
    data = dataset([1] * 100, range(100))
    data.interactions["rating"][:10] = np.nan
    found = keep_ratings(data, np.array(fit), rating_share=share, seed=seed)
    return data, found, set(np.flatnonzero(np.isfinite(found.interactions["rating"])))


def test_a_share_of_the_ratings_to_fit_is_kept_and_every_other_row_keeps_its_own():
    data, found, rated = kept(0.1)

    assert len(rated & set(range(60))) == 5  # a tenth of the 50 that are rated
    assert set(range(60, 100)) <= rated
    assert np.isfinite(data.interactions["rating"]).sum() == 90  # the given data is as it was
    assert found.digest == data.digest
    np.testing.assert_array_equal(found.interactions["item"], data.interactions["item"])
    np.testing.assert_array_equal(
        found.interactions["rating"][sorted(rated)], data.interactions["rating"][sorted(rated)]
    )


def test_the_seed_chooses_the_ratings_and_a_smaller_share_keeps_some_of_a_larger_ones():
    assert kept(0.2)[2] == kept(0.2)[2] != kept(0.2, seed=43)[2]
    assert kept(0.1)[2] < kept(0.2)[2] < kept(0.9)[2]
    data, found, _ = kept(1.0)
    assert found is data


@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (0.0, r"`rating_share` must be above 0 and at most 1; got 0\.0"),
        (1.5, r"`rating_share` must be above 0 and at most 1; got 1\.5"),
        (0.001, r"must leave a rating among the 50 of the rows to fit\. Set .*=0\.02 or more"),
    ],
)
def test_a_share_that_leaves_no_rating_is_refused(share, sentence):
    with pytest.raises(UserError, match=sentence):
        kept(share)
