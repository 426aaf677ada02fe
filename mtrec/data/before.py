"""What users did with items strictly before a moment: how often, how long ago, at what gaps.

It is told in numbers of a pair of user and item, so that training, which asks as of each row's
moment, and an answer, which asks as of now, read the same.
"""

from dataclasses import dataclass

import numpy as np

from mtrec.data.drawn import Queries
from mtrec.data.histories import Histories
from mtrec.data.inputs import Again
from mtrec.data.marks import is_among

# The numbers of a pair, in their order.
NUMBERS = (
    "count",  # how often the user took the item before
    "since",  # seconds since the last time, 0 where there is none
    "span",  # seconds from the first time to the last
    "later",  # interactions of the user that are later than the last time
    "total",  # interactions of the user before
    "gaps",  # seconds between an item's takings by one user, summed over all users
    "num_gaps",  # how many such gaps there are
)


class Before:
    """What users did with items before any moment.

    Args:
        histories: What users did.
        num_items: Items in the catalogue.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        counts, taken = np.diff(histories.offsets), histories.taken
        self._histories = histories
        user = np.repeat(np.arange(len(counts), dtype=np.int64), counts)[taken]
        item, time = histories.items[taken], histories.times[taken]
        self._width = num_items + 1
        self._users = _Timeline.of(user, time)
        self._pairs = _Timeline.of(user * self._width + item, time)
        gap = np.diff(self._pairs.times, prepend=0)
        gap[self._pairs.starts[:-1]] = 0
        again = gap > 0
        of_pair = np.repeat(self._pairs.keys % self._width, np.diff(self._pairs.starts))
        items, times = of_pair[again], self._pairs.times[again]
        self._items = _Timeline.of(items, times)
        ordered = gap[again][np.lexsort((times, items))]
        self._gaps = np.concatenate([[0], np.cumsum(ordered)])

    def of(self, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The `NUMBERS` of pairs, each from what is strictly earlier than its time.

        Args:
            users: User rows, `[N]`.
            items: Item rows, `[N]`.
            times: Seconds since 1970, `[N]`.

        Returns:
            float32, `[N, 7]`.
        """
        users = users.astype(np.int64)
        start, end = self._pairs.before(users * self._width + items, times)
        count = end - start
        last, first = (self._pairs.time_of(np.where(count, k, -1)) for k in (end - 1, start))
        begin, until = self._users.before(users, times)
        _, seen = self._users.before(users, last + 1)
        item_start, item_end = self._items.before(items.astype(np.int64), times)
        numbers = (
            count,
            np.where(count, times - last, 0),
            np.where(count, last - first, 0),
            np.where(count, until - seen, 0),
            until - begin,
            self._gaps[item_end] - self._gaps[item_start],
            item_end - item_start,
        )
        return np.stack(numbers, axis=1).astype(np.float32)

    def of_targets(self, queries: Queries) -> np.ndarray:
        """The numbers of a batch's targets: as of their requests' beginning, if they have one."""
        begin = queries.first[queries.row_owner]
        asked = self._histories.times[np.where(begin < 0, queries.row, begin)]
        return self.of(queries.user[queries.row_owner], self._histories.items[queries.row], asked)

    def again(self, queries: Queries, chosen: np.ndarray, places: np.ndarray) -> Again:
        """What queries may take again.

        Args:
            queries: The queries.
            chosen: One place in `queries.shown` of each pair of query and item.
            places: Position in the batch of the item of all that is shown.
        """
        items, times = self._histories.items, self._histories.times
        # A request's moment is when it begins, a user's that of the first target.
        moment = np.full(len(queries.user), np.iinfo(np.int64).max)
        np.minimum.at(moment, queries.row_owner, times[queries.row])
        moment = np.where(queries.first < 0, moment, times[queries.first])
        owner, item = queries.shown_owner[chosen], items[queries.shown[chosen]]
        target = queries.row_owner.astype(np.int64) * self._width + items[queries.row]
        taken = is_among(owner.astype(np.int64) * self._width + item, target)
        return Again(
            query=owner,
            item=places[chosen],
            time=moment[owner],
            before=self.of(queries.user[owner], item, moment[owner]),
            taken=taken.astype(np.float32),
        )

    def gaps_of_items(self) -> np.ndarray:
        """`gaps` and `num_gaps` of every item when all is over, `[C + 1, 2]`."""
        found = np.zeros((self._width, 2), np.float32)
        starts = self._items.starts
        found[self._items.keys, 0] = self._gaps[starts[1:]] - self._gaps[starts[:-1]]
        found[self._items.keys, 1] = np.diff(starts)
        return found


@dataclass(frozen=True)
class _Timeline:
    """The times of what belongs to each of some keys.

    Attributes:
        keys: The keys, ascending, `[G]`.
        starts: `[G + 1]`; key g has `times[starts[g]:starts[g + 1]]`.
        times: Seconds since 1970, ascending for a key, `[N]`.
        moments: A number of each key and time, ascending, `[N]`.
    """

    keys: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    moments: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, times: np.ndarray) -> "_Timeline":
        """That of entries, `[N]` each."""
        order = np.lexsort((times, keys))
        keys, starts = np.unique(keys[order], return_index=True)
        starts, times = np.append(starts, len(order)), times[order]
        group = np.repeat(np.arange(len(keys)), np.diff(starts))
        return cls(keys, starts, times, _moment(group, times))

    def before(self, keys: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the entries of keys begin, and where those strictly earlier than times end."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        group = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        start = self.starts[group]
        end = np.searchsorted(self.moments, _moment(group, times))
        return start, np.where(self.keys[group] == keys, end, start)

    def time_of(self, places: np.ndarray) -> np.ndarray:
        """The times of entries; 0 for -1."""
        return np.append(self.times, 0)[places]


def _moment(group: np.ndarray, times: np.ndarray) -> np.ndarray:
    # Seconds from 1900 to 2100 lie within 2^33 of 0.
    return (group.astype(np.int64) << 34) + (times + (1 << 33))
