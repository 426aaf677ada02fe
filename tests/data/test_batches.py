"""Batches show what they may, once, in the same way to any number of replicas."""

import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import batches_of
from small_data import all_rows, planted, with_negatives, written_out
from small_negatives import in_batch, negatives

from mtrec.data import room
from mtrec.data.drawn import Drawn
from mtrec.data.inputs import ROUND_TO
from mtrec.errors import UserError


def batches(dataset, fit=None, **changed):
    how = {
        "batch_of": "users",
        "global_batch": 16,
        "history_share": 0.6,
        "chronological": False,
        "negatives": "in_batch",
        "num_replicas": 1,
        "seed": 3,
    }
    how |= changed
    how["negatives"] = negatives(how["negatives"])
    return batches_of(dataset, all_rows(dataset) if fit is None else fit, **how)


def columns_of(dataset, rows=slice(None)):
    columns = dataset.interactions
    return zip(*(columns[n][rows].tolist() for n in ("user", "item", "timestamp")), strict=True)


def rows_of(batch):
    """Query, user row, item and rating (0 for none) of every row that is not padding."""
    real = batch.rows.weight == 1
    query = batch.rows.query[real]
    item = batch.items[batch.rows.item[real]]
    stars = np.nan_to_num(batch.rows.labels["rating"][real])
    return list(zip(query, batch.query.users[query], item, stars, strict=True))


def shown_of(batch):
    """Query, user row and item of every entry of a history."""
    real = batch.query.history.owners >= 0
    query = batch.query.history.owners[real]
    item = batch.items[batch.query.history.places[real]]
    return list(zip(query, batch.query.users[query], item, strict=True))


def epoch_of(source, epoch=1):
    return [source.step(epoch, step) for step in range(source.steps_per_epoch)]


@pytest.fixture(scope="module")
def data():
    return with_negatives(planted())


@pytest.fixture(scope="module")
def repeats():
    """Each of 12 users takes 20 times one of 8 items, at one of 6 moments."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, 13), 20)
    items, times = rng.integers(1, 9, 240), rng.integers(1, 7, 240)
    return written_out(list(zip(users, items, rng.integers(1, 6, 240), times, strict=True)))


def test_an_epoch_has_every_user_once(data):
    seen = [user for (batch,) in epoch_of(batches(data)) for user in batch.query.users if user]

    assert sorted(seen) == sorted(set(data.interactions["user"].tolist()))
    assert batches(data).steps_per_epoch == 3  # 40 users in batches of 16


def test_an_epoch_of_rows_has_every_row_once(data):
    source = batches(data, batch_of="rows", global_batch=64)
    seen = Counter(row[1:] for (batch,) in epoch_of(source) for row in rows_of(batch))

    columns = data.interactions
    stars = np.nan_to_num(columns["rating"])
    assert source.steps_per_epoch == 8  # 500 rows in batches of 64
    assert seen == Counter(zip(columns["user"], columns["item"], stars, strict=True))


def test_each_row_of_a_user_is_either_shown_or_a_target(data):
    shown, targets = Counter(), Counter()
    for (batch,) in epoch_of(batches(data)):
        shown.update((user, item) for _, user, item in shown_of(batch))
        targets.update((user, item) for _, user, item, _ in rows_of(batch))

    assert not shown & targets
    assert shown + targets == Counter((user, item) for user, item, _ in columns_of(data))


def test_an_item_is_shown_with_the_probability_asked_for(data):
    shown = [
        len(shown_of(batch))
        for epoch in range(1, 21)
        for (batch,) in epoch_of(batches(data), epoch)
    ]

    assert sum(shown) / 10_000 == pytest.approx(0.6, abs=0.015)  # three standard deviations


def test_only_rows_that_were_given_to_fit_occur(data):
    fit = np.arange(0, 500, 3)
    (batch,) = batches(data, fit, global_batch=64).step(1, 0)

    pairs = [(user, item) for _, user, item in shown_of(batch)]
    pairs += [(user, item) for _, user, item, _ in rows_of(batch)]
    assert sorted(pairs) == sorted((user, item) for user, item, _ in columns_of(data, fit))


def test_the_choice_of_targets_differs_between_epochs(data):
    source = batches(data, global_batch=40)
    first, second = source.step(1, 0)[0], source.step(2, 0)[0]

    assert {r[1:] for r in rows_of(first)} != {r[1:] for r in rows_of(second)}
    assert first.query.users.tolist() != second.query.users.tolist()


def test_chronological_users_see_only_what_is_strictly_earlier_than_all_targets(repeats):
    when = {}
    for user, item, time in columns_of(repeats):
        when.setdefault((user, item), []).append(time)
    total = 0
    for (batch,) in (b for epoch in range(1, 30) for b in epoch_of(single_items(repeats), epoch)):
        for query in np.unique(batch.rows.query[batch.rows.weight == 1]):
            shown = [(u, i) for q, u, i in shown_of(batch) if q == query]
            targets = [(u, i) for q, u, i, _ in rows_of(batch) if q == query]
            latest_shown = max((when[pair][0] for pair in shown), default=0)
            assert latest_shown < min(when[pair][0] for pair in targets)
            total += len(shown)
    assert total > 500


def single_items(repeats):
    """Chronological batches in which each pair occurs once, so that its time is known."""
    columns = repeats.interactions
    pairs = columns["user"] * 100 + columns["item"]
    once = np.flatnonzero(np.bincount(pairs)[pairs] == 1)
    later = np.unique(pairs, return_index=True)[1]
    return batches(written_out(rows_from(repeats, np.union1d(once, later))), chronological=True)


def rows_from(dataset, rows):
    columns = dataset.interactions
    names = ("user", "item", "rating", "timestamp")
    return list(zip(*(columns[name][rows] for name in names), strict=True))


def test_chronological_users_have_all_rows_from_the_first_target_on_as_targets():
    data = written_out([(1, item, 3, item) for item in range(1, 11)])
    source = batches(data, chronological=True, history_share=0.99)
    starts = Counter()
    for epoch in range(1, 400):
        (batch,) = source.step(epoch, 0)
        targets = sorted(item for _, _, item, _ in rows_of(batch))
        assert targets == list(range(targets[0], 11))
        starts[targets[0]] += 1
    # The first target is drawn evenly: 39.9 times each, with a standard deviation of 6.
    assert min(starts.values()) > 39.9 - 4 * 6
    assert set(starts) == set(range(1, 11))


def test_chronological_users_are_not_asked_for_what_they_have_by_then():
    # Items 1, 2, 1, 3, 2 at moments 1 to 5: which are asked for, and which are shown.
    data = written_out([(1, item, 3, when) for when, item in enumerate((1, 2, 1, 3, 2), 1)])
    source = batches(data, chronological=True, history_share=0.9999)
    found = Counter()
    for epoch in range(1, 400):
        (batch,) = source.step(epoch, 0)
        asked = tuple(sorted(item for _, _, item, _ in rows_of(batch)))
        found[asked, tuple(sorted({item for _, _, item in shown_of(batch)}))] += 1
    assert set(found) == {((1, 1, 2, 2, 3), ()), ((2, 2, 3), (1,)), ((3,), (1, 2))}
    # The first of the three items is drawn evenly: 133 times each, standard deviation 9.4.
    assert min(found.values()) > 133 - 4 * 9.4


settings = pytest.mark.parametrize(
    ("batch_of", "chronological"),
    [("users", False), ("users", True), ("rows", False), ("rows", True)],
)


@settings
def test_no_target_has_its_item_in_its_own_history(batch_of, chronological):
    data = planted(most_repeats=8)
    assert set(Counter((user, item) for user, item, _ in columns_of(data)).values()) >= {1, 8}
    source = batches(data, batch_of=batch_of, chronological=chronological, history_share=0.7)
    entries = 0
    for (batch,) in (b for epoch in range(1, 6) for b in epoch_of(source, epoch)):
        asked = {(query, item) for query, _, item, _ in rows_of(batch)}
        shown = shown_of(batch)
        assert not asked & {(query, item) for query, _, item in shown}
        entries += len(shown)
    assert entries > 100


def test_all_that_a_user_did_with_an_item_is_shown_or_asked_for(repeats):
    taken = Counter((user, item) for user, item, _ in columns_of(repeats))
    shown, asked = Counter(), Counter()
    for (batch,) in epoch_of(batches(repeats)):
        shown.update((user, item) for _, user, item in shown_of(batch))
        asked.update((user, item) for _, user, item, _ in rows_of(batch))

    assert max(taken.values()) > 5
    assert shown + asked == taken
    assert not shown.keys() & asked.keys()


def test_an_item_is_shown_with_the_probability_asked_for_however_often_it_was_taken(repeats):
    taken = Counter((user, item) for user, item, _ in columns_of(repeats))
    shown, epochs = Counter(), 200
    for epoch in range(1, epochs + 1):
        (batch,) = batches(repeats).step(epoch, 0)
        shown.update({(user, item) for _, user, item in shown_of(batch)})
    for often in (range(1, 3), range(3, 20)):
        pairs = [pair for pair, times in taken.items() if times in often]
        found = sum(shown[pair] for pair in pairs) / (len(pairs) * epochs)
        assert len(pairs) > 20
        assert found == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / (len(pairs) * epochs)))


def test_a_row_sees_the_other_items_of_its_user(data):
    source = batches(data, batch_of="rows", history_share=1 - 1e-9)
    (batch,) = source.step(1, 0)
    for query, user, target, _ in rows_of(batch):
        expected = {item for u, item, _ in columns_of(data) if u == user} - {target}
        assert {item for q, _, item in shown_of(batch) if q == query} == expected


def test_a_chronological_row_sees_exactly_what_is_strictly_earlier():
    # Times 1, 2, 2, 3: neither of the two rows at 2 may see the other.
    data = written_out([(1, 1, 3, 2), (1, 2, 3, 1), (1, 3, 3, 3), (1, 4, 3, 2), (2, 5, 3, 0)])
    source = batches(data, batch_of="rows", chronological=True, history_share=1 - 1e-9)
    (batch,) = source.step(1, 0)

    seen = {item: set() for _, _, item, _ in rows_of(batch)}
    target = {query: item for query, _, item, _ in rows_of(batch)}
    for query, _, item in shown_of(batch):
        seen[target[query]].add(item)
    assert seen == {2: set(), 1: {2}, 4: {2}, 3: {1, 2, 4}, 5: set()}


variants = pytest.mark.parametrize(
    ("batch_of", "chronological", "pool"),
    [
        ("users", False, "in_batch"),
        ("users", True, "catalogue"),
        ("rows", True, "in_batch"),
        ("rows", False, None),
        ("users", False, in_batch(uniform=5, past_batches=2)),
        ("rows", True, in_batch(past_batches=1)),
        ("users", False, in_batch(given=True)),
    ],
)


def joined(replicas, size):
    """What all replicas' slices hold together, with queries and pool in their global places."""
    rows, shown, pool, own = Counter(), Counter(), {}, Counter()
    draws = [batch.query.draw[batch.query.users > 0] for batch in replicas]
    place = {}  # position in the whole pool -> item
    for replica, batch in enumerate(replicas):
        for slot, (item, log_q, frozen) in enumerate(zip(*batch.pool, strict=True)):
            if item:
                pool[item] = log_q, frozen
                place[slot * len(replicas) + replica] = item
    for replica, batch in enumerate(replicas):
        first = replica * size
        log_q = batch.rows.log_q[batch.rows.weight == 1]
        pool_of_rows = batch.rows.pool[batch.rows.weight == 1]
        for (query, *row), q, position in zip(rows_of(batch), log_q, pool_of_rows, strict=True):
            assert place.get(position, row[1]) == row[1]
            rows[(first + query, *row, q)] += 1
        for query, *entry in shown_of(batch):
            shown[(first + query, *entry)] += 1
        for query, item, position, *values in zip(*batch.own, strict=True):
            if query >= 0:
                assert place[position] == batch.items[item]
                own[(first + query, batch.items[item], *values)] += 1
    return rows, shown, pool, own, np.concatenate(draws).tolist()


@variants
def test_any_number_of_replicas_shares_the_same_batch(data, batch_of, chronological, pool):
    how = {"batch_of": batch_of, "chronological": chronological, "negatives": pool}
    for step in range(3):  # the last batch of users is short: two of four replicas have none
        one, two, four = (
            joined(batches(data, num_replicas=r, **how).step(2, step), 16 // r) for r in (1, 2, 4)
        )
        assert one == two == four
        assert one[0]


@variants
def test_a_worker_s_own_slices_are_those_that_all_are_made_with(
    data, batch_of, chronological, pool
):
    how = {"batch_of": batch_of, "chronological": chronological, "negatives": pool}
    for step in range(3):
        made = batches(data, num_replicas=4, **how).step(2, step)
        own = batches(data, num_replicas=4, **how).step(2, step, replicas=[3, 1])
        assert len(own) == 2
        for first, second in zip((made[3], made[1]), own, strict=True):
            for one, other in zip(*map(tf.nest.flatten, (first, second)), strict=True):
                np.testing.assert_array_equal(one, other)


@settings
@pytest.mark.parametrize("vain", [False, True])
def test_slices_of_others_are_counted_right_where_items_come_again(
    repeats, batch_of, chronological, vain
):
    taken = np.random.default_rng(1).random(240) < 0.7 if vain else None
    data = replace(repeats, taken=taken)
    how = {"batch_of": batch_of, "chronological": chronological, "num_replicas": 3}
    for step in range(3):
        source = batches(data, global_batch=4, **how)
        for replica, made in enumerate(source.step(1, step)):
            (own,) = batches(data, global_batch=4, **how).step(1, step, replicas=[replica])
            for one, other in zip(*map(tf.nest.flatten, (made, own)), strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_worker_makes_the_queries_of_its_own_slices_alone(data, monkeypatch):
    made, plain = [], Drawn.queries

    def queries(drawn, first, size):
        made.append(first)
        return plain(drawn, first, size)

    monkeypatch.setattr(Drawn, "queries", queries)
    batches(data, num_replicas=4).step(1, 0, replicas=[2])
    assert made == [8]  # of 16 users, replica 2 has those from the ninth on


def mapped(dataset, folder):
    """The data with interactions that are mapped from files."""
    for name, column in dataset.interactions.items():
        np.save(folder / name, column)
    columns = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in dataset.interactions}
    return replace(dataset, interactions=columns)


@variants
@pytest.mark.parametrize("fit", [np.arange(20, 480), np.arange(0, 500, 3)])
def test_batches_of_mapped_columns_are_those_of_columns_in_memory(
    data, tmp_path, fit, batch_of, chronological, pool
):
    how = {"batch_of": batch_of, "chronological": chronological, "negatives": pool}
    on_disk = batches(mapped(data, tmp_path), fit, **how)
    in_memory = batches(data, fit, **how)
    for epoch in (1, 2):
        for first, second in zip(epoch_of(on_disk, epoch), epoch_of(in_memory, epoch), strict=True):
            for one, other in zip(*map(tf.nest.flatten, (first, second)), strict=True):
                np.testing.assert_array_equal(one, other)


@settings
def test_a_worker_holds_no_number_of_each_row_of_mapped_columns(
    tmp_path, monkeypatch, batch_of, chronological
):
    monkeypatch.setattr(room, "AT_ONCE", 1 << 12)
    rows, rng = 600_000, np.random.default_rng(0)
    users = np.sort(rng.integers(1, 2001, rows))
    times = np.arange(rows) // 2
    logged = zip(users, rng.integers(1, 1001, rows), rng.integers(1, 6, rows), times, strict=True)
    data = mapped(written_out(list(logged)), tmp_path)
    fit = np.flatnonzero(rng.random(rows) < 0.8)
    tracemalloc.start()
    try:
        source = batches(data, fit, batch_of=batch_of, chronological=chronological)
        source.step(1, 0)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source.histories.items) == len(fit)
    # Bytes a row: what a part of the rows, the users, the items and a batch take.
    assert held < 0.8 * rows
    assert peak < 3 * rows


@variants
def test_a_step_asked_for_again_is_the_same(data, batch_of, chronological, pool):
    how = {"batch_of": batch_of, "chronological": chronological, "negatives": pool}
    source = batches(data, num_replicas=2, **how)
    inorder = {(epoch, step): source.step(epoch, step) for epoch in (1, 2) for step in (0, 1, 2)}

    again = batches(data, num_replicas=2, **how)
    for key in ((2, 1), (1, 2), (2, 0), (1, 0)):
        for first, second in zip(inorder[key], again.step(*key), strict=True):
            for one, other in zip(*map(tf.nest.flatten, (first, second)), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_every_query_has_a_draw_of_its_own_from_0_to_1(data, batch_of):
    source = batches(data, batch_of=batch_of)
    steps = [batch for epoch in range(1, 61) for (batch,) in epoch_of(source, epoch)]
    draws = np.concatenate([batch.query.draw[batch.query.users > 0] for batch in steps])

    assert len(np.unique(draws)) > 0.99 * len(draws)
    # 2,400 users or 30,000 rows: the standard deviation of a share is at most 0.01.
    for rate in (0.2, 0.5, 0.8):
        assert np.mean(draws < rate) == pytest.approx(rate, abs=0.03)
    assert not np.isin(steps[0].rows.draw, draws[draws > 0]).any()


@variants
def test_the_entries_of_a_history_lie_side_by_side_oldest_first(
    data, batch_of, chronological, pool
):
    columns = data.interactions
    assert len(set(zip(columns["user"], columns["item"], strict=True))) == 500
    when = {(user, item): time for user, item, time in columns_of(data)}
    source = batches(
        data, batch_of=batch_of, chronological=chronological, negatives=pool, num_replicas=2
    )
    for batch in (part for step in range(3) for part in source.step(1, step)):
        shown = shown_of(batch)
        assert len(shown) > 10 or not batch.query.users.all()
        places = [(query, when[user, item]) for query, user, item in shown]
        assert places == sorted(places)
        assert (np.diff(batch.query.history.owners < 0) >= 0).all()  # padding comes last


@variants
def test_each_row_carries_its_own_time(data, batch_of, chronological, pool):
    late = 3_000_000_000  # beyond the seconds that int32 and float32 tell apart
    columns = data.interactions
    data = replace(data, interactions=columns | {"timestamp": late + np.arange(500)})
    when = {(user, item): time for user, item, time in columns_of(data)}
    source = batches(
        data, batch_of=batch_of, chronological=chronological, negatives=pool, num_replicas=2
    )
    for step in range(3):
        for batch in source.step(1, step):
            real = batch.rows.weight == 1
            expected = [when[user, item] for _, user, item, _ in rows_of(batch)]
            assert batch.rows.time[real].tolist() == expected
            assert not batch.rows.time[~real].any()


def test_another_seed_gives_other_batches(data):
    one, other = batches(data).step(1, 0)[0], batches(data, seed=4).step(1, 0)[0]

    assert one.query.users.tolist() != other.query.users.tolist()


def test_padding_has_the_values_that_are_promised(data):
    last = batches(data, num_replicas=4).step(1, 2)  # 8 users for 4 replicas of 4 places
    empty = last[3]

    assert empty.query.users.tolist() == [0, 0, 0, 0]
    of_entries = empty.query.history
    nowhere = (of_entries.owners, empty.own.query, empty.own.pool, empty.rows.pool)
    assert all(set(field.tolist()) == {-1} for field in nowhere)
    for labels in (empty.rows.labels, of_entries.labels):
        assert set(labels) == {"rating"}
        assert np.isnan(labels["rating"]).all()
    floats = {"draw", "weight", "log_q", "rating"}
    for path, values in fields_of(empty):
        assert values.dtype.kind == ("f" if path[-1] in floats else "i"), path
        assert values.dtype.itemsize == (8 if path[-1] == "time" else 4), path
        assert {len(v) for p, v in (f for part in last for f in fields_of(part)) if p == path} == {
            4 if path[0] == "query" and path[1] != "history" else ROUND_TO
        }, path
        told = path[-1] == "rating" or any(values is field for field in nowhere)
        # The pool is the global batch's: the last replica holds its part.
        assert told or path[0] == "pool" or not values.any(), path


def fields_of(batch, path=()):
    """Path and values of every field that is an array of its own length."""
    named = batch._asdict() if hasattr(batch, "_asdict") else dict(batch)
    for name, values in named.items():
        if isinstance(values, tuple | dict):
            yield from fields_of(values, (*path, name))
        elif values.ndim:
            yield (*path, name), values


def test_lengths_are_rounded_up_so_that_few_shapes_occur():
    data = planted(num_users=20, num_items=60, num_interactions=590)
    (batch,) = batches(data, global_batch=20, history_share=0.0).step(1, 0)

    assert batch.rows.weight.sum() == 590
    assert len(batch.rows.weight) == 3 * ROUND_TO
    assert len(batch.query.history.owners) == ROUND_TO


def test_local_negatives_are_each_replica_s_own(data):
    source = batches(data, num_replicas=2, negatives=in_batch(local=True))
    for batch in source.step(1, 0):
        targets = {item for _, _, item, _ in rows_of(batch)}
        assert batch.pool.items[batch.pool.items > 0].tolist() == sorted(targets)
        real = batch.rows.weight > 0
        own = batch.pool.items[batch.rows.pool[real]]
        assert own.tolist() == batch.items[batch.rows.item[real]].tolist()
        # As if eight users were the batch.
        (eight,) = batches(data, global_batch=8).step(1, 0)
        assert len(np.unique(eight.pool.items)) < 31
        at = dict(zip(eight.pool.items, eight.pool.log_q, strict=True))
        both = np.isin(batch.pool.items, eight.pool.items) & (batch.pool.items > 0)
        assert both.sum() > 5
        assert batch.pool.log_q[both].tolist() == [at[item] for item in batch.pool.items[both]]


def test_the_batches_before_go_into_the_pool_across_the_end_of_an_epoch(data):
    (last,) = batches(data).step(1, 2)
    (first,) = batches(data).step(2, 0)
    (both,) = batches(data, negatives=in_batch(past_batches=1)).step(2, 0)
    pool, frozen = both.pool.items, both.pool.frozen

    assert set(pool) == set(last.pool.items) | set(first.pool.items)
    moved = set(pool[(pool > 0) & (frozen == 0)])
    assert moved == set(first.pool.items) - {0}


def test_items_that_were_shown_and_not_taken_join_the_pool_with_their_row(data):
    columns = data.interactions
    rows = zip(*(columns[n].tolist() for n in ("user", "item", "negative")), strict=True)
    negative = {}
    for user, item, shown in rows:
        negative.setdefault((user, item), set()).add(shown)
    # Every row is a target of its user's batch where no history is shown.
    how = {"history_share": 0.0, "global_batch": 2}
    (plain,) = batches(data, **how).step(1, 0)
    (given,) = batches(data, **how, negatives=in_batch(given=True)).step(1, 0)

    joined_by = {shown for _, u, i, _ in rows_of(given) for shown in negative[u, i]} - {0}
    assert rows_of(given) == rows_of(plain)
    assert set(given.pool.items) == set(plain.pool.items) | joined_by
    assert set(given.pool.items) > set(plain.pool.items)
    assert not given.pool.frozen.any()


MINED = np.random.default_rng(2).integers(0, 31, (41, 2)).astype(np.int32)
MINED[0] = 0


def with_mined(data, **how):
    """Batches for whose users the items of `MINED` were mined."""
    source = batches(data, **how)
    source.mine(MINED)
    return source


@pytest.mark.parametrize(("batch_of", "size"), [("users", 4), ("rows", 8)])
@pytest.mark.parametrize("past_batches", [0, 1])
def test_what_is_mined_joins_the_pool_with_its_user(data, batch_of, size, past_batches):
    pool = in_batch(mined=2, past_batches=past_batches)
    how = {"batch_of": batch_of, "global_batch": size, "negatives": pool}
    plain = batches(data, **how | {"negatives": in_batch(past_batches=past_batches)})
    more = 0
    for (without,), (found,) in zip(
        epoch_of(plain, 2), epoch_of(with_mined(data, **how), 2), strict=True
    ):
        joined_by = set(MINED[found.query.users].ravel().tolist())
        assert rows_of(found) == rows_of(without)
        assert set(found.pool.items) == set(without.pool.items) | joined_by
        # Moved as targets are, even what a past batch brings too.
        moved = set(found.pool.items[found.pool.frozen == 0])
        assert moved == set(without.pool.items[without.pool.frozen == 0]) | joined_by
        more += len(joined_by - set(without.pool.items))
    assert more


@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_any_number_of_replicas_shares_what_is_mined(data, batch_of):
    how = {"batch_of": batch_of, "negatives": in_batch(mined=2, past_batches=1)}
    for step in range(3):
        one, two, four = (
            joined(with_mined(data, num_replicas=r, **how).step(2, step), 16 // r)
            for r in (1, 2, 4)
        )
        assert one == two == four
        assert one[2]


def test_what_is_mined_is_each_replica_s_own_where_negatives_are_local(data):
    source = with_mined(data, num_replicas=2, negatives=in_batch(mined=2, local=True))
    for batch in source.step(1, 0):
        targets = {item for _, _, item, _ in rows_of(batch)}
        expected = targets | set(MINED[batch.query.users].ravel().tolist()) - {0}
        assert batch.pool.items[batch.pool.items > 0].tolist() == sorted(expected)


def test_negatives_that_the_data_does_not_name_are_refused():
    with pytest.raises(UserError, match=r"`negatives.given` needs .* `negative`"):
        batches(planted(), negatives=in_batch(given=True))


def test_the_pool_holds_each_target_of_the_global_batch_once(data):
    (batch,) = batches(data).step(1, 0)
    targets = {item for _, _, item, _ in rows_of(batch)}

    assert batch.pool.items[batch.pool.items > 0].tolist() == sorted(targets)
    (whole,) = batches(data, negatives="catalogue").step(1, 0)
    assert whole.pool.items[whole.pool.items > 0].tolist() == list(range(1, 31))
    assert not whole.pool.log_q.any()
    (none,) = batches(data, negatives=None).step(1, 0)
    assert not none.pool.items.any()


@settings
@pytest.mark.parametrize("pool", ["in_batch", "catalogue"])
def test_all_that_a_user_has_is_masked_once_unless_it_is_a_target(
    repeats, batch_of, chronological, pool
):
    how = {"batch_of": batch_of, "chronological": chronological, "negatives": pool}
    for (batch,) in epoch_of(batches(repeats, global_batch=4, **how)):
        asked = {(query, item) for query, _, item, _ in rows_of(batch)}
        has = {
            (query, item)
            for query, user in enumerate(batch.query.users)
            for owner, item, _ in columns_of(repeats)
            if owner == user and item in batch.pool.items
        }
        real = batch.own.query >= 0
        own = batch.pool.items[batch.own.pool[real]]
        assert own.tolist() == batch.items[batch.own.item[real]].tolist()
        assert Counter(zip(batch.own.query[real], own, strict=True)) == Counter(has - asked)
        assert not batch.own.weight.any()


@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_what_is_taken_again_is_asked_for_and_shown_only_from_strictly_earlier(repeats, batch_of):
    data = replace(repeats, repeats=True)
    time = dict(zip(all_rows(data).tolist(), data.interactions["timestamp"].tolist(), strict=True))
    # A label that is the number of the row, so that it is known which one is shown.
    numbered = {**data.interactions, "number": np.arange(240, dtype=np.float32)}
    source = batches(
        replace(data, interactions=numbered),
        batch_of=batch_of,
        chronological=True,
        negatives="catalogue",
    )
    again = 0
    for (batch,) in epoch_of(source) + epoch_of(source, 2):
        history, real = batch.query.history, batch.rows.weight > 0
        shown = history.labels["number"]
        for query in np.unique(batch.rows.query[real]):
            mine = real & (batch.rows.query == query)
            first = min(time[int(row)] for row in batch.rows.labels["number"][mine])
            seen = np.flatnonzero(history.owners == query)
            assert all(time[int(row)] < first for row in shown[seen])
            again += len(np.intersect1d(history.places[seen], batch.rows.item[mine]))
            if batch_of == "users":  # all from the moment on
                user = batch.query.users[query]
                rows = data.interactions["user"] == user
                assert mine.sum() == np.sum(rows & (data.interactions["timestamp"] >= first))
        # What a user has is told from like anything else.
        assert (batch.own.query < 0).all()
        assert not batch.rows.had.any()
    assert again > 30


def test_repeats_without_the_order_of_time_are_refused(repeats):
    with pytest.raises(UserError, match="`chronological` must be true with `repeats`"):
        batches(replace(repeats, repeats=True))


@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_what_a_query_brought_is_its_own_unless_its_user_has_it(data, batch_of):
    columns = data.interactions
    rows = zip(*(columns[n].tolist() for n in ("user", "item", "negative")), strict=True)
    given, has = {}, set()
    for user, item, shown in rows:
        given.setdefault((user, item), set()).add(shown)
        has.add((user, item))
    pool = in_batch(mined=2, given=True, past_batches=1)
    source = with_mined(data, batch_of=batch_of, global_batch=8, negatives=pool)
    for (batch,) in epoch_of(source, 2):
        brought = {
            (query, item)
            for query, user in enumerate(batch.query.users)
            for item in MINED[user].tolist()
        }
        for query, user, item, _ in rows_of(batch):
            brought |= {(query, shown) for shown in given[user, item]}
        expected = {(q, i) for q, i in brought if i and (batch.query.users[q], i) not in has}
        mine = batch.own.weight == 1
        found = list(zip(batch.own.query[mine], batch.items[batch.own.item[mine]], strict=True))
        assert Counter(found) == Counter(expected)
        assert expected


def test_the_first_row_of_a_repeated_target_is_marked(repeats):
    (batch,) = batches(repeats).step(1, 0)
    marked = Counter()
    for first, (query, _, item, _) in zip(batch.rows.kind, rows_of(batch), strict=False):
        marked[query, item] += first

    assert set(marked.values()) == {1}
    assert len(marked) < len(rows_of(batch))


@pytest.mark.parametrize("replicas", [3, 5, 32])
def test_of_a_batch_that_does_not_divide_the_last_replicas_have_less(data, replicas):
    size = -(-16 // replicas)
    made = batches(data, num_replicas=replicas).step(1, 0)
    assert [np.count_nonzero(batch.query.users) for batch in made] == [
        max(min(size, 16 - first), 0) for first in range(0, replicas * size, size)
    ]
    (whole,) = batches(data).step(1, 0)
    assert joined(made, size) == joined([whole], 16)
