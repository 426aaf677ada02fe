"""Rows of a log that are alike in every column: copies of each other."""

from collections.abc import Mapping

import numpy as np


def first_copies(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each row the number of the first row that is like it in every column, `[rows]`.

    A missing value (NaN) is like a missing value.

    Args:
        columns: Numbers of `[rows]`; one is `user`.
    """
    count = len(columns["user"])
    first = np.arange(count)
    if not count:
        return first
    values = [_sortable(np.asarray(column)) for column in columns.values()]
    order = np.lexsort(values)  # stable: of rows alike, the first comes first
    new = np.ones(count, bool)
    new[1:] = np.any([v[order[1:]] != v[order[:-1]] for v in values], axis=0)
    starts = np.flatnonzero(new)
    first[order] = order[starts[np.cumsum(new) - 1]]
    return first


def _sortable(column: np.ndarray) -> np.ndarray:
    """Equal numbers for equal values, NaN among them."""
    if column.dtype.kind != "f":
        return column
    # -0 and 0 are one value, and all NaN are.
    plain = np.where(np.isnan(column), np.nan, column + 0.0).astype(np.float64)
    return plain.view(np.int64)
