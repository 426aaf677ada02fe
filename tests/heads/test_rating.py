"""The rating head by hand."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, pairs_of, written
from small_data import written_out

from mtrec.heads.head import Examples
from mtrec.heads.rating import Rating


def head(data, *, layers=(), l2=0.0, fit=None):
    made = Rating(label="rating", dim=2, members=1, layers=layers, l2=l2)
    rows = len(data.interactions["user"])
    made.adapt(data, np.arange(rows) if fit is None else np.array(fit), name="rating", seed=4)
    return made


@pytest.fixture(scope="module")
def data():
    return written_out([(1, 1, 2, 1), (2, 2, 5, 2), (1, 2, np.nan, 3), (2, 1, 4, 4)])


def biased(made):
    made.start.assign(3.0)
    made.user_bias.embeddings.assign([[0.0], [0.5], [-1.0]])
    made.item_bias.embeddings.assign([[0.0], [0.25], [1.0]])
    return made


def scores(made, query, candidate, users, items):
    """What people are told of pairs."""
    told = made.score_pairs(query, candidate, pairs_of(users, items), name="stars")
    assert list(told) == ["stars"]
    return told["stars"]


def examples(ratings, weights):
    """Users 1 and 2 with rows (1, item 2), (2, item 1), (1, item 1) and one of padding."""
    batch = written(
        query_users=[1, 2],
        items=[1, 2],
        rows_query=[0, 1, 0, 0],
        rows_item=[1, 0, 0, 0],
        rows_labels={"rating": ratings},
        rows_weight=weights,
    )
    return Examples(
        query=tf.constant([[1.0, 2.0], [0.0, 1.0]]),
        item=tf.constant([[0.5, 0.5], [-1.0, 1.0]]),
        pool=tf.zeros((0, 2)),
        batch=as_tensors(batch),
    )


def test_the_mean_starts_at_the_mean_of_the_ratings_to_fit(data):
    assert head(data).start.numpy() == pytest.approx((2 + 5 + 4) / 3)
    assert head(data, fit=[0, 2]).start.numpy() == pytest.approx(2)
    for table in (head(data).user_bias, head(data).item_bias):
        assert table.embeddings.numpy().tolist() == [[0], [0], [0]]


def test_the_loss_is_hand_worked_and_masked(data):
    made = biased(head(data))
    losses, mask = made.losses(examples([5, np.nan, 4, np.nan], [1, 1, 1, 0]))

    # 3 + 0.5 + 1 + (-1 + 2) = 5.5 against 5; 3 + 0.5 + 0.25 + 1.5 = 5.25 against 4.
    assert losses.numpy()[[0, 2]] == pytest.approx([0.5**2, 1.25**2])
    assert mask.numpy().tolist() == [1, 0, 1, 0]
    assert np.isfinite(losses).all()


def test_padding_with_a_rating_is_masked_too(data):
    _, mask = head(data).losses(examples([5, 5, 4, 3], [1, 1, 1, 0]))

    assert mask.numpy().tolist() == [1, 1, 1, 0]


def test_regularisation_is_hand_worked(data):
    plain, _ = biased(head(data)).losses(examples([5, 1, 4, np.nan], [1, 1, 1, 0]))
    losses, _ = biased(head(data, l2=0.1)).losses(examples([5, 1, 4, np.nan], [1, 1, 1, 0]))

    # |p|^2 + |q|^2 + both biases squared: 5 + 2 + 0.25 + 1, 1 + 0.5 + 1 + 0.0625, ...
    expected = [0.825, 0.25625, 0.1 * (5 + 0.5 + 0.25 + 0.0625)]
    np.testing.assert_allclose((losses - plain)[:3], expected, rtol=1e-4)


def test_a_missing_rating_gives_no_gradient(data):
    made = biased(head(data, l2=0.1))
    given = examples([np.nan, 3, np.nan, np.nan], [1, 1, 1, 0])
    variables = [made.user_bias.embeddings.value, made.item_bias.embeddings.value]
    with tf.GradientTape() as tape:
        losses, mask = made.losses(given)
        total = tf.reduce_sum(tf.where(mask > 0, losses * mask, 0.0))
    user, item = (tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, variables))

    # Only the row of user 2 and item 1 counts: 3 - 1 + 0.25 + 0.5 = 2.75 against 3.
    np.testing.assert_allclose(user.ravel(), [0, 0, 2 * (-0.25) + 0.2 * -1.0], atol=1e-5)
    np.testing.assert_allclose(item.ravel(), [0, 2 * (-0.25) + 0.2 * 0.25, 0], atol=1e-5)


def test_the_mlp_reads_both_sides_and_their_product(data):
    made = biased(head(data, layers=[3]))
    first, last = made.mlp
    p, q = np.float32([[1, 2], [0, 1]]), np.float32([[-1, 1], [0.5, 0.5]])
    hidden = np.concatenate([p, q, p * q], axis=1) @ first.kernel.numpy()
    expected = 4.0 + (p * q).sum(axis=1) + (np.maximum(hidden, 0) @ last.kernel.numpy())[:, 0]
    bias = np.float32([[0.5], [0.5]])

    found = made.output(tf.constant(p), tf.constant(q), tf.constant(bias), tf.constant(bias))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    assert first.kernel.shape == (6, 3)
    # The last layer is linear: it may lower the prediction too.
    last.kernel.assign(-10 * np.ones((3, 1)))
    first.kernel.assign(np.ones((6, 3)))
    lowered = made.output(tf.constant(p), tf.constant(q), tf.constant(bias), tf.constant(bias))
    assert lowered.numpy()[1] < 0


def test_members_cost_what_each_would_cost_alone_and_their_mean_is_told(data):
    rng = np.random.default_rng(0)
    query, item = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    three = Rating(label="rating", dim=2, members=3, layers=[], l2=0.1)
    three.adapt(data, np.arange(4), name="rating", seed=4)
    biased(three)
    given = examples([5, 2, 4, np.nan], [1, 1, 1, 0])
    wide = replace(given, query=tf.constant(query, tf.float32), item=tf.constant(item, tf.float32))
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    narrow = [replace(given, query=wide.query[:, part], item=wide.item[:, part]) for part in parts]

    alone = biased(head(data, l2=0.1))
    expected = np.mean([alone.losses(part)[0] for part in narrow], axis=0)
    np.testing.assert_allclose(three.losses(wide)[0][:3], expected[:3], rtol=1e-5)
    one = tf.constant([1, 2])
    told = scores(three, wide.query / 9, wide.item / 9, one, one)
    each = [scores(alone, x.query / 9, x.item / 9, one, one) for x in narrow]
    assert np.all((np.array(each) > 1) & (np.array(each) < 5))
    np.testing.assert_allclose(told, np.mean(each, axis=0), rtol=1e-5)


def test_predictions_for_people_lie_within_the_scale(data):
    made = biased(head(data))
    query, candidate = tf.constant([[9.0, 9.0]] * 3), tf.constant([[9.0, 9], [-9, -9], [0, 0]])
    users, items = tf.constant([1, 2, 1]), tf.constant([2, 1, 1])

    found = scores(made, query, candidate, users, items).numpy()
    assert found.tolist() == [5.0, 1.0, 3.75]


def test_an_unknown_user_and_item_have_no_bias(data):
    made = biased(head(data))
    zeros, unknown = tf.zeros((1, 2)), tf.constant([0])

    assert scores(made, zeros, zeros, unknown, unknown).numpy() == [3.0]
