"""The units of a batch, users, requests or rows: what each is shown and asked for, how likely.

What a query is asked for is never shown to it, however often its user took the item. In time order
what is asked for is what the user does not have by then; where users take items again, it is
whatever comes, and what is strictly earlier is shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtrec.data.histories import Histories, first_of_each
from mtrec.data.marks import is_among
from mtrec.data.requests import numbers

# Entries that are looked at together.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Queries:
    """The queries of a batch. Entries are positions in the histories, owners are queries.

    Owners ascend.

    Attributes:
        user: User row of each query, `[Q]`.
        first: Entry that its request begins with, `[Q]`; -1 for a user, who is no moment.
        row: Entries to predict, the targets, `[N]`.
        row_owner: The query of each, `[N]`.
        row_had: Whether the user has its item by an entry that is no target, `[N]`.
        shown: Entries shown as history, by which the user has an item of no target or, with
            repeats, of any, `[H]`.
        shown_owner: The query of each, `[H]`.
        had: One entry of every item that a query's user has, but for its targets, `[K]`; with
            repeats there is none, as what a user has is told from like any other item.
        had_owner: The query of each, `[K]`.
    """

    user: np.ndarray
    first: np.ndarray
    row: np.ndarray
    row_owner: np.ndarray
    row_had: np.ndarray
    shown: np.ndarray
    shown_owner: np.ndarray
    had: np.ndarray
    had_owner: np.ndarray

    def part(self, first: int, size: int) -> tuple["Queries", slice]:
        """The `size` queries from `first` on, and which of the targets are theirs."""
        if not first and size >= len(self.user):
            return self, slice(0, len(self.row))

        def mine(owner: np.ndarray) -> slice:
            return slice(*np.searchsorted(owner, [first, first + size]))

        row, shown, had = mine(self.row_owner), mine(self.shown_owner), mine(self.had_owner)
        return Queries(
            user=self.user[first : first + size],
            first=self.first[first : first + size],
            row=self.row[row],
            row_owner=self.row_owner[row] - first,
            row_had=self.row_had[row],
            shown=self.shown[shown],
            shown_owner=self.shown_owner[shown] - first,
            had=self.had[had],
            had_owner=self.had_owner[had] - first,
        ), row


@dataclass(frozen=True)
class Brings:
    """Items that units can bring into the pool, each pair of both once, ascending.

    Items of one unit are not there independently of each other.

    Attributes:
        unit: The unit, `[K]`.
        item: Item row, `[K]`.
        share: Probability that the unit brings the item where it is in the batch, `[K]`.
    """

    unit: np.ndarray
    item: np.ndarray
    share: np.ndarray

    @classmethod
    def none(cls) -> "Brings":
        """No items."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def of(self, places: np.ndarray) -> "Brings":
        """Those at some places."""
        return Brings(self.unit[places], self.item[places], self.share[places])


class Units:
    """What a batch is made of.

    Args:
        histories: The interactions to train on, by user.
        batch_of: `users`, `requests` or `rows`; see `mtrec.data.batches.Batches`.
        history_share: Probability that an item is shown as history; see there.
        chronological: Whether only earlier entries are shown; see there.
        repeats: Whether users take items again; only in time order.
        request: What the entries of one request of a user have alike; None for their time.

    Attributes:
        ids: The units: user rows, entries, or numbers of requests with something to ask for.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        batch_of: str,
        history_share: float,
        chronological: bool,
        repeats: bool,
        request: np.ndarray | None = None,
    ) -> None:
        counts, times = np.diff(histories.offsets), histories.times
        self._histories = histories
        self._batch_of = batch_of
        self._history_share = history_share
        self._chronological = chronological or batch_of == "requests"
        self._repeats = repeats
        # By which entries an item is the user's for good, and asked for no more.
        self._gives = histories.taken & (not repeats)
        # Four bytes a number where they do, and a few users at a time: there may be 10^8 entries.
        kind = np.int32 if counts.sum() < 2**31 else np.int64
        self._user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._earlier, self._first, self._until = np.empty((3, len(self._user)), kind)
        self._has, self._fresh = np.empty((2, len(self._user)), bool)
        for part in _whole_users(histories.offsets):
            user, items = self._user[part].astype(np.int64), histories.items[part]
            first, has, until = _of_pairs(user, items, self._gives[part])
            self._earlier[part] = strictly_earlier(user, times[part])
            # The first entry of the same user and item.
            self._first[part] = first + part.start
            # Whether the user has the item, by this entry or another.
            self._has[part] = has
            # The first entry by which the user has the item, or the entry itself where that is
            # earlier: where it is asked for in time order, so is the entry.
            self._until[part] = until + part.start
            # What may be the first that is asked for.
            self._fresh[part] = until == np.arange(len(until))
        # Where no user has an item twice, as ratings do not, an entry stands for itself alone.
        self._twice = bool((self._first != np.arange(len(self._first))).any())
        if batch_of == "users":
            self.ids = np.flatnonzero(counts)
        elif batch_of == "rows":
            self.ids = np.arange(len(self._user))
        else:
            self._request = numbers(self._user, times, request)
            # The entry that each begins with: the first of its earliest.
            self._begins = np.unique(self._request, return_index=True)[1]
            begins = self._begins[self._request]
            # What the user lacks when it begins is asked for.
            self._asks = self._until >= histories.offsets[self._user] + self._earlier[begins]
            self.ids = np.unique(self._request[self._asks])

    @property
    def per_user(self) -> np.ndarray:
        """The number of units of each user, `[U + 1]`."""
        users = self.ids if self._batch_of == "users" else self._user[self._first_of(self.ids)]
        return np.bincount(users, minlength=len(self._histories.offsets) - 1)

    def _first_of(self, units: np.ndarray) -> np.ndarray:
        """The entry that each request, or the request of each row, begins with."""
        return self._begins[units] if self._batch_of == "requests" else units

    def draw(self, units: np.ndarray, rng: np.random.Generator) -> Queries:
        """A query for each of `units`; targets and what is shown are drawn by `rng`."""
        moments = self._batch_of != "users"
        begin = self._first_of(units) if moments else np.full(len(units), -1)
        users = self._user[begin] if moments else units
        entries, owners = self._histories.entries(users)
        place = np.arange(len(entries))
        first = place - (entries - self._first[entries]) if self._twice else None
        kept = rng.random(len(entries)) < self._history_share
        kept = kept if first is None else kept[first]
        if moments:
            target = entries == begin[owners]
            if self._batch_of == "requests":
                target = (self._request[entries] == units[owners]) & self._asks[entries]
            if self._chronological:
                starts = self._histories.offsets[users]
                kept &= entries - starts[owners] < self._earlier[begin[owners]]
        else:
            target = ~kept
            if self._chronological:
                cuts = self._cuts(entries, owners, len(users), rng)[owners]
                target = place - (entries - self._until[entries]) >= cuts
                kept &= place < cuts
        asked, otherwise = _any(first, target), _any(first, self._gives[entries] & ~target)
        # With repeats, what is kept is strictly earlier than what is asked for.
        shown = kept & self._histories.taken[entries] & (self._repeats | ~asked)
        had = ~asked & self._has[entries]
        had = had if first is None else had & (first == place)
        target, shown, had = map(np.flatnonzero, (target, shown, had))
        return Queries(
            user=users,
            first=begin,
            row=entries[target],
            row_owner=owners[target],
            row_had=otherwise[target],
            shown=entries[shown],
            shown_owner=owners[shown],
            had=entries[had],
            had_owner=owners[had],
        )

    def _cuts(
        self, entries: np.ndarray, owners: np.ndarray, users: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The moment in `entries` before which each user's may be shown, and not asked for."""
        counts = np.bincount(owners, minlength=users)
        starts = np.cumsum(counts) - counts
        # The first target is drawn evenly from all entries with items that the user lacks then.
        fresh = np.flatnonzero(self._fresh[entries])
        counts = np.bincount(owners[fresh], minlength=users)
        drawn = np.cumsum(counts) - counts + (rng.random(users) * counts).astype(np.int64)
        return starts + self._earlier[entries[fresh[drawn]]]

    def brings(self, given: np.ndarray | None) -> Brings:
        """What each unit can bring into the pool, by user, request or entry.

        Args:
            given: The item that comes with each entry where that is a target, 0 for none; or None.
        """
        entry = np.arange(len(self._user))
        unit = entry
        if self._batch_of == "users":
            unit = self._user.astype(np.int64)
        elif self._batch_of == "requests":
            unit, entry = self._request, np.flatnonzero(self._asks)
        items = self._histories.items[entry]
        if given is not None:
            also = entry[given[entry] > 0]
            items, entry = np.concatenate([items, given[also]]), np.concatenate([entry, also])
        missed = 1 - self._target_share()[entry]
        width = items.max(initial=0) + 1
        if self._batch_of == "users" and not self._chronological:
            # Entries with one item are targets together: what they bring, they bring once.
            once = first_of_each(self._first[entry] * width + items)
            items, entry, missed = items[once], entry[once], missed[once]
        pairs, place = np.unique(unit[entry] * width + items, return_inverse=True)
        together = np.ones(len(pairs))
        # In time order an entry is a target if the moment is early enough: the likeliest of some is
        # one wherever another is.
        combine = np.minimum if self._chronological else np.multiply
        combine.at(together, place, missed)
        return Brings(pairs // width, pairs % width, 1 - together)

    def uncertain(self, brings: Brings) -> Brings:
        """Those of `brings` that a unit may lack where it is there, and that its user lacks."""
        if self._batch_of != "users":  # a row or a request brings all it can
            return brings.of(np.zeros(0, np.int64))
        items = self._histories.items
        width = max(brings.item.max(initial=0), items.max(initial=0)) + 1
        had = (self._user.astype(np.int64) * width + items)[self._has]
        lacking = ~is_among(brings.unit * width + brings.item, had)
        return brings.of(np.flatnonzero(lacking & (brings.share < 1)))

    def _target_share(self) -> np.ndarray:
        """Probability that an entry is a target where its unit is in the batch."""
        if self._batch_of != "users":
            return np.ones(len(self._user))
        if not self._chronological:
            return np.full(len(self._user), 1 - self._history_share)
        # The first target is drawn from the fresh entries: it must not be later than `_until`.
        ends = self._histories.offsets[self._user + 1]
        times = self._histories.times
        ends -= strictly_earlier(self._user[::-1], times[::-1])[::-1]  # of its moment
        fresh = np.concatenate([[0], np.cumsum(self._fresh)])
        before, of_user = (fresh[self._histories.offsets[self._user + n]] for n in (0, 1))
        return (fresh[ends][self._until] - before) / (of_user - before)


def _any(first: np.ndarray | None, marked: np.ndarray) -> np.ndarray:
    """Whether an entry with the same first entry, its own among them, is marked.

    Without first entries, each is its own.
    """
    if first is None:
        return marked
    found = np.zeros(len(first), bool)
    found[first[marked]] = True
    return found[first]


def _whole_users(offsets: np.ndarray) -> Iterator[slice]:
    """All entries in consecutive parts of `_AT_ONCE` or more, each of whole users."""
    edges = np.arange(0, offsets[-1], _AT_ONCE)
    edges = np.unique(np.append(offsets[np.searchsorted(offsets, edges)], offsets[-1]))
    for start, stop in pairwise(edges.tolist()):
        yield slice(start, stop)


def _of_pairs(
    user: np.ndarray, items: np.ndarray, gives: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries' `_first`, `_has` and `_until`, as places among them."""
    pairs = user * (items.max(initial=0) + 1) + items
    _, index, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    first = index[inverse]
    has = np.bincount(inverse, weights=gives)[inverse] > 0
    entry = np.arange(len(user))
    has_first = np.full(len(entry), len(entry))
    np.minimum.at(has_first, first[gives], entry[gives])
    return first, has, np.minimum(entry, has_first[first])


def strictly_earlier(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """How many rows of the same user are strictly earlier, for rows sorted by user and time."""
    place = np.arange(len(user))
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_time = new_user | np.r_[True, time[1:] != time[:-1]]
    start_of_user = np.maximum.accumulate(np.where(new_user, place, 0))
    start_of_tie = np.maximum.accumulate(np.where(new_time, place, 0))
    return start_of_tie - start_of_user
