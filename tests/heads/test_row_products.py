"""Products of rows have the gradients of TensorFlow's own, and ask no shape for them."""

import numpy as np
import pytest
import tensorflow as tf

from mtrec.heads import row_products

RNG = np.random.default_rng(0)
ROWS, MORE = (RNG.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
COLUMN = np.float32([[1], [0], [2], [0], [3]])
OURS = {
    "product": (lambda one, other: one * other, ROWS, MORE),
    "dot": (lambda one, other: tf.reduce_sum(one * other, axis=-1), ROWS, MORE),
    "unit": (
        lambda v: v * tf.math.rsqrt(tf.reduce_sum(tf.square(v), axis=-1, keepdims=True)),
        ROWS,
    ),
    "row_sum": (lambda values: tf.reduce_sum(values, axis=-1), ROWS),
    "weighted": (lambda values, weight: values * weight, ROWS, COLUMN),
    "squared_error": (lambda output, truth: tf.square(output - truth), ROWS, COLUMN),
    "masked_sum": (lambda values, mask: tf.reduce_sum(values * mask), ROWS[:, 0], COLUMN[:, 0]),
}
# What is given, and needs no gradient.
GIVEN = ("weighted", "squared_error", "masked_sum")


def found(function, values, *, gathered):
    values = [tf.constant(v) for v in values]
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(*values)
        # The gradient of a gather comes as slices.
        result = tf.gather(result, [0, 2, 2]) if gathered and result.shape.rank else result
        cost = tf.reduce_sum(tf.square(result))
    return result, tape.gradient(cost, values)


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_values_and_gradients_are_those_of_tensorflow(name, gathered):
    plain, *values = OURS[name]
    ours, theirs = (
        found(function, values, gathered=gathered)
        for function in (getattr(row_products, name), plain)
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    for one, other in zip(ours[1][: 1 if name in GIVEN else None], theirs[1], strict=False):
        np.testing.assert_allclose(one, tf.convert_to_tensor(other), rtol=1e-5, atol=1e-6)


def test_what_is_masked_has_no_part_even_where_it_is_not_finite():
    values = tf.constant([1.0, np.inf, np.nan])
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = row_products.masked_sum(values, tf.constant([2.0, 0.0, 0.0]))
    assert total == 2
    np.testing.assert_array_equal(tape.gradient(total, values), [2, 0, 0])


@pytest.mark.parametrize("name", OURS)
def test_no_gradient_asks_a_shape_when_it_runs(name):
    _, *values = OURS[name]
    unknown = [tf.TensorSpec([None, *v.shape[1:]]) for v in values]

    @tf.function(input_signature=unknown)
    def gradients(*values):
        with tf.GradientTape() as tape:
            tape.watch(values[0])
            result = getattr(row_products, name)(*values)
        return tape.gradient(result, values[0], output_gradients=tf.ones_like(result))

    graph = gradients.get_concrete_function().graph
    assert "BroadcastGradientArgs" not in {op.type for op in graph.get_operations()}


def test_a_vector_of_zeros_stays_one_and_takes_its_gradient_as_it_comes():
    vectors = tf.zeros([1, 3])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        scaled = row_products.unit(vectors)
    np.testing.assert_array_equal(scaled, [[0, 0, 0]])
    upstream = tf.constant([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(tape.gradient(scaled, vectors, upstream), upstream)
