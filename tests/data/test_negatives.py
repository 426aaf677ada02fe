"""The log Q of a pool is the log of how often an item is in it."""

import math

import numpy as np
import pytest
from small_batch import batches_of
from small_data import all_rows, planted, with_negatives, written_out
from small_negatives import in_batch

from mtrec.data.negatives import Catalogue
from mtrec.data.units import Brings
from mtrec.errors import UserError


def adapted(negatives, rows, *, num_items, target_share=1.0):
    """Negatives for training rows of these items."""
    units, shares = np.arange(len(rows)), np.full(len(rows), target_share)
    brings = Brings(units, np.array(rows, np.int64), shares)
    negatives.adapt(lambda: [brings], num_items=num_items)
    return negatives


def pool_of(negatives, *targets, share=0.5):
    """The pool of a batch and those before it, each of the same share of all units."""
    rng = np.random.default_rng(0)
    return negatives.pool([np.array(t) for t in targets], [share] * len(targets), rng)


def test_the_catalogue_is_every_item_for_certain():
    pool = pool_of(adapted(Catalogue(most_items=1000), [], num_items=4), [2, 2])

    assert pool.items.tolist() == [1, 2, 3, 4]
    assert not pool.log_q.any()
    assert not pool.frozen.any()


def test_a_catalogue_that_is_too_large_for_every_step_is_refused_with_what_to_choose():
    with pytest.raises(UserError, match=r"`most_items`=3 at most, .* it has 4\. .* `softmax`"):
        adapted(Catalogue(most_items=3), [], num_items=4)


def test_in_batch_holds_each_target_once_in_order():
    pool = pool_of(adapted(in_batch(), [1, 2], num_items=3), [3, 1, 3])

    assert pool.items.tolist() == [1, 3]


def test_log_q_is_hand_worked():
    # Item 1 has three rows, item 2 one; half the units are in a batch, 0.8 of rows are targets.
    made = adapted(in_batch(), [1, 2, 1, 1], num_items=3, target_share=0.8)

    found = np.exp(pool_of(made, [1]).log_q)
    np.testing.assert_allclose(found[1:3], [1 - 0.6**3, 0.4], rtol=1e-6)


def test_log_q_of_a_mixture_is_hand_worked():
    # As above, and one of three items drawn beside: item 3 is there in one step of three.
    made = adapted(in_batch(uniform=1), [1, 2, 1, 1], num_items=3, target_share=0.8)

    expected = [1 - 0.6**3 * 2 / 3, 1 - 0.6 * 2 / 3, 1 / 3]
    np.testing.assert_allclose(np.exp(pool_of(made, [1]).log_q)[1:], expected, rtol=1e-6)


def test_the_targets_of_past_batches_are_frozen_unless_they_come_again():
    made = adapted(in_batch(past_batches=2), [1, 2, 3, 4], num_items=4)
    pool = pool_of(made, [2, 4], [1, 2], [3, 1], share=0.25)

    assert pool.items.tolist() == [1, 2, 3, 4]
    assert pool.frozen.tolist() == [True, False, True, False]
    np.testing.assert_allclose(np.exp(pool.log_q[1:]), 0.75, rtol=1e-6)


def test_log_q_of_what_is_mined_counts_the_current_batch_alone():
    # Four units: item 1 is a target of one, and mined for two others; item 3 for one.
    made = adapted(in_batch(mined=2, past_batches=1), [1, 2], num_items=3, target_share=0.8)
    made.adapt_mined(np.array([0, 2, 0, 1]))

    now, both = 0.25, 0.5
    expected = [1 - (1 - both * 0.8) * (1 - now) ** 2, both * 0.8, now]
    found = np.exp(pool_of(made, [1], [2], share=now).log_q)[1:]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_log_q_has_no_floor_on_a_large_catalogue():
    pool = pool_of(adapted(in_batch(), [1], num_items=1), [1], share=1e-9)

    np.testing.assert_allclose(pool.log_q[1], np.log(1e-9), rtol=1e-6)


def test_a_batch_of_everything_has_every_item_for_certain():
    pool = pool_of(adapted(in_batch(), [1, 2], num_items=2), [1, 2], share=1.0)

    np.testing.assert_allclose(pool.log_q[1:], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"uniform": -1}, "`uniform` must be at least 0; got -1"),
        ({"past_batches": -2}, "`past_batches` must be at least 0; got -2"),
        ({"log_q_rate": 0.0}, "`log_q_rate` must be above 0 and at most 1, or null; got 0.0"),
        ({"log_q_rate": 1.5}, "`log_q_rate` must be above 0 and at most 1, or null; got 1.5"),
        (
            {"log_q_rate": 0.1, "local": True},
            "`log_q_rate` must be null with `local`=true, .*; got 0.1. Set one of the two",
        ),
        ({"uniform": 5}, "`uniform` must be at most the number of items .3.; got 5"),
        ({"mined": -1}, "`mined` must be at least 0; got -1"),
        ({"mined": 4}, "`mined` must be at most the number of items .3.; got 4"),
    ],
)
def test_a_number_that_makes_no_pool_is_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        adapted(in_batch(**changed), [1, 2], num_items=3)


def users_with_ties(*, most_repeats=1):
    """120 users, 200 items of very different popularity, and times that repeat."""
    sizes = {"num_users": 120, "num_items": 200, "num_interactions": 600 * (1 + most_repeats)}
    data = planted(**sizes, most_repeats=most_repeats)
    columns = data.interactions
    times = np.random.default_rng(0).integers(1, 5, len(columns["item"]))
    names = ("user", "item", "rating")
    return written_out(list(zip(*(columns[n] for n in names), times, strict=True)), num_items=200)


def written_lists(source, data, *, mined):
    """For each user some of the items that may be mined, more often the first ones, and 0."""
    rng = np.random.default_rng(1)
    users = np.unique(data.interactions["user"])
    lists = np.zeros((data.num_users + 1, mined), np.int32)
    for user, taken in zip(users, source.not_to_mine(users), strict=True):
        free = np.setdiff1d(np.arange(1, data.num_items + 1), taken)
        often = 1 / np.arange(1, len(free) + 1)
        lists[user] = rng.choice(free, mined, replace=False, p=often / often.sum())
    lists[users[::4], -1] = 0
    return lists


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"most_repeats": 3},
        {"most_repeats": 3, "given": True},
        {"uniform": 30},
        {"past_batches": 1},
        {"given": True},
        {"mined": 2},
        {"mined": 2, "past_batches": 1},
        {"mined": 2, "given": True},
    ],
)
@pytest.mark.parametrize(
    ("batch_of", "chronological", "batch"),
    [("users", False, 20), ("users", True, 20), ("rows", False, 100), ("rows", True, 100)],
)
def test_log_q_equals_the_frequency_over_many_batches(batch_of, chronological, batch, changed):
    changed = dict(changed)
    repeats = changed.pop("most_repeats", 1)
    data = with_negatives(users_with_ties(most_repeats=repeats), share=0.5 / repeats)
    source = batches_of(
        data,
        all_rows(data),
        batch_of=batch_of,
        global_batch=batch,
        history_share=0.6,
        chronological=chronological,
        negatives=in_batch(**changed),
        num_replicas=1,
        seed=0,
    )
    if "mined" in changed:
        source.mine(written_lists(source, data, mined=changed["mined"]))
    times, draws = np.zeros(201), 1500
    log_q = np.full(201, np.nan)
    for draw in range(draws):
        (made,) = source.step(draw + 1, 1)
        items = made.pool.items[made.pool.items > 0]
        times[items] += 1
        log_q[items] = made.pool.log_q[: len(items)]
    expected, frequency = np.exp(log_q[times > 0]), times[times > 0] / draws
    assert len(expected) > 150
    assert expected.min() < 0.2 < 0.75 < expected.max()
    # Independent draws of 1,500 batches, plus what drawing without replacement makes of it.
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequency - expected) < 4 * deviation + 0.03).all()
    assert np.mean(frequency - expected) == pytest.approx(0, abs=0.008)


def test_the_short_batch_that_ends_an_epoch_has_a_log_q_of_its_own():
    data = users_with_ties()
    source = batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=100,
        history_share=0.5,
        chronological=False,
        negatives=in_batch(),
        num_replicas=1,
        seed=0,
    )
    popular = np.bincount(data.interactions["item"]).argmax()
    count = np.bincount(data.interactions["item"])[popular]
    users = len(np.unique(data.interactions["user"]))
    assert 100 < users < 120
    for step, share in ((0, 100 / users), (1, (users - 100) / users)):
        (made,) = source.step(1, step)
        position = made.pool.items.tolist().index(popular)
        expected = 1 - (1 - 0.5 * share) ** count
        np.testing.assert_allclose(np.exp(made.pool.log_q[position]), expected, rtol=1e-5)


@pytest.mark.parametrize(("batch", "bound"), [(2, 0.171), (32, 0.0081), (64, 0.0081)])
def test_log_q_is_as_near_as_stated_to_batches_drawn_without_replacement(batch, bound):
    # 100 units, item n being in n of them; an epoch's batches are parts of a permutation.
    count = np.arange(1, 101)
    made = in_batch()
    adapted(made, np.repeat(count, count), num_items=100)
    pool = made.pool([np.array([1])], [batch / 100], np.random.default_rng(0))
    truth = [1 - math.comb(100 - n, batch) / math.comb(100, batch) for n in count]

    too_low = 1 - np.exp(pool.log_q[1:]) / truth
    assert too_low.min() > -1e-5
    assert bound / 10 < too_low.max() < bound
