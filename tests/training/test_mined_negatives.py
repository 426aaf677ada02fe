"""Mining finds what the model ranks highest of what a user does not have."""

import numpy as np
import pytest
import tensorflow as tf
from small_batch import asked, batches_of
from small_data import all_rows, planted, with_negatives, written_out
from small_model import implicit_squared, rating, recommender, softmax
from small_negatives import in_batch

from mtrec.data.columns import held
from mtrec.training.mined_negatives import Miner


def mined(data, heads, fit):
    """What a search finds, and the model that it was made with."""
    model = recommender(data, heads, fit=fit)
    batches = batches_of(
        data,
        fit,
        batch_of="users",
        global_batch=8,
        history_share=0.5,
        chronological=False,
        negatives=next(h.negatives for h in heads.values() if h.negatives is not None),
        num_replicas=1,
        seed=0,
    )
    miner = Miner(model, batches, tf.distribute.get_strategy())
    assert not miner.lists.numpy().any()
    miner.search()
    return miner.lists.numpy(), model


def scores_of(model, head, user, history, num_items, *, normalize):
    """The user's scores of the items 1, 2, ..., in NumPy."""
    owners = np.zeros(len(history), np.int32)
    query = model.queries(asked(tf.constant([user]), tf.constant(history), tf.constant(owners)))
    items = model.candidates(tf.range(1, num_items + 1))
    query, items = query[head].numpy()[0].astype(float), items[head].numpy().astype(float)
    if normalize:
        query, items = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, items))
    return items @ query


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
def test_each_user_has_the_best_items_of_those_they_do_not_have(given, normalize):
    data, k = with_negatives(planted()), 4
    fit = all_rows(data)[:300]
    make = softmax if normalize else implicit_squared
    ranks = make(pool=in_batch(mined=k, given=given), dim=6)
    # A rating head has no negatives; of two retrieval heads the first one ranks.
    heads = {"rating": rating(), "retrieval": ranks, "other": softmax(pool=ranks.negatives)}
    lists, model = mined(data, heads, fit)

    columns = {name: values[fit] for name, values in data.interactions.items()}
    assert lists.shape == (41, k)
    assert not lists[0].any()
    for user in range(1, 41):
        own = columns["user"] == user
        history = columns["item"][own][np.argsort(columns["timestamp"][own], kind="stable")]
        assert len(history)
        taken = set(history) | (set(columns["negative"][own]) if given else set())
        scores = scores_of(model, "retrieval", user, history, 30, normalize=normalize)
        expected = [item for item in 1 + np.argsort(-scores) if item not in taken]
        assert lists[user].tolist() == expected[:k]


def test_fewer_items_are_mined_where_the_user_lacks_fewer():
    # User 1 lacks item 4 alone, user 2 nothing, user 3 is not among those to train on.
    rows = [(1, item, 3, 0) for item in (1, 2, 3)] + [(2, item, 3, 0) for item in (1, 2, 3, 4)]
    data = written_out([*rows, (3, 1, 3, 0)])
    data.users["user_id"] = held(["", "u1", "u2", "u3"])
    lists, _ = mined(data, {"retrieval": softmax(pool=in_batch(mined=2))}, np.arange(7))

    assert lists.tolist() == [[0, 0], [4, 0], [0, 0], [0, 0]]
