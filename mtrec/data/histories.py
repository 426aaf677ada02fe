"""What each user did, and what they have by it, in time order as flat arrays with offsets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtrec.data.dataset import Dataset
from mtrec.data.room import copied, counted, of_rows, parts


@dataclass(frozen=True)
class Histories:
    """The interactions of every user, side by side (compressed sparse rows).

    Attributes:
        offsets: `[U + 2]`; user row u owns the entries `offsets[u]:offsets[u + 1]`.
        rows: Row numbers in `dataset.interactions`, by user and within a user by time.
        items: Item rows of those interactions.
        times: Seconds since 1970 of those interactions.
        labels: Rating and other labels of those interactions by name, NaN where there is none.
        taken: Whether the user has the item by that interaction; see `Dataset`.
    """

    offsets: np.ndarray
    rows: np.ndarray
    items: np.ndarray
    times: np.ndarray
    labels: Mapping[str, np.ndarray]
    taken: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, rows: np.ndarray) -> "Histories":
        """What users have by the interactions `rows`; equal times keep the source's order."""
        return cls.of_all(dataset, rows if dataset.taken is None else rows[dataset.taken[rows]])

    @classmethod
    def of_all(cls, dataset: Dataset, rows: np.ndarray) -> "Histories":
        """The interactions `rows`, what was shown in vain among them; in the order of `of`."""
        columns = dataset.interactions
        if not _ascending(rows):
            rows = copied(rows, like=columns["user"])
            rows.sort()
        users, times = of_rows(columns["user"], rows), of_rows(columns["timestamp"], rows, np.int64)
        if not _ascending(users, times):  # a prepared log is
            order = np.lexsort((times, users))
            rows, users, times = rows[order], users[order], times[order]
        counts, taken = counted(users, dataset.num_users + 1), dataset.taken
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            rows=rows,
            items=of_rows(columns["item"], rows),
            times=times,
            labels={name: of_rows(columns[name], rows) for name in dataset.labels},
            # One truth for all of them.
            taken=np.broadcast_to(True, len(rows)) if taken is None else of_rows(taken, rows),
        )

    @cached_property
    def taken_each(self) -> np.ndarray:
        """How often each item is taken, by item row, up to the highest row that is."""
        return counted(self.items, int(self.items.max(initial=-1)) + 1)

    def of_user(self, user: int) -> np.ndarray:
        """Item rows of one user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def entries(
        self, users: np.ndarray, counts: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the entries of `users`, and for each its position in `users`.

        Args:
            users: User rows, `[Q]`.
            counts: How many of their entries, the oldest, `[Q]`; None for all.
        """
        starts = self.offsets[users]
        counts = self.offsets[users + 1] - starts if counts is None else counts
        owners = np.repeat(np.arange(len(users)), counts)
        first = np.cumsum(counts) - counts
        return np.arange(len(owners)) + np.repeat(starts - first, counts), owners.astype(np.int32)

    def first_places(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Where a user's entries first have an item, from 0 on; beyond all where they have not.

        Args:
            users: User rows, `[N]`.
            items: Item rows, `[N]`.
        """
        distinct, owner = np.unique(users, return_inverse=True)
        entries, owners = self.entries(distinct)
        width = max(self.items.max(initial=0), items.max(initial=0)) + np.int64(1)
        had, asked = owners * width + self.items[entries], owner * width + items
        oldest_first = np.argsort(had, kind="stable")
        ordered = np.append(had[oldest_first], -1)
        at = np.searchsorted(ordered[:-1], asked)
        places = np.append(entries[oldest_first], 0)[at] - self.offsets[users]
        return np.where(ordered[at] == asked, places, len(self.items))


def _ascending(values: np.ndarray, then: np.ndarray | None = None) -> bool:
    """Whether no value is below the one before it, nor, among equal ones, that of `then`."""
    for part in parts(len(values), overlap=1):
        one = values[part]
        if (one[1:] < one[:-1]).any():
            return False
        if then is not None:
            other = then[part]
            if ((one[1:] == one[:-1]) & (other[1:] < other[:-1])).any():
                return False
    return True


def first_of_each(values: np.ndarray) -> np.ndarray:
    """True where a value occurs for the first time."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
