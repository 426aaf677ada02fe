"""The retrieval losses against all pairs written out, and ranks against plain loops."""

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, batches_of, with_fields, written
from small_data import all_rows, planted, written_out
from small_negatives import in_batch, negatives

from mtrec.data import inputs
from mtrec.data.negatives import Catalogue
from mtrec.errors import UserError
from mtrec.heads import log_sum_exp, retrieval_losses, score_blocks
from mtrec.heads.head import Examples
from mtrec.heads.retrieval import Retrieval
from mtrec.heads.retrieval_losses import Bpr, Hinge, ImplicitSquared, Softmax

D = 5
WEIGHT = 0.15


def repeating():
    """12 users who take the same few items again and again."""
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(1, 13), 20), rng.integers(1, 15, 240)
    return written_out(
        list(zip(user, item, rng.integers(1, 6, 240), rng.integers(1, 9, 240), strict=True))
    )


def batches(dataset, *, batch_of="users", pool="catalogue", **changed):
    how = {
        "global_batch": 16,
        "history_share": 0.6,
        "chronological": False,
        "num_replicas": 1,
        "seed": 3,
    }
    how |= changed
    return batches_of(
        dataset, all_rows(dataset), batch_of=batch_of, negatives=negatives(pool), **how
    )


def softmax(**changed):
    how = {"log_q_correction": "all", "hardest": None, "same_tower": False}
    return Softmax(**(how | changed))


def vectors(rows, seed, scale=0.6, several=None):
    """`[rows, D]`, or `[rows, several, D]`."""
    size = (rows, D) if several is None else (rows, several, D)
    return np.random.default_rng(seed).normal(scale=scale, size=size).astype(np.float32)


def scores_of(query, catalogue):
    """All scores over a temperature of 0.7, the best of a query's vectors."""
    scores = (query @ catalogue.T / 0.7).astype(np.float64)
    return scores.max(axis=1) if query.ndim == 3 else scores


def examples(batch, query, catalogue):
    """What a head sees, given a vector for each query `[Q, D]` and each item row `[C + 1, D]`."""
    return Examples(
        query=query,
        item=tf.gather(catalogue, batch.items),
        pool=tf.gather(catalogue, batch.pool.items),
        batch=as_tensors(batch),
    )


def padded_further(batch, monkeypatch, by=7):
    monkeypatch.setattr(inputs, "ROUND_TO", inputs.ROUND_TO + by)
    lengths = inputs.Lengths(
        history=len(batch.query.history.owners),
        items=len(batch.items),
        rows=len(batch.rows.query),
        own=len(batch.own.query),
        pool=len(batch.pool.items),
        views=len(batch.views.items),
    )
    return inputs.pad(batch, lengths, queries=len(batch.query.users) + by)


def items_of(data, user):
    """Item rows of a user."""
    return data.interactions["item"][data.interactions["user"] == user]


def counted(batch, data):
    """1 for each pair of query and item that the all-pairs term counts, `[Q, C + 1]`."""
    counts = np.ones((len(batch.query.users), data.num_items + 1), np.float32)
    counts[:, 0] = 0.0
    for query, user in enumerate(batch.query.users):
        counts[query, items_of(data, user)] = 0.0
    real = batch.rows.weight > 0
    counts[batch.rows.query[real], batch.items[batch.rows.item[real]]] = 1.0
    return counts


def every_pair_squared(batch, query, catalogue, data, weight=WEIGHT):
    """The implicit squared loss of every row, from all B x C scores."""
    scores = query @ tf.transpose(catalogue)  # [Q, C + 1]
    all_pairs = tf.reduce_sum(counted(batch, data) * scores**2, axis=1)
    real = batch.rows.weight > 0
    rows = np.bincount(batch.rows.query[real], minlength=len(batch.query.users))
    item = batch.items[batch.rows.item]
    positive = tf.gather_nd(scores, np.stack([batch.rows.query, item], axis=1))
    share = tf.gather(all_pairs, batch.rows.query) / np.maximum(rows, 1)[batch.rows.query]
    return (1 - positive) ** 2 + weight * share


@pytest.mark.parametrize("make", [planted, repeating])
@pytest.mark.parametrize(
    ("batch_of", "chronological"),
    [("users", False), ("users", True), ("rows", False), ("rows", True)],
)
def test_implicit_squared_equals_all_pairs_written_out(make, batch_of, chronological):
    data = make()
    source = batches(data, batch_of=batch_of, chronological=chronological)
    batch = source.step(1, source.steps_per_epoch - 1)[0]  # the last, with padded queries
    query, catalogue = vectors(16, 1), vectors(data.num_items + 1, 2)
    loss = ImplicitSquared(all_pairs_weight=WEIGHT)
    found, expected = [], []
    for compute, out in ((None, found), (every_pair_squared, expected)):
        q, v = tf.Variable(query), tf.Variable(catalogue)
        with tf.GradientTape() as tape:
            losses = (
                loss(examples(batch, q, v), 1.0, local=False)
                if compute is None
                else compute(batch, q, v, data)
            )
            total = tf.reduce_sum(losses * batch.rows.weight)
        out += [
            losses[batch.rows.weight > 0],
            *map(tf.convert_to_tensor, tape.gradient(total, [q, v])),
        ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
    asked = np.flatnonzero(np.abs(found[1]).sum(axis=1))
    assert asked.tolist() == sorted(set(batch.rows.query[batch.rows.weight > 0]))


def test_implicit_squared_divides_scores_by_the_temperature():
    data = planted()
    (batch,) = batches(data).step(1, 0)
    query, catalogue = vectors(16, 1), vectors(31, 2)
    loss = ImplicitSquared(all_pairs_weight=WEIGHT)

    hot = loss(examples(batch, query, catalogue), 4.0, local=False)
    np.testing.assert_allclose(
        hot, loss(examples(batch, query / 4.0, catalogue), 1.0, local=False), rtol=1e-5
    )
    assert not np.allclose(hot, loss(examples(batch, query, catalogue), 1.0, local=False))


@pytest.mark.parametrize("pool", ["catalogue", "in_batch"])
@pytest.mark.parametrize(
    "loss",
    [
        ImplicitSquared(all_pairs_weight=WEIGHT),
        softmax(),
        softmax(log_q_correction="negatives", hardest=3),
        softmax(same_tower=True),
        Bpr(log_q_correction=True, hardest=None),
        Hinge(margin=1.0, log_q_correction=True, hardest=3),
    ],
)
def test_padding_changes_nothing(loss, pool, monkeypatch):
    data = planted()
    (batch,) = batches(data, pool=pool).step(1, 2)
    query, catalogue = vectors(16, 1), vectors(31, 2)
    real = int(batch.rows.weight.sum())
    plain = loss(examples(batch, query, catalogue), 1.0, local=False)[:real]
    # Nothing may come of the unknown item's vector, nor of the queries that are padding.
    catalogue[0], query[batch.query.users == 0] = 50.0, 50.0
    wider = padded_further(batch, monkeypatch)
    query = np.concatenate([query, np.full((7, D), 50.0, np.float32)])
    padded = loss(examples(wider, query, catalogue), 1.0, local=False)[:real]

    assert 0 < real < len(batch.rows.weight)
    assert (batch.query.users == 0).any()
    np.testing.assert_allclose(padded, plain, rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        softmax(),
        softmax(log_q_correction="negatives", hardest=3, same_tower=True),
        Bpr(log_q_correction=True, hardest=None),
        Hinge(margin=1.0, log_q_correction=False, hardest=3),
    ],
)
@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_blocks_of_queries_cost_and_move_what_all_at_once_do(loss, batch_of, monkeypatch):
    data = planted()
    (batch,) = batches(data, pool="in_batch", batch_of=batch_of).step(1, 2)
    vectors_of = vectors(16, 1), vectors(31, 2)
    found = []
    # Sixteen queries in one block, in blocks of several, and one by one, with scores made again.
    for at_once in (2**20, 20_000 if batch_of == "users" else 2_000, 1):
        monkeypatch.setitem(score_blocks.SCORES_AT_ONCE, "CPU", at_once)
        monkeypatch.setattr(log_sum_exp, "SCORES_KEPT", 0 if at_once == 1 else 2**20)
        query, catalogue = map(tf.Variable, vectors_of)
        with tf.GradientTape() as tape:
            losses = loss(examples(batch, query, catalogue), 0.7, local=False)
            # Another weight for every row, so that no row's gradient stands for another's.
            weight = batch.rows.weight * np.linspace(1, 2, len(losses), dtype=np.float32)
            total = tf.reduce_sum(losses * weight)
        moved = map(tf.convert_to_tensor, tape.gradient(total, [query, catalogue]))
        found.append([losses.numpy(), *(g.numpy() for g in moved)])

    assert all(np.abs(values).max() > 0.01 for values in found[0])
    for parts in found[1:]:
        for ours, whole in zip(parts, found[0], strict=True):
            np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)


def test_a_sampled_pool_estimates_the_sum_over_the_catalogue():
    """Query, history and targets stay; the rest of the pool is drawn with known probabilities."""
    data = planted()
    (batch,) = batches(data).step(1, 0)
    query, catalogue = vectors(16, 1), vectors(31, 2)
    exact = every_pair_squared(batch, query, catalogue, data).numpy()
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.2, 0.9, 31)
    log_q = np.log(chance).astype(np.float32)
    loss = ImplicitSquared(all_pairs_weight=WEIGHT)

    @tf.function
    def estimate(item, pool, fields):
        return loss(Examples(query=query, item=item, pool=pool, batch=fields), 1.0, local=False)

    row_query, row_item = batch.rows.query, batch.items[batch.rows.item]
    real = (batch.rows.weight > 0) & (row_query == 0)
    own = batch.items[batch.own.item]
    draws = 1000
    total = np.zeros(real.sum())
    for _ in range(draws):
        chosen = rng.random(31) < chance
        chosen[row_item[real]], chosen[0] = True, False
        pool = np.zeros(31, np.int32)
        pool[: chosen.sum()] = np.flatnonzero(chosen)
        place = np.full(31, -1)
        place[pool[: chosen.sum()]] = np.arange(chosen.sum())
        drawn = with_fields(
            batch,
            pool_items=pool,
            pool_log_q=log_q[pool],
            rows_log_q=log_q[row_item],
            own_log_q=log_q[own],
            own_pool=np.where(batch.own.query >= 0, place[own], -1),
        )
        given = examples(drawn, query, catalogue)
        total += estimate(given.item, given.pool, given.batch).numpy()[real]
    np.testing.assert_allclose(total / draws, exact[real], rtol=0.04)


def test_in_batch_pools_estimate_the_sum_over_the_catalogue():
    """Pools as training makes them hold a query's own targets for certain."""
    data = planted(num_users=150, num_items=200, num_interactions=1500)
    source = batches(data, pool="in_batch", global_batch=50)
    of_user, catalogue = vectors(151, 1), vectors(201, 2)
    # Rare items score higher, so that an error in what is in the pool by chance cannot hide.
    catalogue *= (3 / np.maximum(np.bincount(data.interactions["item"], minlength=201), 1))[
        :, np.newaxis
    ] ** 0.5
    loss = ImplicitSquared(all_pairs_weight=1.0)
    estimated, exact = np.zeros(151), np.zeros(151)
    for epoch in range(1, 201):
        (batch,) = source.step(epoch, 0)
        query = of_user[batch.query.users]
        real = batch.rows.weight > 0
        item = batch.items[batch.rows.item[real]]
        score = (query[batch.rows.query[real]] * catalogue[item]).sum(axis=1)
        found = loss(examples(batch, query, catalogue), 1.0, local=False).numpy()[real]
        np.add.at(estimated, batch.query.users[batch.rows.query[real]], found - (1 - score) ** 2)
        has_rows = np.bincount(batch.rows.query[real], minlength=50) > 0
        scores = query @ catalogue.T
        all_pairs = (counted(batch, data) * scores**2).sum(axis=1)
        exact[batch.query.users[has_rows]] += all_pairs[has_rows]
    assert (estimated >= 0).all()
    assert estimated.sum() / exact.sum() == pytest.approx(1.0, abs=0.03)
    known = exact > 0
    assert np.abs(estimated[known] / exact[known] - 1).mean() < 0.1


@pytest.mark.parametrize("make", [planted, repeating])
def test_a_querys_own_items_count_the_same_in_a_sampled_pool(make):
    """A target once, what its user has beside not at all, however rare the item is."""
    data = make()
    user, item = data.interactions["user"], data.interactions["item"]
    chose = np.zeros((data.num_items + 1, data.num_users + 1), np.float32)
    chose[item, user] = 1.0  # the score of what a user chose is 1, and of all else 0
    of_user = np.eye(data.num_users + 1, dtype=np.float32)
    loss = ImplicitSquared(all_pairs_weight=1.0)
    for step in (0, 1):
        (batch,) = batches(data, pool="in_batch", global_batch=8).step(1, step)
        query = of_user[batch.query.users]
        expected = every_pair_squared(batch, query, chose, data, weight=1.0)
        found = loss(examples(batch, query, chose), 1.0, local=False)
        real = batch.rows.weight > 0
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)


def written_batch(**fields):
    """A batch of one query and one row, its target first in `items`."""
    batch = {
        "query_users": [1],
        "items": [1],
        "own_query": [-1],
        "own_item": [0],
        "own_pool": [-1],
        "own_log_q": [0.0],
        "own_weight": [0.0],
        "rows_query": [0],
        "rows_item": [0],
        "rows_labels": {"rating": [np.nan]},
        "rows_weight": [1.0],
        "rows_kind": [1],
        "rows_pool": [0],
        "rows_log_q": [0.0],
        "pool_items": [1],
        "pool_log_q": [0.0],
        "pool_frozen": [0],
    }
    return written(**(batch | fields))


def test_the_softmax_is_hand_worked_in_its_order():
    """Temperature, then log Q, then the mask: exp(s / tau) / Q of all but what the user has."""
    batch = written_batch(
        items=[1, 3],
        pool_items=[1, 2, 3, 0],
        own_query=[0],
        own_item=[1],
        own_pool=[2],
        own_log_q=[0],
        own_weight=[0],
        rows_log_q=np.log([0.5]),
        pool_log_q=np.log([0.5, 0.25, 0.01, 1.0]),
    )
    catalogue = np.float32([[9, 9], [0.5, 0], [0.2, 0], [0.9, 0]])
    query = np.float32([[1, 0]])

    (loss,) = softmax()(examples(batch, query, catalogue), 0.5, local=False).numpy()
    positive, other = np.exp(1.0) / 0.5, np.exp(0.4) / 0.25
    assert loss == pytest.approx(-np.log(positive / (positive + other)), rel=1e-6)

    plain = softmax(log_q_correction=None)
    (loss,) = plain(examples(batch, query, catalogue), 0.5, local=False).numpy()
    assert loss == pytest.approx(np.log(1 + np.exp(0.4 - 1.0)), rel=1e-6)


def test_an_item_that_the_user_has_gets_no_gradient_unless_it_is_a_target():
    batch = written_batch(
        items=[1, 3],
        pool_items=[1, 2, 3],
        own_query=[0],
        own_item=[1],
        own_pool=[2],
        own_log_q=[0],
        own_weight=[0],
        pool_log_q=[0, 0, 0],
    )
    pool = tf.Variable(vectors(4, 0))
    query = tf.Variable(vectors(1, 1))
    with tf.GradientTape() as tape:
        given = examples(batch, query, tf.constant(vectors(4, 0)))
        given = Examples(
            query=given.query,
            item=given.item,
            pool=tf.gather(pool, batch.pool.items),
            batch=given.batch,
        )
        loss = softmax()(given, 1.0, local=False)
    gradient = tf.convert_to_tensor(tape.gradient(loss, pool)).numpy()

    assert not gradient[3].any()
    assert gradient[1].any()
    assert gradient[2].any()


@pytest.mark.parametrize("several", [None, 3])
def test_the_softmax_over_the_catalogue_equals_numpy(several):
    data = planted()
    (batch,) = batches(data).step(1, 0)
    query, catalogue = vectors(16, 1, several=several), vectors(31, 2)
    losses = softmax()(examples(batch, query, catalogue), 0.7, local=False).numpy()

    scores = scores_of(query, catalogue)
    allowed = counted(batch, data) > 0
    real = batch.rows.weight > 0
    for row in np.flatnonzero(real):
        q, i = batch.rows.query[row], batch.items[batch.rows.item[row]]
        expected = np.log(np.exp(scores[q][allowed[q]]).sum()) - scores[q, i]
        assert losses[row] == pytest.approx(expected, rel=1e-5)


def test_a_target_is_in_its_own_pool_for_certain():
    """One over Q of the negatives alone; the query's other target counts once as well."""
    batch = written_batch(
        items=[1, 2, 3],
        rows_query=[0, 0],
        rows_item=[0, 1],
        rows_pool=[0, 1],
        rows_labels={"rating": [np.nan, np.nan]},
        rows_weight=[1.0, 1.0],
        rows_kind=[1, 1],
        rows_log_q=np.log([0.5, 0.2]),
        pool_items=[1, 2, 3],
        pool_log_q=np.log([0.5, 0.2, 0.25]),
        pool_frozen=[0, 0, 0],
    )
    query, catalogue = np.float32([[1.0]]), np.float32([[0.0], [0.3], [0.6], [0.9]])

    corrected = softmax(log_q_correction="negatives")
    loss = corrected(examples(batch, query, catalogue), 1.0, local=False)
    total = np.exp(0.3) + np.exp(0.6) + np.exp(0.9) / 0.25
    np.testing.assert_allclose(loss, np.log(total) - [0.3, 0.6], rtol=1e-6)


def cases():
    """Batches as training makes them, with a pool that is a sample and one that is not."""
    data = planted()
    for pool in ("catalogue", "in_batch"):
        yield data, batches(data, pool=pool).step(1, 1)[0]
    rows = batches(data, batch_of="rows", chronological=True)
    yield data, rows.step(1, 1)[0]


def negatives_of(batch, query, data):
    """Items of the pool that the user of a query does not have, their log Q; the targets."""
    real = batch.rows.weight > 0
    own = batch.items[batch.rows.item[real]][batch.rows.query[real] == query]
    had = items_of(data, batch.query.users[query])
    left = (batch.pool.items > 0) & ~np.isin(batch.pool.items, had)
    return batch.pool.items[left], batch.pool.log_q[left].astype(np.float64), own


@pytest.mark.parametrize("hardest", [None, 1, 4])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize(("name", "several"), [("bpr", None), ("hinge", None), ("hinge", 3)])
def test_pairwise_losses_equal_plain_loops(name, several, corrected, hardest):
    how = {"log_q_correction": corrected, "hardest": hardest}
    loss, cost = {
        "bpr": (Bpr(**how), lambda lead: np.log1p(np.exp(-lead))),
        "hinge": (Hinge(margin=0.5, **how), lambda lead: np.maximum(0.5 - lead, 0)),
    }[name]
    for data, batch in cases():
        query, catalogue = vectors(16, 1, several=several), vectors(data.num_items + 1, 2)
        found = loss(examples(batch, query, catalogue), 0.7, local=False).numpy()
        scores = scores_of(query, catalogue)
        for row in np.flatnonzero(batch.rows.weight):
            q, i = batch.rows.query[row], batch.items[batch.rows.item[row]]
            items, log_q, _ = negatives_of(batch, q, data)
            order = np.argsort(-scores[q, items])[:hardest]
            weights = np.exp(-log_q[order]) if corrected else np.ones(len(order))
            costs = cost(scores[q, i] - scores[q, items[order]])
            expected = (weights * costs).sum() / weights.sum()
            assert found[row] == pytest.approx(expected, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("several", [None, 3])
def test_the_hardest_negatives_alone_are_in_the_softmax(several):
    for data, batch in cases():
        query, catalogue = vectors(16, 1, several=several), vectors(data.num_items + 1, 2)
        loss = softmax(log_q_correction=None, hardest=3)
        found = loss(examples(batch, query, catalogue), 0.7, local=False).numpy()
        scores = scores_of(query, catalogue)
        for row in np.flatnonzero(batch.rows.weight):
            q, i = batch.rows.query[row], batch.items[batch.rows.item[row]]
            items, _, own = negatives_of(batch, q, data)
            kept = [*np.sort(scores[q, items])[-3:], *scores[q, np.unique(own)]]
            expected = np.log(np.exp(kept).sum()) - scores[q, i]
            assert found[row] == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("hardest", [None, 3])
def test_queries_of_other_users_are_in_the_softmax_once_each_without_log_q(hardest):
    data = planted()
    # Rows, so that users come more than once, and a short batch, so that queries are padded.
    batch = batches(data, batch_of="rows", pool="in_batch", global_batch=64).step(1, 7)[0]
    users = batch.query.users
    assert (users == 0).any()
    assert len(np.unique(users)) < len(users) - (users == 0).sum()
    query, catalogue = vectors(64, 1), vectors(data.num_items + 1, 2)
    plain, found = (
        softmax(hardest=hardest, same_tower=same_tower)(
            examples(batch, query, catalogue), 0.7, local=False
        ).numpy()
        for same_tower in (False, True)
    )
    between = (query @ query.T / 0.7).astype(np.float64)
    for row in np.flatnonzero(batch.rows.weight):
        q, target = batch.rows.query[row], batch.items[batch.rows.item[row]]
        score = query[q] @ catalogue[target] / 0.7 - batch.rows.log_q[row]
        others = (users > 0) & (users != users[q])
        total = np.exp(plain[row] + score) + np.exp(between[q, others]).sum()
        assert found[row] == pytest.approx(np.log(total) - score, rel=1e-5)


def test_both_queries_of_a_pair_are_moved_by_it():
    """With items that score 0, a loss is log(1 + exp(<u, v>)): v is moved by u's row alone."""
    batch = written_batch(query_users=[1, 2])
    query = tf.Variable([[0.3, 0.1], [0.2, -0.4]])
    with tf.GradientTape() as tape:
        given = examples(batch, query, np.zeros((2, 2), np.float32))
        (loss,) = softmax(same_tower=True)(given, 1.0, local=False)
    gradient = tf.convert_to_tensor(tape.gradient(loss, query))

    odds = np.exp(0.3 * 0.2 - 0.1 * 0.4)
    expected = odds / (1 + odds) * np.float32([[0.2, -0.4], [0.3, 0.1]])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_with_local_negatives_no_query_travels(monkeypatch):
    monkeypatch.setattr(retrieval_losses, "all_gather", None)  # nothing may call it
    (batch,) = batches(planted(), pool=in_batch(local=True)).step(1, 0)
    given = examples(batch, vectors(16, 1), vectors(31, 2))

    losses = softmax(same_tower=True)(given, 1.0, local=True)
    assert (losses > softmax()(given, 1.0, local=True)).numpy()[batch.rows.weight > 0].all()


def test_a_score_teaches_the_vector_that_gives_it_alone():
    batch = written_batch(items=[1], pool_items=[1, 2], pool_log_q=[0, 0])
    catalogue = np.float32([[9, 9], [1, 0], [0, 1]])
    # The target is scored by the first vector, 2, the other item by the second, 1.
    query = tf.Variable([[[2.0, 0.5], [0.5, 1.0], [-1.0, -1.0]]])
    bpr = Bpr(log_q_correction=False, hardest=None)
    with tf.GradientTape() as tape:
        loss = bpr(examples(batch, query, catalogue), 1.0, local=False)

    np.testing.assert_allclose(loss, [np.log(1 + np.exp(-1))], rtol=1e-6)
    slope = 1 / (1 + np.exp(1))
    expected = [[[-slope, 0], [0, slope], [0, 0]]]
    np.testing.assert_allclose(tape.gradient(loss, query), expected, rtol=1e-6)


def head(**changed):
    how = {
        "dim": None,
        "normalize": True,
        "temperature": 0.5,
        "negatives": Catalogue(most_items=1000),
        "loss": softmax(),
    }
    return Retrieval(**{**how, **changed})


def test_a_normalised_head_scores_by_the_cosine():
    batch = written_batch(items=[1], pool_items=[1, 2], pool_log_q=[0, 0])
    catalogue = np.float32([[9, 9], [3, 0], [0, 0.1]])
    losses, mask = head().losses(examples(batch, np.float32([[0, 7]]), catalogue))

    # Cosines 0 and 1 over the temperature 1/2.
    assert losses.numpy() == pytest.approx([np.log(1 + np.exp(2))], rel=1e-5)
    assert mask.numpy().tolist() == [1.0]
    raw, _ = head(normalize=False).losses(examples(batch, np.float32([[0, 7]]), catalogue))
    assert raw.numpy() == pytest.approx([np.log(1 + np.exp(1.4))], rel=1e-5)


def test_each_vector_of_a_query_is_normalised():
    embedded = head(query_vectors=2).embed(tf.constant([[[3.0, 4.0], [0.0, 0.1]]]))
    np.testing.assert_allclose(embedded, [[[0.6, 0.8], [0, 1]]], rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [ImplicitSquared(all_pairs_weight=WEIGHT), softmax(same_tower=True)]
)
def test_a_loss_between_single_vectors_is_refused_for_several(loss):
    several = head(query_vectors=2, loss=loss)
    data = planted()
    with pytest.raises(
        UserError,
        match=rf"`heads.best.query_vectors` must be 1 with `heads.best.loss`={type(loss).__name__}"
        r", .*got 2. Set it to 1, or take BPR",
    ):
        several.adapt(data, all_rows(data), name="best", seed=1)


def test_a_query_without_a_vector_is_refused():
    with pytest.raises(UserError, match="`query_vectors` must be at least 1; got 0"):
        head(query_vectors=0)


def test_a_representation_of_zeros_is_embedded_without_nan():
    assert head().embed(tf.zeros((2, 3))).numpy().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_representation_of_zeros_has_a_gradient_like_any_other():
    vectors_ = tf.Variable([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        embedded = head().embed(vectors_)
        total = tf.reduce_sum(embedded[:, 0])

    np.testing.assert_allclose(embedded, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    # Of length 5: (1 - 0.6^2) / 5 and -0.6 * 0.8 / 5.
    gradient = tape.gradient(total, vectors_)
    np.testing.assert_allclose(gradient, [[1, 0], [0.128, -0.096]], rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"log_q_correction": "some"}, "must be all, negatives or null; got some"),
        ({"hardest": 0}, "`hardest` must be at least 1, or null; got 0"),
    ],
)
def test_an_argument_that_a_loss_does_not_know_is_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        softmax(**changed)
