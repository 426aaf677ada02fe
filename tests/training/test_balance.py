"""Losses become factors as the methods' equations say, computed here by hand and by NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from mtrec.errors import UserError
from mtrec.training.balance import DynamicWeightAverage, Famo, Fixed, RandomWeights, Uncertainty


def adapted(balancer, *, steps_per_epoch=2, seed=0, **weights):
    balancer.adapt(weights or {"a": 1.0, "b": 1.0}, steps_per_epoch=steps_per_epoch, seed=seed)
    return balancer


def steps(balancer, losses):
    """The factors of consecutive steps with these losses."""
    return np.stack(
        [
            balancer.factors(tf.constant(each, tf.float32), None, tf.constant(step, tf.int64))
            for step, each in enumerate(losses)
        ]
    )


def test_fixed_factors_are_one_and_have_no_state():
    balancer = adapted(Fixed(), retrieval=2.0, rating=0.5)

    assert steps(balancer, [[3.0, 4.0]]).tolist() == [[1.0, 1.0]]
    assert balancer.configured.numpy().tolist() == [2.0, 0.5]
    assert balancer.weights == []


def test_uncertainty_starts_at_the_configured_weights():
    assert steps(adapted(Uncertainty(rate=0.1)), [[3.0, 4.0]]).tolist() == [[1.0, 1.0]]


def test_a_log_variance_moves_against_the_slope_of_the_objective_by_its_rate_at_most():
    balancer = adapted(Uncertainty(rate=0.1), a=1.0, b=1.0, c=1.0)
    (log_variances,) = balancer.weights
    log_variances.assign([0.5, -1.0, 0.0])
    losses = tf.constant([3.0, 0.1, 40.0])
    with tf.GradientTape() as tape:
        s = tf.identity(log_variances.value)
        tape.watch(s)
        objective = tf.reduce_sum(tf.exp(-s) * losses + s)
    slope = tape.gradient(objective, s).numpy()
    steps(balancer, [losses])

    expected = np.array([0.5, -1.0, 0.0]) - 0.1 * np.array([slope[0], slope[1], -1.0])
    np.testing.assert_allclose(log_variances.numpy(), expected, rtol=1e-6)


def test_the_factor_of_a_constant_loss_becomes_its_inverse():
    found = steps(adapted(Uncertainty(rate=0.2)), [[4.0, 0.5]] * 100)

    np.testing.assert_allclose(found[-1], [0.25, 2.0], rtol=1e-3)


def test_dwa_looks_at_the_last_two_whole_epochs():
    # Two steps an epoch: means 4 and 2, then 3 and 2, then whatever.
    losses = [[5.0, 2.0], [3.0, 2.0], [3.0, 1.0], [3.0, 3.0], [9.0, 9.0], [9.0, 9.0]]
    found = steps(adapted(DynamicWeightAverage(temperature=2.0)), losses)

    ratio = np.exp(np.array([3 / 4, 2 / 2]) / 2.0)
    assert found[:4].tolist() == [[1.0, 1.0]] * 4
    np.testing.assert_allclose(found[4:], [2 * ratio / ratio.sum()] * 2, rtol=1e-6)


def test_dwa_refuses_a_temperature_that_divides_by_zero():
    with pytest.raises(UserError, match=r"`temperature` must be above 0; got 0"):
        DynamicWeightAverage(temperature=0.0)


def test_random_factors_sum_to_the_number_of_tasks_and_come_again_with_the_seed():
    losses = [[1.0, 1.0]] * 300
    found = steps(adapted(RandomWeights(), seed=1), losses)

    np.testing.assert_allclose(found.sum(1), 2.0, rtol=1e-5)
    np.testing.assert_array_equal(found, steps(adapted(RandomWeights(), seed=1), losses))
    assert not np.array_equal(found, steps(adapted(RandomWeights(), seed=2), losses))
    # log(c_1 / c_2) is the difference of two standard normals.
    difference = np.log(found[:, 0] / found[:, 1])
    assert abs(difference.mean()) < 3 * np.sqrt(2 / 300)
    assert difference.std() == pytest.approx(np.sqrt(2), rel=0.15)


def test_famo_follows_its_algorithm():
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.5, 2.0, size=(6, 3)).astype(np.float32)
    balancer = adapted(Famo(rate=0.3, decay=0.1), a=1.0, b=1.0, c=1.0)
    found = steps(balancer, losses)

    x = np.zeros(3)
    for step, now in enumerate(losses):
        z = np.exp(x) / np.exp(x).sum()
        if step:
            jacobian = np.diag(z) - np.outer(z, z)
            x = x - 0.3 * (jacobian.T @ (np.log(losses[step - 1]) - np.log(now)) + 0.1 * x)
        z = np.exp(x) / np.exp(x).sum()
        np.testing.assert_allclose(found[step], 3 * (z / now) / (z / now).sum(), rtol=1e-5)


def test_famo_gives_more_to_the_task_that_fell_less():
    losses = [[1.0, 1.0], [0.5, 1.0], [0.25, 1.0]]
    shares = steps(adapted(Famo(rate=1.0, decay=0.0)), losses) * losses

    assert (np.diff(shares[:, 1] / shares[:, 0]) > 0).all()
