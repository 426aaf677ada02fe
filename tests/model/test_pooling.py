"""Poolings agree with NumPy, one query after the other, and see order where they should."""

import numpy as np
import pytest
import tensorflow as tf

from mtrec.errors import UserError
from mtrec.model.pooling import Attention, Mean, Sqrtn, Transformer

D = 6
# Three queries with items, one without, and padding.
OWNERS = np.array([0, 0, 0, 1, 3, 3, 3, 3, 3, -1, -1], np.int32)
QUERIES = 5
LENGTH = 3


def vectors(seed=0):
    return np.random.default_rng(seed).normal(size=(len(OWNERS), D)).astype(np.float32)


def attention(**changed):
    return Attention(**{"heads": 2, "hidden": 5, **changed})


def transformer(**changed):
    return Transformer(**{"length": LENGTH, "layers": 2, "heads": 3, "hidden": 7, **changed})


def created(pooling, *, name="side_history", dim=D, seed=1):
    pooling.create(name=name, dim=dim, seed=seed)
    return pooling


def shuffled(pooling):
    """The pooling with random weights, so that each of them shows."""
    rng = np.random.default_rng(2)
    for weight in created(pooling).weights:
        weight.assign(rng.normal(size=weight.shape))
    return pooling


def pooled(pooling, items, owners=OWNERS):
    return pooling(tf.constant(items), tf.constant(owners), tf.constant(QUERIES)).numpy()


def weights_of(pooling):
    return {w.path.split("side_history_")[-1]: w.numpy().astype(float) for w in pooling.weights}


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attended(pooling, items):
    """What `Attention` makes of one query's items `[n, D]`."""
    w = weights_of(pooling)
    scores = np.tanh(items @ w["inner/kernel"] + w["inner/bias"]) @ w["outer/kernel"]
    weights = softmax(scores.T)  # [heads, n]
    parts = np.split(items, pooling.heads, axis=1)
    return np.concatenate(
        [a @ part / np.sqrt((a**2).sum()) for a, part in zip(weights, parts, strict=True)]
    )


def transformed(pooling, items):
    """What `Transformer` makes of one query's items `[n, D]`, without padding or a mask."""
    w = weights_of(pooling)
    states = items[::-1][: pooling.length] + w["positions"][: len(items)]

    def normed(states, block, which):
        centred = states - states.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
        return scaled * w[f"{block}_norm_{which}/gamma"] + w[f"{block}_norm_{which}/beta"]

    for block in range(pooling.num_blocks):
        seen = normed(states, block, "attention")
        queries, keys, values = (
            np.split(seen @ w[f"{block}_{part}/kernel"], pooling.heads, axis=1)
            for part in ("queries", "keys", "values")
        )
        attention_scale, feed_forward_scale = w[f"{block}/scales"]
        mixed = [
            softmax(q @ k.T / np.sqrt(D / pooling.heads)) @ v
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
        mixed = np.concatenate(mixed, axis=1) @ w[f"{block}_output/kernel"]
        states = states + attention_scale * (mixed + w[f"{block}_output/bias"])
        hidden = normed(states, block, "feed_forward") @ w[f"{block}_up/kernel"]
        hidden = np.maximum(hidden + w[f"{block}_up/bias"], 0)
        hidden = hidden @ w[f"{block}_down/kernel"] + w[f"{block}_down/bias"]
        states = states + feed_forward_scale * hidden
    return states.sum(axis=0) / np.sqrt(len(states))


def one_by_one(pooling, items, pool):
    """What `pool` makes of each query's items, and the learnt vector where there are none."""
    mine = [items[query == OWNERS].astype(float) for query in range(QUERIES)]
    return np.stack([pool(own) if len(own) else pooling.nothing.numpy() for own in mine])


def test_mean_and_the_root_of_the_count():
    items = np.float32([[1, 0], [3, 2], [5, 5], [7, 7]])
    owners = np.int32([0, 0, 2, -1])  # the last is padding, and query 1 has none
    mean, root = (pooled(created(make(), dim=2), items, owners) for make in (Mean, Sqrtn))

    np.testing.assert_allclose(mean[:3], [[2, 1], [0, 0], [5, 5]])
    np.testing.assert_allclose(root[:3], [[4 / 2**0.5, 2 / 2**0.5], [0, 0], [5, 5]], rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_weighs_a_query_s_own_items(heads):
    pooling = shuffled(attention(heads=heads))
    found = pooled(pooling, vectors())

    expected = one_by_one(pooling, vectors(), lambda own: attended(pooling, own))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_transformer_reads_the_last_items_with_their_places(layers):
    pooling = shuffled(transformer(layers=layers))
    found = pooled(pooling, vectors())

    expected = one_by_one(pooling, vectors(), lambda own: transformed(pooling, own))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_scores_far_apart_stay_finite():
    pooling = shuffled(attention())
    pooling.outer.kernel.assign(pooling.outer.kernel * 1e4)
    found = pooled(pooling, vectors())

    assert np.isfinite(found).all()
    # All weight lies on one item, whose part is taken as it is.
    own = vectors()[OWNERS == 3]
    for part in (slice(0, 3), slice(3, 6)):
        assert (np.abs(own[:, part] - found[3, part]).max(axis=1) < 1e-5).sum() == 1


@pytest.mark.parametrize(("make", "blind"), [(attention, True), (transformer, False)])
def test_order_counts_for_a_transformer_alone(make, blind):
    pooling, items = shuffled(make()), vectors()
    turned = items.copy()
    turned[4:9] = items[4:9][[0, 1, 4, 3, 2]]  # the last three of query 3, the other way round
    one, other = pooled(pooling, items), pooled(pooling, turned)

    assert np.allclose(one[3], other[3], rtol=1e-4, atol=1e-5) == blind
    np.testing.assert_allclose(one[:3], other[:3], rtol=1e-6)


def test_items_before_the_last_are_ignored():
    pooling, items = shuffled(transformer()), vectors()
    other = items.copy()
    other[4:6] += 1.0  # query 3 has five items, of which the last three count

    np.testing.assert_array_equal(pooled(pooling, other), pooled(pooling, items))
    other[6] += 1.0
    assert (pooled(pooling, other)[3] != pooled(pooling, items)[3]).any()


@pytest.mark.parametrize("make", [attention, transformer])
def test_padding_and_other_queries_change_nothing(make):
    pooling, items = shuffled(make()), vectors()
    mine = OWNERS == 3
    alone = pooled(pooling, items[mine], OWNERS[mine])
    items[~mine] = 1e3

    np.testing.assert_allclose(alone[3], pooled(pooling, items)[3], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(alone[[0, 1, 2, 4]], [pooling.nothing.numpy()] * 4)


@pytest.mark.parametrize("make", [Mean, Sqrtn, attention, transformer])
def test_no_items_at_all_are_a_vector_that_is_learnt_and_starts_from_zeros(make):
    pooling = created(make())
    none = np.zeros((0, D), np.float32), np.zeros(0, np.int32)
    np.testing.assert_array_equal(pooled(pooling, *none), np.zeros((QUERIES, D)))

    pooling.nothing.assign(np.arange(D))
    np.testing.assert_array_equal(pooled(pooling, *none), [np.arange(D)] * QUERIES)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(
            pooling(tf.constant(vectors()), tf.constant(OWNERS), tf.constant(QUERIES))
        )
    # Queries 2 and 4 alone have no items.
    np.testing.assert_array_equal(tape.gradient(total, pooling.nothing.value), [2.0] * D)


@pytest.mark.parametrize("make", [attention, transformer])
def test_gradients_are_finite_and_none_reaches_padding(make):
    pooling, items = shuffled(make()), tf.constant(vectors())
    with tf.GradientTape() as tape:
        tape.watch(items)
        found = pooling(items, tf.constant(OWNERS), tf.constant(QUERIES))
        total = tf.reduce_sum(found * tf.constant(vectors(3)[:QUERIES]))
    gradients = tape.gradient(total, [items, *(w.value for w in pooling.weights)])
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]

    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert all(np.any(gradient) for gradient in gradients)
    reached = np.any(gradients[0], axis=1)
    ignored = [4, 5] if make is transformer else []  # before the last three of query 3
    assert np.flatnonzero(~reached).tolist() == [*ignored, 9, 10]


@pytest.mark.parametrize("make", [attention, lambda: transformer(length=5)])
def test_the_start_is_the_sum_over_the_root_of_the_count(make):
    found = pooled(created(make()), vectors())

    np.testing.assert_allclose(found, pooled(created(Sqrtn()), vectors()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [attention, transformer])
def test_weights_start_from_the_seed_and_their_name_alone(make):
    pooling = make()
    twin = pooling.twin()
    one, same = created(pooling), created(make())
    others = created(twin, name="side_other"), created(make(), seed=2)

    for weight, again, *different in zip(*(p.weights for p in (one, same, *others)), strict=True):
        np.testing.assert_array_equal(weight.numpy(), again.numpy())
        if np.ptp(weight.numpy()):  # neither zeros nor ones
            assert all((weight.numpy() != other.numpy()).all() for other in different)
    kernels = [w.numpy().tobytes() for w in one.weights if np.ptp(w.numpy())]
    assert len(set(kernels)) == len(kernels) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: attention(heads=0), "`heads` must be at least 1; got 0"),
        (lambda: attention(hidden=0), "`hidden` must be at least 1; got 0"),
        (lambda: transformer(length=0), "`length` must be at least 1; got 0"),
        (lambda: created(attention(heads=4)), r"must divide the width of the tower \(6\); got 4"),
        (lambda: created(transformer(heads=4)), r"must divide the width of the tower \(6\); got 4"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
