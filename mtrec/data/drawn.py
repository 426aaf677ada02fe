"""What is drawn for a global batch, as marks of its entries, and the queries a replica makes of it.

Marks cost a byte an entry and can be counted for every replica; what a query is made of is gathered
for a replica's own alone.
"""

from dataclasses import dataclass

import numpy as np

from mtrec.data.histories import first_of_each


@dataclass(frozen=True)
class Queries:
    """Queries of a batch. Entries are positions in the histories, owners are queries.

    Owners ascend.

    Attributes:
        user: User row of each query, `[Q]`.
        first: Entry that its request begins with, `[Q]`; -1 for a user, who is no moment.
        row: Entries to predict, the targets, `[N]`.
        row_owner: The query of each, `[N]`.
        row_had: Whether the user has its item by an entry that is no target, `[N]`.
        row_first: Whether it is the first target with its query and item, `[N]`.
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
    row_first: np.ndarray
    shown: np.ndarray
    shown_owner: np.ndarray
    had: np.ndarray
    had_owner: np.ndarray


@dataclass(frozen=True)
class Again:
    """Entries by which users do something with an item again.

    Attributes:
        entry: The entries that are not the first of their user and item, ascending, `[D]`.
        first: The first entry of the same user and item, `[D]`.
        until: The first entry by which the user has the item, or the entry itself where that is
            earlier, `[D]`: where it is asked for in time order, so is the entry. An entry that is
            not here is its own.
    """

    entry: np.ndarray
    first: np.ndarray
    until: np.ndarray

    def any(self, marked: np.ndarray) -> np.ndarray:
        """Whether an entry with the same user and item, its own among them, is marked."""
        found = marked.copy()
        found[self.first[marked[self.entry]]] = True
        found[self.entry] = found[self.first]
        return found


@dataclass(frozen=True)
class Drawn:
    """What is drawn for the queries of a batch, whose entries lie side by side, E in all.

    Attributes:
        user: User row of each query, `[Q]`.
        first: As in `Queries`, `[Q]`.
        bounds: `[Q + 1]`; query q has `entries[bounds[q]:bounds[q + 1]]`, all of its user.
        entries: Positions in the histories, `[E]`.
        items: Their item rows, `[E]`.
        target: Which are to predict, `[E]`.
        target_otherwise: Whether the user has the item by an entry that is no target, `[E]`; what
            it says of others than targets is nothing.
        shown: Which are shown as history, `[E]`.
        had: Which stand for the items that the user has, but for targets, `[E]`.
        again: Those with an item of an earlier one, as places among the `entries`.
    """

    user: np.ndarray
    first: np.ndarray
    bounds: np.ndarray
    entries: np.ndarray
    items: np.ndarray
    target: np.ndarray
    target_otherwise: np.ndarray
    shown: np.ndarray
    had: np.ndarray
    again: Again

    def part(self, first: int, size: int) -> slice:
        """The places of the entries of the `size` queries from `first` on."""
        ends = self.bounds[min(first, len(self.user)) : first + size + 1]
        return slice(int(ends[0]), int(ends[-1]))

    def queries(self, first: int, size: int) -> Queries:
        """The `size` queries from `first` on, or as many as there are; owners begin with 0."""
        users, part = self.user[first : first + size], self.part(first, size)
        ends = self.bounds[first : first + len(users) + 1]
        owners = np.repeat(np.arange(len(users), dtype=np.int32), np.diff(ends))
        entries = self.entries[part]
        target, shown, had = (
            np.flatnonzero(marked[part]) for marked in (self.target, self.shown, self.had)
        )
        return Queries(
            user=users,
            first=self.first[first : first + size],
            row=entries[target],
            row_owner=owners[target],
            row_had=self.target_otherwise[part][target],
            row_first=self._first_targets()[part][target],
            shown=entries[shown],
            shown_owner=owners[shown],
            had=entries[had],
            had_owner=owners[had],
        )

    def _first_targets(self) -> np.ndarray:
        """Which targets are the first with their query and item, `[E]`."""
        found = np.ones(len(self.entries), bool)
        repeated = self.target[self.again.entry]
        place, of = self.again.entry[repeated], self.again.first[repeated]
        found[place] = first_of_each(of) & ~self.target[of]
        return found
