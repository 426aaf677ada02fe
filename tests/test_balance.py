"""Losses become an objective with the weights they should have."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtrec.balance import Fixed, Uncertainty


def adapted(balancer, **weights):
    balancer.adapt(weights)
    return balancer


def test_fixed_weights_are_multiplied_in():
    balancer = adapted(Fixed(), retrieval=2.0, rating=0.5)
    objective = balancer.combine({"retrieval": tf.constant(3.0), "rating": tf.constant(4.0)}, 1)

    assert objective.numpy() == 8.0
    assert balancer.task_weights()["rating"].numpy() == 0.5
    assert balancer.weights == []


def test_uncertainty_starts_at_the_configured_weights():
    balancer = adapted(Uncertainty(), retrieval=2.0, rating=0.5)
    losses = {"retrieval": tf.constant(3.0), "rating": tf.constant(4.0)}

    # 2 * 3 - log 2 + 0.5 * 4 - log 0.5, whose logs cancel.
    assert balancer.combine(losses, 1).numpy() == pytest.approx(8.0)
    weights = balancer.task_weights()
    assert weights["retrieval"].numpy() == pytest.approx(2.0)
    assert weights["rating"].numpy() == pytest.approx(0.5)


def test_the_gradient_of_a_log_variance_is_one_minus_the_weighted_loss():
    balancer = adapted(Uncertainty(), retrieval=2.0, rating=0.5)
    losses = {"retrieval": tf.constant(3.0), "rating": tf.constant(4.0)}
    with tf.GradientTape() as tape:
        objective = balancer.combine(losses, 1)
    found = tape.gradient(objective, [v.value for v in balancer.trainable_variables])

    assert [float(g) for g in found] == pytest.approx([1 - 6, 1 - 2])


def test_the_shares_of_replicas_add_up_to_the_objective():
    balancer = adapted(Uncertainty(), retrieval=2.0)
    whole = balancer.combine({"retrieval": tf.constant(3.0)}, 1)
    shares = [balancer.combine({"retrieval": tf.constant(part)}, 3) for part in (1.0, 0.5, 1.5)]

    assert sum(shares).numpy() == pytest.approx(whole.numpy())


def test_the_weight_of_a_constant_loss_becomes_its_inverse():
    balancer = adapted(Uncertainty(), retrieval=1.0, rating=1.0)
    losses = {"retrieval": tf.constant(4.0), "rating": tf.constant(0.5)}
    optimizer = keras.optimizers.SGD(0.2)
    variables = balancer.trainable_variables
    for _ in range(200):
        with tf.GradientTape() as tape:
            objective = balancer.combine(losses, 1)
        gradients = tape.gradient(objective, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    weights = balancer.task_weights()
    np.testing.assert_allclose([weights["retrieval"], weights["rating"]], [0.25, 2.0], rtol=1e-3)
