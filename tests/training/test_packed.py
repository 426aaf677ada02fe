"""What is packed is what the step unpacks: every field of every step, padded to one length."""

import numpy as np
import pytest
import tensorflow as tf
from small_batch import batches_of
from small_data import all_rows, planted
from small_negatives import negatives

from mtrec.data.inputs import padding
from mtrec.training.packed import pack, unpack

LATE = 3_000_000_000  # beyond the seconds that int32 and float32 tell apart


@pytest.fixture(scope="module")
def steps():
    """Batches of several lengths, the last of which is short."""
    data = planted(num_interactions=9000, num_items=2000)
    data.interactions["timestamp"] = LATE + np.arange(9000)
    made = batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=16,
        history_share=0.7,
        chronological=False,
        negatives=negatives("in_batch"),
        num_replicas=1,
        seed=3,
    )
    return [made.step(1, step)[0] for step in range(3)]


def test_every_step_is_unpacked_as_it_was_and_padded_to_the_longest(steps):
    packed = pack(steps)
    fills = tf.nest.flatten(padding(steps[0]))
    fields = zip(*map(tf.nest.flatten, steps), strict=True)
    lengths = [{len(np.atleast_1d(array)) for array in field} for field in fields]
    assert any(len(each) > 1 for each in lengths)
    for row, step in zip(packed.numbers, steps, strict=True):
        found = unpack(tf.constant(row), tf.constant(packed.sizes), packed.like)
        tf.nest.assert_same_structure(found, step)
        fields = zip(tf.nest.flatten(found), tf.nest.flatten(step), fills, lengths, strict=True)
        for tensor, array, fill, longest in fields:
            assert tensor.dtype == (tf.int64 if array.dtype.kind == "i" else tf.float32)
            if not array.ndim:
                assert tensor.shape == ()
                assert tensor.numpy() == array
                continue
            assert len(tensor) == max(longest)
            np.testing.assert_array_equal(tensor[: len(array)], array)
            np.testing.assert_array_equal(
                tensor[len(array) :], np.full((len(tensor) - len(array), *array.shape[1:]), fill)
            )
    assert found.rows.time.numpy().max() >= LATE


def test_rows_of_several_numbers_are_unpacked_as_rows(steps):
    rng = np.random.default_rng(0)

    def told(step, count):
        labels = {"told": rng.random((count, 3), np.float32)}
        return step._replace(rows=step.rows._replace(labels=labels))

    given = [told(step, count) for step, count in zip(steps, (5, 2, 4), strict=True)]
    packed = pack(given)
    for row, step in zip(packed.numbers, given, strict=True):
        found = unpack(tf.constant(row), tf.constant(packed.sizes), packed.like)
        expected = step.rows.labels["told"]
        assert found.rows.labels["told"].shape == (5, 3)
        np.testing.assert_array_equal(found.rows.labels["told"][: len(expected)], expected)
        assert np.isnan(found.rows.labels["told"][len(expected) :]).all()
