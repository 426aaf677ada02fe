"""Over many pools, each loss weighs every pair of query and negative as if it were there once."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, batches_of
from small_data import all_rows, planted, with_negatives
from small_negatives import in_batch

from mtrec.heads.head import Examples
from mtrec.heads.retrieval_losses import Bpr, ImplicitSquared, Softmax

USERS, ITEMS, MINED = 150, 200, 2


@pytest.fixture(scope="module")
def data():
    """Each user took two thirds of their items, and was shown the others in vain."""
    data = with_negatives(planted(num_users=USERS, num_items=ITEMS, num_interactions=1500))
    return replace(data, taken=np.random.default_rng(2).random(1500) < 2 / 3)


def lists_for(source):
    """Some items for each user of those that may be mined, more often the first ones."""
    rng = np.random.default_rng(1)
    lists = np.zeros((USERS + 1, MINED), np.int32)
    users = np.flatnonzero(np.diff(source.histories.offsets))
    for user, taken in zip(users, source.not_to_mine(users), strict=True):
        free = np.setdiff1d(np.arange(1, ITEMS + 1), taken)
        often = 1 / np.arange(1, len(free) + 1)
        lists[user] = rng.choice(free, MINED, replace=False, p=often / often.sum())
    return lists


def steps(data, *, batch_of, chronological, batch, epochs):
    """Batches of many epochs, and for each kind of negative which pairs are of it, `[Q, C + 1]`."""
    source = batches_of(
        data,
        all_rows(data),
        batch_of=batch_of,
        global_batch=batch,
        history_share=0.6,
        chronological=chronological,
        negatives=in_batch(mined=MINED, given=True),
        num_replicas=1,
        seed=0,
    )
    lists = lists_for(source)
    source.mine(lists)
    columns = data.interactions
    has = np.zeros((USERS + 1, ITEMS + 1), bool)
    if not data.repeats:
        has[columns["user"][data.taken], columns["item"][data.taken]] = True
    # What comes into the pool with some of the user's rows.
    might = np.zeros_like(has)
    might[columns["user"], columns["item"]] = might[columns["user"], columns["negative"]] = True
    given_with = dict(
        zip(
            zip(columns["user"].tolist(), columns["item"].tolist(), strict=True),
            columns["negative"].tolist(),
            strict=True,
        )
    )
    for epoch in range(1, epochs + 1):
        (made,) = source.step(epoch, 0)
        query, rows = made.query.users, made.rows.weight > 0
        free = ~has[query]
        free[:, 0] = False
        mined, given = np.zeros_like(free), np.zeros_like(free)
        mined[np.arange(len(query))[:, np.newaxis], lists[query]] = True
        owner, item = made.rows.query[rows], made.items[made.rows.item[rows]]
        negative = [
            given_with[pair] for pair in zip(query[owner].tolist(), item.tolist(), strict=True)
        ]
        given[owner, negative] = True
        free[owner, item] = False
        mined, given = mined & free, given & free
        rest = free & ~mined & ~given
        spared = rest & might[query]
        yield made, {"mined": mined, "given": given, "spared": spared, "others": rest & ~spared}


def q_beside(data, query):
    """The probability that the other users bring an item, `[Q, C + 1]`; 50 are there."""
    source = batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=50,
        history_share=0.6,
        chronological=False,
        negatives=in_batch(given=True),
        num_replicas=1,
        seed=0,
    )
    columns = data.interactions
    rows = np.zeros((USERS + 1, ITEMS + 1))
    np.add.at(rows, (columns["user"], columns["item"]), 1)
    also = columns["negative"] != columns["item"]
    np.add.at(rows, (columns["user"][also], columns["negative"][also]), 1)
    brings = 1 - 0.6**rows  # each row is a target with 1 - 0.6
    mined = lists_for(source)
    brings[np.arange(USERS + 1)[:, np.newaxis], mined] = 1
    missed = 1 - brings * 50 / len(np.unique(columns["user"]))
    return np.maximum(1 - missed.prod(axis=0) / missed[query], 1e-12)


def weights_of(loss, made, marked):
    """What the marked negatives weigh together, for each query with rows."""
    squared = isinstance(loss, ImplicitSquared)
    # A query's vector is its scores: 1, and next to nothing for all else.
    query = np.where(marked, 1.0, 0.0 if squared else -40.0).astype(np.float32)
    catalogue = np.eye(ITEMS + 1, dtype=np.float32)
    given = Examples(
        query=query,
        item=tf.gather(catalogue, made.items),
        pool=tf.gather(catalogue, made.pool.items),
        batch=as_tensors(made),
    )
    rows = np.flatnonzero(made.rows.kind)
    owner = made.rows.query[rows]
    losses = loss(given, 1.0, local=False).numpy()[rows].astype(np.float64)
    if squared:
        # (1 - 0)^2 for the positive, and a share of the sum for each row of the query.
        found = (losses - 1) * np.bincount(made.rows.query[made.rows.weight > 0])[owner]
    else:
        positive = -40.0 - (made.rows.log_q[rows] if loss.log_q_correction == "all" else 0.0)
        found = np.exp(losses + positive - 1.0)
    _, first = np.unique(owner, return_index=True)
    return owner[first], found[first]


squared = ImplicitSquared(all_pairs_weight=1.0)
all_corrected, negatives_corrected = (
    Softmax(log_q_correction=which, hardest=None, same_tower=False)
    for which in ("all", "negatives")
)


@pytest.mark.parametrize(
    ("loss", "batch_of", "chronological", "batch", "repeats"),
    [
        (squared, "users", False, 50, False),
        (squared, "users", True, 50, False),
        (squared, "users", True, 50, True),
        (squared, "rows", False, 400, False),
        (squared, "rows", True, 400, False),
        (all_corrected, "users", False, 50, False),
        (negatives_corrected, "users", False, 50, False),
    ],
)
def test_one_over_q_counts_every_pair_once(data, loss, batch_of, chronological, batch, repeats):
    data = replace(data, repeats=repeats)
    found, true = dict.fromkeys(("mined", "given", "spared", "others"), 0.0), {}
    how = {"batch_of": batch_of, "chronological": chronological, "batch": batch}
    for made, kinds in steps(data, epochs=30 if batch_of == "users" else 10, **how):
        for kind, marked in kinds.items():
            queries, weights = weights_of(loss, made, marked)
            found[kind] += weights.sum()
            true[kind] = true.get(kind, 0) + marked[queries].sum()
    for kind, count in true.items():
        assert count > 500
        assert found[kind] / count == pytest.approx(1.0, abs=0.03), kind


def test_a_pairwise_loss_weighs_what_was_given_or_mined_once(data):
    loss = Bpr(log_q_correction=True, hardest=None)
    made, kinds = next(steps(data, batch_of="users", chronological=False, batch=50, epochs=1))
    brought = kinds["mined"] | kinds["given"]
    query = np.where(brought, 1.0, 0.0).astype(np.float32)
    catalogue = np.eye(ITEMS + 1, dtype=np.float32)
    given = Examples(
        query=query,
        item=tf.gather(catalogue, made.items),
        pool=tf.gather(catalogue, made.pool.items),
        batch=as_tensors(made),
    )
    losses = loss(given, 1.0, local=False).numpy()
    there = np.isin(np.arange(ITEMS + 1), made.pool.items[made.pool.items > 0])
    chance = there / q_beside(data, made.query.users)
    for row in np.flatnonzero(made.rows.weight):
        q = made.rows.query[row]
        by_chance = (kinds["others"] | kinds["spared"])[q]
        weights = np.where(brought[q], 1.0, np.where(by_chance, chance[q], 0.0))
        # A positive's score is 0: it is behind what was brought by 1, and level with the rest.
        costs = np.log1p(np.exp(np.where(brought[q], 1.0, 0.0)))
        assert losses[row] == pytest.approx((weights * costs).sum() / weights.sum(), rel=1e-5)
