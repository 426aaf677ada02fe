"""Encoding in chunks takes the steps of the whole batch."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, asked, batches_of, with_fields
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import rating, recommender, softmax
from small_negatives import negatives

from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.errors import UserError
from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.training.balance import Fixed
from mtrec.training.gradient_balance import PCGrad
from mtrec.training.gradient_cache import GradientCache, encode
from mtrec.training.optimizers import LazyAdam
from mtrec.training.packed import pack
from mtrec.training.step import Optimizers, Step

STEPS = 4


def batched(data):
    return batches_of(
        data,
        all_rows(data),
        batch_of="users",
        # 40 users: the last batch of an epoch is half padding.
        global_batch=16,
        history_share=0.6,
        chronological=False,
        negatives=negatives("in_batch"),
        num_replicas=1,
        seed=3,
    )


def trained(encode_at_once, *, balancer=Fixed, observe=False, **how):
    """Losses, weights and telemetry of a few steps from the same start."""
    data = planted()
    heads = {"softmax": softmax(), "rating": rating(layers=[5])}
    model, batches, balancer = recommender(data, heads, **how), batched(data), balancer()
    balancer.adapt({"softmax": 1.0, "rating": 0.2}, steps_per_epoch=3, seed=0)
    optimizers = Optimizers(
        tables=LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-3),
        dense=keras.optimizers.Adam(0.01, epsilon=1e-3),
    )
    strategy = tf.distribute.get_strategy()
    step = Step(model, balancer, optimizers, strategy, encode_at_once=encode_at_once)
    assert (step.cache is None) == (encode_at_once is None)
    places = [divmod(k, batches.steps_per_epoch) for k in range(STEPS)]
    taken = [step({0: pack(batches.step(epoch + 1, k))}, observe=observe) for epoch, k in places]
    return {
        "losses": np.concatenate([each.losses for each in taken]),
        "weights": np.concatenate([each.weights for each in taken]),
        **{f"{k} {v.path}": v.numpy() for k, v in enumerate(model.weights)},
        **{name: np.asarray(value) for name, value in taken[-1].telemetry.items()},
    }


@pytest.fixture(scope="module")
def whole():
    return trained(None, pooling="transformer", dropout=0.5)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("at_once", [5, 8])
def test_chunks_take_the_steps_of_the_whole_batch_whether_or_not_they_divide_it(whole, at_once):
    assert_close(trained(at_once, pooling="transformer", dropout=0.5), whole)
    assert np.abs(whole["losses"][0] - whole["losses"][-1]).min() > 1e-3


def test_tasks_are_balanced_by_the_gradients_of_the_whole_batch():
    one, other = (trained(n, balancer=PCGrad, observe=True) for n in (None, 5))
    assert_close(other, one)
    assert one["gradient/softmax/rating/cosine"] != 0


@pytest.mark.parametrize("scheme", ["mmoe", "ple", "stem"])
@pytest.mark.parametrize("at_once", [7, 1000])
def test_a_task_reaches_the_weights_that_it_reaches_in_the_whole_batch(scheme, at_once):
    data = planted()
    model = recommender(data, {"softmax": softmax(), "rating": rating()}, scheme=scheme)
    (batch,) = batched(data).step(1, 0)
    # Without most of the padding: outside a compiled function a chunk takes long.
    few = {"items": batch.items[:40], "pool_items": batch.pool.items[:40]}
    batch = as_tensors(with_fields(batch, **few))
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        encoded = encode(model, batch)
        upstream = {
            side: {"softmax": tf.random.stateless_normal(of["softmax"].shape, [3, place])}
            for place, (side, of) in enumerate(encoded.items())
        }
        target = tf.add_n(
            [
                tf.reduce_sum(encoded[side]["softmax"] * of["softmax"])
                for side, of in upstream.items()
            ]
        )
    expected = tape.gradient(target, variables)
    given = {side: {**of, "rating": None} for side, of in upstream.items()}
    cache = GradientCache(model, at_once=at_once)
    (found,) = cache.gradients(batch, variables, [([None] * len(variables), given)])

    assert [type(g) for g in found] == [type(g) for g in expected]
    assert {type(g) for g in found} == {type(None), tf.IndexedSlices, type(target)}
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            np.testing.assert_allclose(*map(tf.convert_to_tensor, (one, other)), atol=1e-4)


def test_sharded_tables_are_refused():
    # One replica never shards a table: only what the variable is counts here.
    sharded = object.__new__(ShardedVariable)
    model = SimpleNamespace(
        query=SimpleNamespace(trainable_variables=[]),
        candidate=SimpleNamespace(trainable_variables=[sharded]),
    )
    with pytest.raises(UserError, match=r"`encode_at_once` must be null where .* got 8\. Set"):
        GradientCache(model, at_once=8)


def test_labelled_histories_are_encoded_in_chunks(monkeypatch):
    config = config_of(*SMALL)
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    assert model.reads == ["rating"]
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    (batch,) = batches.step(1, 0)
    batch = as_tensors(batch)
    table = model.query.labelled["rating"]["rated"].table.embeddings
    table.assign(tf.random.stateless_normal(table.shape, [1, 2]))
    queries, sizes = model.queries, []

    def counted(inputs):
        sizes.append(len(inputs.users))
        return queries(inputs)

    with monkeypatch.context() as patched:
        patched.setattr(model, "queries", counted)
        found = GradientCache(model, at_once=7).encode(batch)
    assert max(sizes) == 7
    assert sum(sizes) == len(batch.query.users)
    owners = batch.query.history.owners.numpy()
    for place in (0, 6, 7, 19):
        mine = owners == place
        entries = tf.gather(batch.items, batch.query.history.places[mine])
        labels = {"rating": batch.query.history.labels["rating"][mine]}
        users, draw = (v[place : place + 1] for v in (batch.query.users, batch.query.draw))
        alone = model.queries(
            asked(users, entries, tf.zeros_like(entries), labels=labels, draw=draw)
        )
        for head, expected in alone.items():
            np.testing.assert_allclose(found["query"][head][place], expected[0], atol=1e-5)
