"""Requests against plain loops: which rows are of one, what is known before, what is asked for."""

from dataclasses import replace

import numpy as np
import pytest
from small_batch import batches_of
from small_data import all_rows, written_out
from small_negatives import in_batch

from mtrec.data.requests import QueryColumns, earlier, numbers

DAY = 86_400


def baskets(**more):
    """12 users who buy 20 of 8 items at 6 moments, in baskets whose rows do not lie together."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, 13), 20)
    items, times = rng.integers(1, 9, 240), rng.integers(1, 7, 240)
    data = written_out(list(zip(users, items, rng.integers(1, 6, 240), times, strict=True)))
    columns = {**data.interactions, "request": (times + users % 2 * 7).astype(np.int32)}
    # A label that is the number of the row, so that it is known which one is shown.
    columns["number"] = np.arange(240, dtype=np.float32)
    return replace(data, interactions=columns, **more)


def batches(data, **changed):
    how = {"global_batch": 16, "history_share": 0.9, "num_replicas": 1, "seed": 3}
    how |= {"batch_of": "requests", "chronological": False, "negatives": in_batch()} | changed
    return batches_of(data, all_rows(data), **how)


def epoch_of(source):
    return [source.step(1, step) for step in range(source.steps_per_epoch)]


def test_rows_of_one_time_or_of_one_value_are_a_request():
    user, time = np.array([1, 1, 1, 2, 2]), np.array([5, 5, 8, 5, 9])

    assert numbers(user, time, None).tolist() == [0, 0, 1, 2, 3]
    assert numbers(user, time, np.array([7, 3, 7, 7, 7])).tolist() == [0, 1, 0, 2, 2]


def test_what_is_earlier_than_a_request_is_counted_strictly():
    known = np.array([1, 1, 1, 3]), np.array([-4, 5, 9, 1])
    asked = np.array([1, 1, 1, 2, 3]), np.array([5, 10, -4, 7, 2])

    assert earlier(known, asked).tolist() == [1, 3, 0, 0, 1]


def test_the_times_of_requests_are_context_without_a_column():
    # Thursday 1970-01-01 at 13:00, Monday 1970-01-05 at 00:00 and a row without a time.
    rows = [(1, 1, 3, 13 * 3600 + 59), (1, 2, 3, 4 * DAY), (1, 1, 3, 0)]
    stores = np.array(["", "north", "south", ""])
    found = QueryColumns(replace(written_out(rows), requests={"store": stores}))

    np.testing.assert_array_equal(found["context.hour_of_day"], [np.nan, 13, 0, np.nan])
    np.testing.assert_array_equal(found["context.weekday"], [np.nan, 3, 0, np.nan])
    assert found["context.store"].tolist() == stores.tolist()
    assert list(QueryColumns(written_out([(1, 1, 3, 0)]))) == ["user_id"]


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_query_is_a_request_with_what_came_strictly_before(repeats, named):
    data = baskets(repeats=repeats)
    if not named:
        data.interactions.pop("request")
    columns = {name: np.asarray(values) for name, values in data.interactions.items()}
    key = columns["request"] if named else columns["timestamp"]
    expected, found, shown = {}, {}, 0
    for user, request in sorted(set(zip(columns["user"].tolist(), key.tolist(), strict=True))):
        mine = columns["user"] == user
        rows = np.flatnonzero(mine & (key == request))
        before = mine & (columns["timestamp"] < columns["timestamp"][rows].min())
        has = [] if repeats else columns["item"][before]
        asked = rows[~np.isin(columns["item"][rows], has)]
        if len(asked):
            expected[user, request] = (asked.tolist(), set(np.flatnonzero(before).tolist()))
    for (batch,) in epoch_of(batches(data)):
        history, real = batch.query.history, batch.rows.weight > 0
        for query in np.unique(batch.rows.query[real]):
            mine = real & (batch.rows.query == query)
            rows = batch.rows.labels["number"][mine].astype(int)
            entries = history.labels["number"][history.owners == query].astype(int)
            user, request = int(batch.query.users[query]), int(key[rows[0]])
            assert (user, request) not in found
            found[user, request] = sorted(rows.tolist())
            assert set(entries.tolist()) <= expected[user, request][1]
            shown += len(entries)
            # The request is known by its first row.
            first = batch.query.requests[query] - 1
            assert (columns["user"][first], key[first]) == (user, request)
            assert (
                columns["timestamp"][first]
                == columns["timestamp"][key == request][
                    columns["user"][key == request] == user
                ].min()
            )
    assert found == {place: asked for place, (asked, _) in expected.items()}
    # What is shown is drawn with a probability of 0.9.
    assert shown > 0.8 * sum(len(before) for _, before in expected.values()) * (
        1.0 if repeats else 0.5
    )


@pytest.mark.parametrize("batch_of", ["requests", "rows"])
def test_any_number_of_replicas_shares_the_same_requests(batch_of):
    whole, halves = (
        batches(baskets(), batch_of=batch_of, num_replicas=count).step(2, 1) for count in (1, 2)
    )
    together = np.concatenate([part.query.requests for part in halves])

    assert together.tolist() == whole[0].query.requests.tolist()
    assert (together[: len(set(together))] > 0).any()


def test_log_q_of_requests_equals_the_frequency_over_many_batches():
    source = batches(baskets())
    times, draws = np.zeros(9), 3000
    for epoch in range(1, draws + 1):
        (made,) = source.step(epoch, 0)
        items = made.pool.items[made.pool.items > 0]
        times[items] += 1
        log_q = dict(zip(items.tolist(), made.pool.log_q.tolist(), strict=False))
    expected = np.exp([log_q[item] for item in range(1, 9) if item in log_q])
    seen = times[[item for item in range(1, 9) if item in log_q]] / draws
    assert len(expected) > 5
    np.testing.assert_allclose(seen, expected, atol=0.04)


def test_what_is_mined_counts_every_request_of_its_user():
    data = baskets()
    source = batches(data, negatives=in_batch(mined=1))
    units = sum(
        len(np.unique(batch.rows.query[batch.rows.weight > 0])) for (batch,) in epoch_of(source)
    )
    assert source._units.per_user.sum() == units == len(source._units.ids)
