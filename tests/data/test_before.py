"""What users did with items before, against plain loops over the rows."""

from dataclasses import replace

import numpy as np
import pytest
from small_batch import batches_of
from small_data import all_rows, written_out
from small_negatives import in_batch

from mtrec.data.before import NUMBERS, Before
from mtrec.data.histories import Histories

USERS, ITEMS = 9, 6


def purchases(seed=0, rows=400):
    """Users who buy few items over and over, some twice at a moment, the first half of all rows."""
    rng = np.random.default_rng(seed)
    users = np.where(rng.random(rows) < 0.5, 1, rng.integers(1, USERS + 1, rows))
    items = np.minimum(rng.geometric(0.4, rows), ITEMS)
    times = rng.integers(1, 60, rows) * 3600
    columns = (users, items, rng.integers(1, 6, rows), times)
    data = written_out(list(zip(*columns, strict=True)), num_items=ITEMS + 1)
    return replace(data, repeats=True)


def by_hand(data, rows, user, item, time):
    """The numbers of one pair, row by row."""
    columns = data.interactions
    past = [r for r in rows if columns["timestamp"][r] < time]
    mine = [int(columns["timestamp"][r]) for r in past if columns["user"][r] == user]
    own = sorted(
        int(columns["timestamp"][r])
        for r in past
        if (columns["user"][r], columns["item"][r]) == (user, item)
    )
    gaps = []
    for other in range(1, USERS + 1):
        times = sorted(
            {
                int(columns["timestamp"][r])
                for r in past
                if (columns["user"][r], columns["item"][r]) == (other, item)
            }
        )
        gaps += np.diff(times).tolist()
    return [
        len(own),
        time - own[-1] if own else 0,
        own[-1] - own[0] if own else 0,
        sum(t > own[-1] for t in mine) if own else 0,
        len(mine),
        sum(gaps),
        len(gaps),
    ]


def test_numbers_are_of_what_is_strictly_earlier_than_each_moment():
    data = purchases()
    rows = np.random.default_rng(1).permutation(all_rows(data))[:300]
    found = Before(Histories.of(data, rows), data.num_items)
    rng = np.random.default_rng(2)
    users, items = rng.integers(0, USERS + 1, 200), rng.integers(0, ITEMS + 2, 200)
    times = rng.integers(0, 62, 200) * 3600

    numbers = found.of(users, items, times)
    expected = [by_hand(data, rows, *map(int, p)) for p in zip(users, items, times, strict=True)]
    assert numbers.shape == (200, len(NUMBERS))
    np.testing.assert_array_equal(numbers, np.array(expected, np.float32))
    assert len(set(numbers[:, 0].tolist())) > 5
    over = [by_hand(data, rows, 1, item, 10**6)[5:] for item in range(ITEMS + 2)]
    np.testing.assert_array_equal(found.gaps_of_items(), over)


def test_of_no_interaction_there_is_nothing():
    data = purchases()
    found = Before(Histories.of(data, np.zeros(0, np.int64)), data.num_items)

    assert not found.of(np.array([1, 2]), np.array([1, 1]), np.array([9, 9])).any()
    assert not found.gaps_of_items().any()


@pytest.mark.parametrize("batch_of", ["requests", "users", "rows"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_batch_holds_what_was_before_each_row_and_each_pair_that_may_come_again(
    batch_of, replicas
):
    data = purchases()
    rows = all_rows(data)
    source = batches_of(
        data,
        rows,
        batch_of=batch_of,
        global_batch=8,
        history_share=0.8,
        chronological=True,
        negatives=in_batch(),
        num_replicas=replicas,
        seed=3,
        before=True,
    )
    pairs = taken = 0
    for step in range(source.steps_per_epoch):
        for batch in source.step(1, step):
            real = batch.rows.weight > 0
            moments, targets = {}, set()
            for query, place, time, before in zip(
                *(x[real] for x in (batch.rows.query, batch.rows.item, batch.rows.time)),
                batch.rows.before[real],
                strict=True,
            ):
                user, item = int(batch.query.users[query]), int(batch.items[place])
                assert before.tolist() == by_hand(data, rows, user, item, int(time))
                moments[int(query)] = min(int(time), moments.get(int(query), int(time)))
                targets.add((int(query), item))
            again = batch.again
            there = again.query >= 0
            history = batch.query.history
            shown = zip(history.owners, history.items[history.places], strict=True)
            found = set()
            for query, place, time, before, label in zip(*(x[there] for x in again), strict=True):
                user, item = int(batch.query.users[query]), int(batch.items[place])
                assert time == moments[int(query)]
                assert before.tolist() == by_hand(data, rows, user, item, int(time))
                assert before[0] > 0
                assert label == ((int(query), item) in targets)
                found.add((int(query), item))
                taken += int(label)
            assert found == {(int(q), int(i)) for q, i in shown if q >= 0}
            assert len(found) == there.sum()
            pairs += len(found)
    assert 10 < taken < pairs


def test_where_a_user_first_has_an_item_is_counted_from_their_oldest_entry():
    data = purchases()
    histories = Histories.of(data, all_rows(data))
    users, items = (part.ravel() for part in np.mgrid[1 : USERS + 1, 1 : ITEMS + 2])
    found = histories.first_places(users, items)
    for user, item, place in zip(users, items, found, strict=True):
        own = histories.of_user(user).tolist()
        assert place == (own.index(item) if item in own else 400)
    assert histories.first_places(users[:0], items[:0]).shape == (0,)
