"""Cross layers against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from small_data import all_rows, planted

from mtrec.errors import UserError
from mtrec.heads.cross import Cross
from mtrec.heads.rating import Rating

rng = np.random.default_rng(0)
P, Q = (np.float32(rng.normal(size=(5, 6))) for _ in range(2))


def cross(*, depth=2, dim=2, members=3, seed=4):
    made = Cross(depth=depth, dim=dim, members=members, name="rating", seed=seed)
    for bias in made.biases:
        bias.assign(rng.normal(size=bias.shape))
    return made


def test_it_is_the_formula_of_the_paper_for_each_member():
    made = cross()
    found = made(tf.constant(P), tf.constant(Q)).numpy()

    for member in range(3):
        own = slice(2 * member, 2 * member + 2)
        first = crossed = np.concatenate([P[:, own], Q[:, own]], axis=1)
        for kernel, bias in zip(made.kernels, made.biases, strict=True):
            read = crossed @ kernel.numpy()[member] + bias.numpy()[member]
            crossed = first * read + crossed
        expected = crossed @ made.unit.numpy()[member, :, 0]
        np.testing.assert_allclose(found[:, member], expected, rtol=1e-4, atol=1e-5)


def test_members_read_their_own_factors_and_move_their_own_weights():
    made, p, q = cross(), tf.constant(P), tf.constant(Q)
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        second = made(p, q)[:, 1]
    of_p, of_q, *of_weights = tape.gradient(second, [p, q, *(w.value for w in made.weights)])

    for gradient in (of_p.numpy(), of_q.numpy()):
        assert np.all(gradient[:, 2:4] != 0)
        assert not gradient[:, :2].any()
        assert not gradient[:, 4:].any()
    assert len(of_weights) == 5
    for gradient in of_weights:
        assert gradient[1].numpy().any()
        assert not gradient[0].numpy().any()
        assert not gradient[2].numpy().any()


def test_each_member_starts_as_a_matrix_of_its_width_does():
    made = cross(dim=20)
    for kernel in made.kernels:
        limit = np.sqrt(6 / (40 + 40))
        largest = np.abs(kernel.numpy()).max(axis=(1, 2))
        np.testing.assert_allclose(largest, limit, rtol=0.01)
        assert len(np.unique(kernel.numpy()[:, 0, 0])) == 3
    again = cross(dim=20)
    np.testing.assert_array_equal(again.kernels[1], made.kernels[1])
    assert np.all(cross(dim=20, seed=5).kernels[1].numpy() != made.kernels[1].numpy())


def head(*, layers=(), **changed):
    made = Rating(label="rating", dim=2, members=3, layers=layers, l2=0.0, **changed)
    data = planted()
    made.adapt(data, all_rows(data), name="rating", seed=4)
    return made


@pytest.mark.parametrize("layers", [[], [3]])
def test_a_head_adds_it_to_what_it_says_without(layers):
    plain, crossed = head(layers=layers), head(layers=layers, cross=2)
    p, q, bias = tf.constant(P), tf.constant(Q), tf.fill([5, 1], 0.5)

    more = crossed.output(p, q, bias, bias) - plain.output(p, q, bias, bias)
    np.testing.assert_allclose(more, crossed.cross(p, q), rtol=1e-4, atol=1e-5)
    assert plain.cross is None
    assert len(crossed.weights) == len(plain.weights) + 5


def test_a_negative_number_of_layers_is_refused():
    with pytest.raises(UserError, match=r"`cross` must be at least 0; got -1\."):
        head(cross=-1)
