"""Which of many item rows are distinct, found by marking and without sorting all of them."""

import numpy as np


class Marks:
    """A mark for each item row, in which whoever writes last is known again.

    Args:
        rows: Number of item rows.
    """

    def __init__(self, rows: int) -> None:
        self._mark = np.zeros(rows, np.int32)
        self._named = np.zeros(rows, bool)

    def count(self, items: np.ndarray) -> int:
        """How many of `items` are distinct."""
        if self._sparse(items):
            return len(self._distinct(items))
        self._named[items] = True
        found = int(np.count_nonzero(self._named))
        self._named.fill(False)
        return found

    def ascending(self, items: np.ndarray) -> np.ndarray:
        """Each of `items` once, ascending."""
        if self._sparse(items):
            return np.sort(self._distinct(items))
        self._named[items] = True
        found = np.flatnonzero(self._named)
        self._named.fill(False)
        return found.astype(items.dtype)

    def _sparse(self, items: np.ndarray) -> bool:
        """Whether to go through the marks of all rows would take longer than to sort `items`."""
        return len(self._named) > 64 * len(items)

    def _distinct(self, items: np.ndarray) -> np.ndarray:
        """Each of `items` once, in no order."""
        place = np.arange(len(items), dtype=np.int32)
        self._mark[items] = place  # of equal items one is left
        return items[self._mark[items] == place]

    def numbered(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each of `items` once, ascending, and the position there of all of them."""
        ascending = self.ascending(items)
        self._mark[ascending] = np.arange(len(ascending), dtype=np.int32)
        return ascending, self._mark[items]


class Places:
    """The position of each item row in an array of distinct ones, such as a pool.

    Args:
        rows: Number of item rows.
    """

    def __init__(self, rows: int) -> None:
        self._place = np.full(rows, -1, np.int32)
        self._pool = np.zeros(0, np.int32)

    def of(self, pool: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Position in `pool` of each of `items`, -1 where it is not there."""
        if pool is not self._pool:
            self._place[self._pool] = -1
            self._place[pool] = np.arange(len(pool), dtype=np.int32)
            self._pool = pool
        return self._place[items]


def is_among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of `values` is one of `others`; faster than `np.isin`, which hashes them.

    Both are at least 0.
    """
    ordered = np.append(np.sort(others), -1)
    return ordered[np.searchsorted(ordered[:-1], values)] == values


def ascending(items: np.ndarray) -> np.ndarray:
    """Each of `items` once, ascending; faster than `np.unique`, which hashes them."""
    ordered = np.sort(items)
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]
