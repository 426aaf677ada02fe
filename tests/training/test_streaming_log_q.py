"""The streaming log Q follows how often an item is in the pool."""

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, batches_of, written
from small_data import all_rows, planted
from small_negatives import in_batch

from mtrec.training.streaming_log_q import StreamingLogQ


def estimator(*, num_items=3, rate=0.25, start=4.0):
    return StreamingLogQ(num_items, rate=rate, start=start)


def seen(made, step, *pool):
    """What a step with this pool, padded, estimates of its items: Q by item row."""
    items = np.array([*pool, 0], np.int32)
    batch = written(
        pool_items=items,
        # A target, and an item of its own, of every item of the pool.
        items=items,
        rows_item=np.arange(len(items)),
        own_item=np.arange(len(items))[::-1],
    )
    found = made.estimate(as_tensors(batch), tf.constant(step, tf.int64))
    log_q = found.pool.log_q.numpy()
    assert found.rows.log_q.numpy().tolist() == log_q.tolist()
    assert found.own.log_q.numpy().tolist() == log_q[::-1].tolist()
    assert log_q[-1] == 0  # padding
    return dict(zip(pool, np.exp(log_q[:-1].astype(np.float64)), strict=True))


def test_q_is_one_over_the_moving_average_of_hand_worked_gaps():
    made = estimator()
    # Item 1 in every step, item 2 in the third and the eighth: gaps of 3 and 5.
    one, two = 4.0, 4.0
    for step in range(8):
        pool = [1, 2] if step in (2, 7) else [1]
        found = seen(made, step, *pool)
        one = 0.75 * one + 0.25 * 1
        assert found[1] == pytest.approx(1 / one, rel=1e-5)
        if len(pool) == 2:
            two = 0.75 * two + 0.25 * (3 if step == 2 else 5)
            assert found[2] == pytest.approx(1 / two, rel=1e-5)
    # Item 3 was never there: its first gap counts from the beginning.
    assert seen(made, 19, 3)[3] == pytest.approx(1 / (0.75 * 4 + 0.25 * 20), rel=1e-5)


def test_an_item_that_becomes_popular_is_followed():
    made = estimator(rate=0.2)
    for step in range(9, 400, 10):
        rare = seen(made, step, 1)[1]
    for step in range(400, 440):
        popular = seen(made, step, 1)[1]

    assert rare == pytest.approx(0.1, rel=1e-3)
    assert popular == pytest.approx(1.0, rel=2e-3)


@pytest.fixture(scope="module")
def data():
    return planted(num_users=120, num_items=200, num_interactions=1200)


def batches(data, **changed):
    return batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=20,
        history_share=0.6,
        chronological=False,
        negatives=in_batch(**changed),
        num_replicas=1,
        seed=0,
    )


def test_all_items_start_as_if_they_were_equally_likely(data):
    source = batches(data, log_q_rate=0.1)
    made = StreamingLogQ.of(source)
    (first,) = source.step(1, 0)
    pool = first.pool.items[first.pool.items > 0]
    assert 40 < len(pool) < 100

    # In the first step every gap is 1.
    found = seen(made, 0, *pool)
    expected = 1 / (0.9 * 200 / len(pool) + 0.1)
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5)


def test_the_batches_of_an_exact_log_q_have_no_estimator(data):
    assert StreamingLogQ.of(batches(data)) is None
    assert batches(data).step(1, 0)[0].pool.log_q.any()
    assert not batches(data, log_q_rate=0.1).step(1, 0)[0].pool.log_q.any()


@pytest.mark.parametrize("changed", [{}, {"uniform": 30}])
def test_the_estimate_converges_to_the_exact_log_q_of_a_stationary_stream(data, changed):
    rate, draws = 0.05, 2000
    source = batches(data, **changed)
    made = StreamingLogQ(200, rate=rate, start=3.0)
    estimate = tf.function(lambda batch, step: made.estimate(batch, step).pool.log_q)
    exact, total, times = np.full(201, np.nan), np.zeros(201), np.zeros(201)
    for draw in range(draws):
        # The same batch of each epoch: independent of each other, and never the short one.
        (batch,) = source.step(draw + 1, 1)
        found = estimate(as_tensors(batch), tf.constant(draw, tf.int64)).numpy()
        real = batch.pool.items > 0
        items = batch.pool.items[real]
        exact[items] = batch.pool.log_q[real]
        if draw >= draws // 2:
            total[items] += found[real]
            times[items] += 1
    often = times >= 50
    assert often.sum() > 100
    assert np.exp(exact[often]).min() < 0.2 < 0.75 < np.exp(exact[often]).max()
    difference = total[often] / times[often] - exact[often]
    # Of n gaps, each of relative deviation sqrt(1 - Q), the mean has that over sqrt(n), and the log
    # of a moving average is too high by about rate / 4 (1 - Q), that is by 0.0125 at most.
    q = np.exp(exact[often])
    deviation = np.sqrt((1 - q) / times[often])
    assert (np.abs(difference) < 4 * deviation + 0.02).all()
    assert difference.mean() == pytest.approx(0, abs=0.03)
