"""Distinct item rows and their places against NumPy's own."""

import numpy as np

from mtrec.data.marks import Marks, Places, ascending, is_among


def test_items_are_numbered_as_by_numpy_however_often_marks_were_used():
    rng = np.random.default_rng(0)
    marks = Marks(2001)
    for size in (0, 1, 30, 400):  # of 2,001 rows, the marks of all are gone through for 32 or more
        items = rng.integers(0, 51, size).astype(np.int32)
        expected, position = np.unique(items, return_inverse=True)
        assert marks.count(items) == len(expected)
        np.testing.assert_array_equal(marks.ascending(items), expected)
        found, place = marks.numbered(items)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(place, position)
        np.testing.assert_array_equal(ascending(items), expected)


def test_places_are_those_of_the_pool_that_is_asked_about():
    places = Places(10)
    one, other = np.array([2, 5, 9], np.int32), np.array([5], np.int32)
    assert places.of(one, np.array([9, 3, 2])).tolist() == [2, -1, 0]
    assert places.of(other, np.array([9, 5, 2])).tolist() == [-1, 0, -1]
    assert places.of(one, np.array([5, 5])).tolist() == [1, 1]


def test_values_are_among_others_as_by_numpy():
    rng = np.random.default_rng(0)
    for many, others in ((0, 5), (5, 0), (50, 300), (300, 50)):
        values, known = (rng.integers(0, 1 << 40, 60)[rng.integers(0, 60, n)] for n in (many, 60))
        known = known[:others]
        np.testing.assert_array_equal(is_among(values, known), np.isin(values, known))
        mixed = np.concatenate([values, known])
        np.testing.assert_array_equal(is_among(mixed, known), np.isin(mixed, known))
