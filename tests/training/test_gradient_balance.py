"""Methods over gradients, against hand-worked pairs of tasks and solutions in NumPy and SciPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize

from mtrec.errors import UserError
from mtrec.training.gradient_balance import (
    CAGrad,
    GradNorm,
    ImtlG,
    MetaBalance,
    PCGrad,
    gram_matrix,
    weighted_sum,
)


def factors(balancer, gradients, *, losses=None, step=0):
    """Factors for gradients given as rows `[T, P]`."""
    gradients = np.asarray(gradients, np.float64)
    losses = np.ones(len(gradients)) if losses is None else losses
    return balancer.factors(
        tf.constant(losses, tf.float32),
        tf.constant(gradients @ gradients.T, tf.float32),
        tf.constant(step, tf.int64),
    ).numpy()


def adapted(balancer, tasks="ab"):
    balancer.adapt(dict.fromkeys(tasks, 1.0), steps_per_epoch=5, seed=0)
    return balancer


def random_gradients(tasks, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((tasks, 8)) * rng.uniform(0.2, 3.0, size=(tasks, 1))


def test_pcgrad_removes_what_two_gradients_have_against_each_other():
    # g_a = (1, 0), g_b = (-1, 1): a loses (1/2)(-1, 1)·(-1) of b, b loses its (-1, 0) along a.
    gradients = np.array([[1.0, 0.0], [-1.0, 1.0]])

    step = factors(adapted(PCGrad()), gradients) @ gradients
    np.testing.assert_allclose(step, [0.5, 0.5 + 1.0], atol=1e-6)


def test_pcgrad_adds_up_gradients_that_agree():
    assert factors(adapted(PCGrad()), [[1.0, 0.0], [1.0, 2.0]]).tolist() == [1.0, 1.0]


def test_pcgrad_of_three_tasks_is_one_of_the_orders_of_its_algorithm():
    gradients = np.array([[1.0, 0.0], [-1.0, 0.5], [-0.8, -1.0]])
    outcomes = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=3):
        total = np.zeros(2)
        for task, order in enumerate(orders):
            own = gradients[task].copy()
            for other in order:
                if other != task and own @ gradients[other] < 0:
                    own -= (
                        own @ gradients[other] / (gradients[other] @ gradients[other])
                    ) * gradients[other]
            total += own
        outcomes.append(total)
    found = [
        factors(adapted(PCGrad(), "abc"), gradients, step=step) @ gradients for step in range(20)
    ]

    for step in found:
        assert min(np.abs(step - outcome).max() for outcome in outcomes) < 1e-5
    assert len({tuple(np.round(step, 4)) for step in found}) > 1


@pytest.mark.parametrize(("tasks", "seed"), [(2, 0), (2, 1), (2, 2), (3, 0), (4, 1)])
def test_cagrad_finds_the_least_point_of_its_objective(tasks, seed):
    gradients = random_gradients(tasks, seed)
    mean = gradients.mean(0)
    reach = 0.5 * np.linalg.norm(mean)

    def objective(shares):
        return shares @ gradients @ mean + reach * np.linalg.norm(shares @ gradients)

    least = min(
        (
            minimize(
                objective,
                start,
                bounds=[(0, 1)] * tasks,
                constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
                options={"ftol": 1e-14, "maxiter": 500},
            )
            for start in (np.full(tasks, 1 / tasks), *np.eye(tasks) * 0.9 + 0.1 / tasks)
        ),
        key=lambda found: found.fun,
    ).x
    direction = least @ gradients
    expected = tasks * (mean + reach * direction / np.linalg.norm(direction))
    step = factors(adapted(CAGrad(radius=0.5), "abcd"[:tasks]), gradients) @ gradients

    np.testing.assert_allclose(step, expected, atol=2e-3 * np.linalg.norm(expected))
    # The improvement of the worst task, which is what the shares are chosen for.
    worst = (gradients @ step).min()
    assert worst >= (gradients @ expected).min() - 1e-4 * abs(worst)


def test_cagrad_of_two_perpendicular_gradients_of_equal_length_is_along_their_mean():
    # g_w = g_0 by symmetry: the step is (1 + c) g_0, times two tasks.
    gradients = np.eye(2)

    step = factors(adapted(CAGrad(radius=0.5)), gradients) @ gradients
    np.testing.assert_allclose(step, 2 * 1.5 * np.array([0.5, 0.5]), rtol=1e-5)


def test_cagrad_without_reach_is_the_plain_sum():
    np.testing.assert_allclose(
        factors(adapted(CAGrad(radius=0.0)), random_gradients(2, 3)), [1.0, 1.0], rtol=1e-5
    )


def test_cagrad_refuses_a_radius_of_one():
    with pytest.raises(UserError, match="`radius` must be at least 0 and below 1; got 1"):
        CAGrad(radius=1.0)


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_imtl_projects_equally_on_all_gradients(tasks):
    gradients = random_gradients(tasks, seed=1)
    found = factors(adapted(ImtlG(), "abcd"[:tasks]), gradients)
    # The closed form of the paper.
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    d, u = gradients[0] - gradients[1:], unit[0] - unit[1:]
    rest = gradients[0] @ u.T @ np.linalg.inv(d @ u.T)

    np.testing.assert_allclose(found, tasks * np.array([1 - rest.sum(), *rest]), rtol=1e-4)
    projections = unit @ (found @ gradients)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-3)


@pytest.mark.parametrize("other", [[2.0, 0.0], [-2.0, 0.0]])
def test_imtl_of_equal_and_of_opposed_directions_weighs_by_inverse_lengths(other):
    found = factors(adapted(ImtlG()), [[1.0, 0.0], other])
    np.testing.assert_allclose(found, [4 / 3, 2 / 3], rtol=1e-4)


def test_gradnorm_moves_towards_equal_lengths_as_worked_by_hand():
    # Lengths 3 and 1, no task has fallen: a is above the mean of 2, b below it.
    balancer = adapted(GradNorm(alpha=1.5, rate=0.1))
    found = factors(balancer, [[3.0, 0.0], [0.0, 1.0]])

    moved = np.array([1 - 0.1 * 3 / 2, 1 + 0.1 * 1 / 2])
    np.testing.assert_allclose(found, 2 * moved / moved.sum(), rtol=1e-6)


def test_gradnorm_gives_more_to_the_task_that_fell_less():
    balancer = adapted(GradNorm(alpha=1.0, rate=0.1))
    gradients = [[1.0, 0.0], [0.0, 1.0]]
    factors(balancer, gradients, losses=[1.0, 1.0])
    found = factors(balancer, gradients, losses=[0.5, 1.0], step=1)

    assert found[1] > found[0]
    assert found.sum() == pytest.approx(2.0)


def test_metabalance_brings_lengths_near_the_main_task_s():
    balancer = adapted(MetaBalance(main="a", relax=0.7, decay=0.9))
    first = factors(balancer, [[3.0, 0.0], [0.0, 1.0]])
    second = factors(balancer, [[1.0, 0.0], [0.0, 2.0]], step=1)

    np.testing.assert_allclose(first, [1.0, 0.7 * 3 / 1 + 0.3], rtol=1e-6)
    # Moving averages: 0.9 * 3 + 0.1 * 1 and 0.9 * 1 + 0.1 * 2.
    np.testing.assert_allclose(second, [1.0, 0.7 * 2.8 / 1.1 + 0.3], rtol=1e-6)


def test_metabalance_refuses_a_main_task_that_is_not_there():
    with pytest.raises(UserError, match=r"`main` must be one of a, b; got rating"):
        adapted(MetaBalance(main="rating", relax=0.7, decay=0.9))


def sparse(rows, values):
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), dense_shape=[1_000_000, 2])


def test_inner_products_count_repeated_rows_once_and_leave_out_what_one_task_owns():
    a = [sparse([7, 3, 7], [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), tf.constant([[1.0, 2.0]]), None]
    b = [sparse([7, 9], [[1.0, 1.0], [5.0, 5.0]]), None, tf.constant([4.0])]
    # a: row 7 is (2, 1), row 3 is (0, 2); b: row 7 is (1, 1), row 9 is (5, 5). The rest is owned.
    np.testing.assert_allclose(gram_matrix([a, b], [False] * 3), [[4 + 1 + 4, 2 + 1], [3, 2 + 50]])


def test_inner_products_of_dense_parameters_take_a_missing_gradient_as_zero():
    a = [tf.constant([1.0, 2.0]), tf.constant([[3.0]])]
    b = [tf.constant([2.0, -1.0]), tf.constant([[1.0]])]
    c = [None, tf.constant([[2.0]])]
    expected = np.array([[14.0, 3.0, 6.0], [3.0, 6.0, 2.0], [6.0, 2.0, 4.0]])
    np.testing.assert_allclose(gram_matrix([a, b, c], [False] * 2), expected)


def test_one_task_shares_everything_with_itself():
    np.testing.assert_allclose(gram_matrix([[tf.constant([3.0, 4.0])]], [False]), [[25.0]])


def test_a_weighted_sum_stays_sparse_and_leaves_an_owned_gradient_alone():
    both = weighted_sum(
        [sparse([1], [[1.0, 1.0]]), sparse([1], [[2.0, 0.0]])], tf.constant([2.0, 3.0])
    )
    own = tf.constant([1.0])

    assert both.indices.numpy().tolist() == [1, 1]
    assert both.values.numpy().tolist() == [[2.0, 2.0], [6.0, 0.0]]
    assert weighted_sum([own, None], tf.constant([2.0, 3.0])) is own
    assert weighted_sum([None, None], tf.constant([2.0, 3.0])) is None
