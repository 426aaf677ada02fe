"""The Pareto front and its hypervolume against areas counted on squared paper."""

import numpy as np
import pytest

from mtrec.reports.pareto import front, hypervolume

# Three steps of a staircase, one point below it, one that equals a step in x alone.
POINTS = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.5, 1.5], [2.0, 1.0]])


def test_the_front_holds_what_nothing_beats_in_both():
    assert front(POINTS).tolist() == [True, True, True, False, False]


def test_equal_points_are_both_on_the_front():
    assert front(np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 2.0], [1.0, 0.5]])).tolist() == [
        *(True, True, True, False)
    ]


def test_a_single_point_is_the_front():
    assert front(np.array([[0.0, 0.0]])).tolist() == [True]


def test_the_hypervolume_is_the_area_under_the_staircase():
    # Columns of width 1 and heights 3, 2, 1.
    assert hypervolume(POINTS, np.array([0.0, 0.0])) == pytest.approx(6.0)
    # Seen from (1, 1) only (2, 2) is better in both.
    assert hypervolume(POINTS, np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert hypervolume(POINTS, np.array([-1.0, 0.5])) == pytest.approx(2 * 2.5 + 1.5 + 0.5)


def test_points_no_better_than_the_reference_add_nothing():
    assert hypervolume(POINTS, np.array([3.0, 0.0])) == 0.0
    below = np.vstack([POINTS, [[-5.0, 9.0], [9.0, -5.0]]])
    assert hypervolume(below, np.array([0.0, 0.0])) == pytest.approx(6.0)


def test_the_hypervolume_is_the_share_of_random_darts_that_are_dominated():
    rng = np.random.default_rng(0)
    points, darts = rng.random((12, 2)), rng.random((200_000, 2))
    dominated = (darts[:, None, :] < points[None, :, :]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, np.zeros(2)) == pytest.approx(dominated, abs=0.005)
    assert hypervolume(points[front(points)], np.zeros(2)) == hypervolume(points, np.zeros(2))
