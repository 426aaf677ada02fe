import numpy as np
import pytest
import tensorflow as tf

from mtrec.heads import segments
from mtrec.heads.segments import of_owners, owned_sum

VALUES = np.arange(1.0, 11.0, dtype=np.float32).reshape(5, 2)
WEIGHT = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
# In order, in no order, without an owner in between, of the last owner none, none of all.
OWNERS = [[0, 0, 1, 2, 2], [2, 0, 1, 0, 2], [0, -1, 1, 1, -1], [0, 0, 0, 0, -1], [-1] * 5]


@pytest.fixture(params=[False, True], ids=["on a CPU", "as on a GPU"])
def device(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])


def summed_in_numpy(values, owners, count):
    sums = np.zeros((count, *values.shape[1:]), np.float32)
    for value, owner in zip(values, owners, strict=True):
        if owner >= 0:
            sums[owner] += value
    return sums


@pytest.mark.parametrize("owners", OWNERS)
def test_a_sum_by_owner_and_its_gradient_are_those_of_a_loop_in_numpy(device, owners):
    values = tf.Variable(VALUES)
    with tf.GradientTape() as tape:
        found = tf.function(owned_sum)(values, tf.constant(owners), 4)
        loss = tf.reduce_sum(found * WEIGHT)
    np.testing.assert_array_equal(found, summed_in_numpy(VALUES, owners, 4))
    of_owner = np.concatenate([WEIGHT, np.zeros((1, 2), np.float32)])[owners]
    np.testing.assert_array_equal(tape.gradient(loss, values), of_owner)


@pytest.mark.parametrize("owners", OWNERS)
def test_rows_of_owners_pass_their_gradients_on_to_them_but_for_padding(device, owners):
    values = tf.Variable(WEIGHT)
    given = np.array(owners) >= 0
    with tf.GradientTape() as tape:
        found = tf.function(of_owners)(values, tf.constant(np.maximum(owners, 0)), given)
        loss = tf.reduce_sum(found * VALUES)
    np.testing.assert_array_equal(found, WEIGHT[np.maximum(owners, 0)])
    np.testing.assert_array_equal(tape.gradient(loss, values), summed_in_numpy(VALUES, owners, 4))


def test_nothing_owned_by_nobody_and_rows_of_several_axes_are_summed(device):
    assert owned_sum(tf.zeros([0, 3]), tf.zeros([0], tf.int64), 0).shape == (0, 3)
    assert owned_sum(tf.zeros([2, 3]), tf.constant([-1, -1]), 0).shape == (0, 3)
    cubes = tf.reshape(tf.range(12.0), [3, 2, 2])
    expected = summed_in_numpy(cubes.numpy(), [0, 0, 1], 3)
    np.testing.assert_array_equal(owned_sum(cubes, tf.constant([0, 0, 1]), 3), expected)


def test_only_rows_that_do_not_lie_side_by_side_are_looked_for_one_by_one(monkeypatch):
    asked = []
    plain = tf.math.unsorted_segment_sum
    monkeypatch.setattr(
        segments.tf.math, "unsorted_segment_sum", lambda *args: asked.append(1) or plain(*args)
    )
    owned_sum(tf.constant(VALUES), tf.constant(OWNERS[0]), 3)
    assert not asked
    owned_sum(tf.constant(VALUES), tf.constant(OWNERS[1]), 3)
    assert asked
