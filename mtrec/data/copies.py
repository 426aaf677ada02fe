"""Rows of a log that are alike in every column: copies of each other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from mtrec.data.room import Room, parts


def first_copies(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each row the number of the first row that is like it in every column, `[rows]`.

    A missing value (NaN) is like a missing value. Rows that are sorted by user are compared some
    users at a time.

    Args:
        columns: Numbers of `[rows]`; one is `user`.
    """
    columns = {name: np.asarray(column) for name, column in columns.items()}
    user = columns["user"]
    first = Room(np.int64, like=user)
    for part in _whole_users(user):
        first.append(part.start + _first_copies([column[part] for column in columns.values()]))
    return first.array()


def _whole_users(user: np.ndarray) -> Iterator[slice]:
    """All rows in consecutive parts with all rows of their users; in one, if they are unsorted."""
    edges = [0, len(user)]
    if all((user[part][1:] >= user[part][:-1]).all() for part in parts(len(user), overlap=1)):
        starts = [part.start for part in parts(len(user))]
        edges = np.unique([*edges, *np.searchsorted(user, user[starts])]).tolist()
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def _first_copies(columns: Sequence[np.ndarray]) -> np.ndarray:
    values = [_sortable(column) for column in columns]
    order = np.lexsort(values)  # stable: of rows alike, the first comes first
    new = np.ones(len(order), bool)
    new[1:] = np.any([v[order[1:]] != v[order[:-1]] for v in values], axis=0)
    starts, first = np.flatnonzero(new), np.empty(len(order), np.int64)
    first[order] = order[starts[np.cumsum(new) - 1]]
    return first


def _sortable(column: np.ndarray) -> np.ndarray:
    """Equal numbers for equal values, NaN among them."""
    if column.dtype.kind != "f":
        return column
    # -0 and 0 are one value, and all NaN are.
    plain = np.where(np.isnan(column), np.nan, column + 0.0).astype(np.float64)
    return plain.view(np.int64)
