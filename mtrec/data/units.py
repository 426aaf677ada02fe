"""The units of a batch, users, requests or rows: what each is shown and asked for, how likely.

What a query is asked for is never shown to it, however often its user took the item. In time order
what is asked for is what the user does not have by then; where users take items again, it is
whatever comes, and what is strictly earlier is shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtrec.data import room
from mtrec.data.drawn import Again, Drawn
from mtrec.data.histories import Histories, first_of_each
from mtrec.data.marks import is_among
from mtrec.data.requests import numbers
from mtrec.data.room import Room, parts


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
        counts = np.diff(histories.offsets)
        self._histories = histories
        self._batch_of = batch_of
        self._history_share = history_share
        self._chronological = chronological or batch_of == "requests"
        self._repeats = repeats
        # By which entries users have items; None: by all of them.
        self._taken = None if histories.taken.all() else histories.taken
        self._find_again()
        if batch_of == "users":
            self.ids = np.flatnonzero(counts).astype(np.int32)
        elif batch_of == "rows":
            ids = self._room()
            for part in parts(len(histories.items)):
                ids.append(np.arange(part.start, part.stop))
            self.ids = ids.array()
        else:
            user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
            self._request = numbers(user, histories.times, request)
            # The entry that each begins with: the first of its earliest.
            self._begins = np.unique(self._request, return_index=True)[1]
            start = histories.offsets[user[self._begins]]
            moment = start + self._earlier(self._begins, start)
            # What the user lacks when it begins is asked for.
            until = np.arange(len(user))
            until[self._again.entry] = self._again.until
            self._asks = until >= moment[self._request]
            self.ids = np.unique(self._request[self._asks])

    def _room(self) -> Room:
        """Room for numbers of entries, of four bytes where they do."""
        items = self._histories.items
        return Room(np.int32 if len(items) < 2**31 else np.int64, like=items)

    def _find_again(self) -> None:
        """Finds what users do again: few entries of most data, and none of ratings."""
        offsets = self._histories.offsets
        columns = [self._room() for _ in range(3)]
        for part in _whole_users(offsets):
            user, items = self._users(part), self._histories.items[part]
            first, until = _of_pairs(user, items, self._gives(part))
            again = np.flatnonzero(first != np.arange(len(first)))
            for column, places in zip(columns, (again, first[again], until[again]), strict=True):
                column.append(places + part.start)
        self._again = Again(*(column.array() for column in columns))
        # Where those of each user begin.
        self._again_offsets = np.searchsorted(self._again.entry, offsets)

    def _users(self, entries: slice | np.ndarray) -> np.ndarray:
        """The user row of each of some entries, or of a slice of whole users."""
        offsets = self._histories.offsets
        if not isinstance(entries, slice):
            return np.searchsorted(offsets, entries, side="right") - 1
        first, end = np.searchsorted(offsets, [entries.start, entries.stop])
        return np.repeat(np.arange(first, end), np.diff(offsets[first : end + 1]))

    def _gives(self, entries: slice | np.ndarray) -> np.ndarray:
        """Whether an item is the user's for good by each of some entries: asked for no more."""
        taken = self._histories.taken[entries]
        return taken & (not self._repeats)

    def _earlier(self, entries: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """How many entries of the same user, whose begin at `starts`, are strictly earlier."""
        times = self._histories.times
        moment, low, high = times[entries], starts, entries
        while (low < high).any():
            middle = (low + high) // 2
            before = times[middle] < moment
            low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
        return low - starts

    @property
    def per_user(self) -> np.ndarray:
        """The number of units of each user, `[U + 1]`."""
        users = self.ids if self._batch_of == "users" else self._users(self._first_of(self.ids))
        return np.bincount(users, minlength=len(self._histories.offsets) - 1)

    def _first_of(self, units: np.ndarray) -> np.ndarray:
        """The entry that each request, or the request of each row, begins with."""
        return self._begins[units] if self._batch_of == "requests" else units

    def draw(self, units: np.ndarray, rng: np.random.Generator) -> Drawn:
        """Targets and what is shown of a query for each of `units`, drawn by `rng`."""
        moments, offsets = self._batch_of != "users", self._histories.offsets
        begin = self._first_of(units) if moments else np.full(len(units), -1)
        users = self._users(begin) if moments else units
        starts = offsets[users]
        counts = offsets[users + 1] - starts
        bounds = np.concatenate([[0], np.cumsum(counts)])
        place = np.arange(bounds[-1])
        entries = place + np.repeat(starts - bounds[:-1], counts)
        again = self._again_of(users, bounds[:-1] - starts)
        kept = rng.random(len(entries)) < self._history_share
        kept[again.entry] = kept[again.first]
        if moments:
            target = self._asked_for(units, begin, bounds, entries)
            if self._chronological:
                kept &= place < np.repeat(bounds[:-1] + self._earlier(begin, starts), counts)
        elif self._chronological:
            cuts = np.repeat(self._cuts(bounds, starts, again, rng), counts)
            target = place >= cuts
            target[again.entry] = again.until >= cuts[again.entry]
            kept &= ~(place >= cuts)
        else:
            target = ~kept
        together = not moments and not self._chronological  # targets are all entries with an item
        asked = target if together else again.any(target)
        taken = None if self._taken is None else self._taken[entries]
        shown, had = kept if taken is None else kept & taken, np.zeros(len(entries), bool)
        if not self._repeats:  # or what is kept is strictly earlier than what is asked for
            shown &= ~asked
            had = ~asked if taken is None else ~asked & again.any(taken)
            had[again.entry] = False
        return Drawn(
            user=users,
            first=begin,
            bounds=bounds,
            entries=entries,
            items=self._histories.items[entries],
            target=target,
            target_otherwise=self._otherwise(entries, target, again),
            shown=shown,
            had=had,
            again=again,
        )

    def _again_of(self, users: np.ndarray, shifts: np.ndarray) -> Again:
        """What `users` do again; what is an entry is one plus the user's shift there."""
        first = self._again_offsets[users].astype(np.int64)
        counts = self._again_offsets[users + 1] - first
        shift = np.repeat(shifts, counts)
        ends = np.cumsum(counts)
        which = np.arange(len(shift)) + np.repeat(first - (ends - counts), counts)
        return Again(*(column[which] + shift for column in vars(self._again).values()))

    def _asked_for(
        self, units: np.ndarray, begin: np.ndarray, bounds: np.ndarray, entries: np.ndarray
    ) -> np.ndarray:
        """Which entries are targets of requests or rows, `[E]`."""
        if self._batch_of == "requests":
            owned = np.repeat(units, np.diff(bounds))
            return (self._request[entries] == owned) & self._asks[entries]
        target = np.zeros(len(entries), bool)
        target[bounds[:-1] + begin - entries[bounds[:-1]]] = True
        return target

    def _otherwise(self, entries: np.ndarray, target: np.ndarray, again: Again) -> np.ndarray:
        """Which targets have an item that the user has by an entry that is none, `[E]`."""
        several = np.concatenate([again.first, again.entry])  # of others there is one entry alone
        marked = np.zeros(len(entries), bool)
        marked[several] = self._gives(entries[several]) & ~target[several]
        return again.any(marked)

    def _cuts(
        self, bounds: np.ndarray, starts: np.ndarray, again: Again, rng: np.random.Generator
    ) -> np.ndarray:
        """The place before which each user's entries may be shown, and not asked for, `[Q]`."""
        # The first target is drawn evenly from all entries with items that the user lacks then.
        fresh = np.ones(bounds[-1], bool)
        fresh[again.entry] = again.until == again.entry
        places = np.flatnonzero(fresh)
        before = np.searchsorted(places, bounds)
        counts = np.diff(before)
        drawn = before[:-1] + (rng.random(len(counts)) * counts).astype(np.int64)
        shifts = starts - bounds[:-1]
        return bounds[:-1] + self._earlier(places[drawn] + shifts, starts)

    def brings(self, given: np.ndarray | None) -> Iterator[Brings]:
        """What units can bring into the pool, by user, request or entry, some units at a time.

        Args:
            given: The item that comes with each entry where that is a target, 0 for none; or None.
        """
        for part in _whole_users(self._histories.offsets):
            yield self._brings(part, given)

    def _brings(self, part: slice, given: np.ndarray | None) -> Brings:
        """What the units of the entries of whole users can bring."""
        entry = np.arange(part.start, part.stop)
        unit = entry
        if self._batch_of == "users":
            unit = self._users(part)
        elif self._batch_of == "requests":
            unit = self._request[part]
            entry = entry[self._asks[part]]
        items = self._histories.items[entry]
        if given is not None:
            also = entry[given[entry] > 0]
            items, entry = np.concatenate([items, given[also]]), np.concatenate([entry, also])
        place = entry - part.start
        missed = 1 - self._target_share(part)[place]
        width = items.max(initial=0) + 1
        if self._batch_of == "users" and not self._chronological:
            # Entries with one item are targets together: what they bring, they bring once.
            once = first_of_each(self._own_or(part, self._again.first)[place] * width + items)
            items, place, missed = items[once], place[once], missed[once]
        pairs, owner = np.unique(unit[place] * width + items, return_inverse=True)
        together = np.ones(len(pairs))
        # In time order an entry is a target if the moment is early enough: the likeliest of some is
        # one wherever another is.
        combine = np.minimum if self._chronological else np.multiply
        combine.at(together, owner, missed)
        return Brings(pairs // width, pairs % width, 1 - together)

    def uncertain(self, given: np.ndarray | None) -> Brings:
        """What a unit may not bring where it is there, and its user lacks, as `brings` has it."""
        everything = self._taken is None and given is None and not self._repeats
        if everything or self._batch_of != "users":  # a row or a request brings all it can
            return Brings.none()
        found = [Brings.none()]
        for part in _whole_users(self._histories.offsets):
            brings = self._brings(part, given)
            gives, items = self._gives(part), self._histories.items[part]
            width = max(brings.item.max(initial=0), items.max(initial=0)) + 1
            had = self._users(part)[gives] * width + items[gives]
            lacking = ~is_among(brings.unit * width + brings.item, had)
            found.append(brings.of(np.flatnonzero(lacking & (brings.share < 1))))
        columns = zip(*(vars(brings).values() for brings in found), strict=True)
        return Brings(*map(np.concatenate, columns))

    def _own_or(self, part: slice, values: np.ndarray) -> np.ndarray:
        """What `values` have for entries that come again, and each other one itself, as places."""
        found = np.arange(part.stop - part.start)
        which = slice(*np.searchsorted(self._again.entry, [part.start, part.stop]))
        found[self._again.entry[which] - part.start] = values[which] - part.start
        return found

    def _target_share(self, part: slice) -> np.ndarray:
        """Probability that an entry is a target where its unit is in the batch."""
        size = part.stop - part.start
        if self._batch_of != "users":
            return np.ones(size)
        if not self._chronological:
            return np.full(size, 1 - self._history_share)
        # The first target is drawn from the fresh entries: it must not be later than `until`.
        until, user = self._own_or(part, self._again.until), self._users(part)
        times = self._histories.times[part]
        ends = self._histories.offsets[user + 1] - part.start
        ends -= strictly_earlier(user[::-1], times[::-1])[::-1]  # of its moment
        fresh = np.concatenate([[0], np.cumsum(until == np.arange(size))])
        before, of_user = (fresh[self._histories.offsets[user + n] - part.start] for n in (0, 1))
        return (fresh[ends][until] - before) / (of_user - before)


def _whole_users(offsets: np.ndarray) -> Iterator[slice]:
    """All entries in consecutive parts of `room.AT_ONCE` or more, each of whole users."""
    edges = np.arange(0, offsets[-1], room.AT_ONCE)
    edges = np.unique(np.append(offsets[np.searchsorted(offsets, edges)], offsets[-1]))
    for start, stop in pairwise(edges.tolist()):
        yield slice(start, stop)


def _of_pairs(
    user: np.ndarray, items: np.ndarray, gives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The `first` and `until` of entries, as in `Again`, as places among them."""
    pairs = user * (items.max(initial=0) + 1) + items
    _, index, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    first = index[inverse]
    entry = np.arange(len(user))
    has_first = np.full(len(entry), len(entry))
    np.minimum.at(has_first, first[gives], entry[gives])
    return first, np.minimum(entry, has_first[first])


def strictly_earlier(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """How many rows of the same user are strictly earlier, for rows sorted by user and time."""
    place = np.arange(len(user))
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_time = new_user | np.r_[True, time[1:] != time[:-1]]
    start_of_user = np.maximum.accumulate(np.where(new_user, place, 0))
    start_of_tie = np.maximum.accumulate(np.where(new_time, place, 0))
    return start_of_tie - start_of_user
