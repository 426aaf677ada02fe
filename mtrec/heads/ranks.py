"""Exact ranks of held-out items in the whole catalogue, by counting what scores higher.

Ranks start at 0. A held-out item's rank is the number of candidates that score higher, and among
candidates with exactly its score its place is drawn at random: ties are never counted as hits, and
a model that scores everything alike finds k of C items in its top k, as chance does.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from mtrec.data.marks import ascending
from mtrec.heads import metrics
from mtrec.heads.exact_search import rows_at_once, top_k
from mtrec.heads.head import HeldOut
from mtrec.heads.max_similarity import score_all_in_numpy

# Ranks of what is asked for, of all that is held out, and the items that are recommended.
_Ranks: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]

# Recommended items that are looked at.
TOP = 10
# Users that a thread counts for, one after the other.
USERS_AT_ONCE = 64
# A pass over a row counts for one target; sorting the row costs about as much as this many passes,
# and in a short row a pass costs more to start than to run.
TARGETS_BY_COUNTING, SHORT_ROW = 8, 4096
# Of more ties the few places that are asked for are drawn, not all.
SHUFFLED = 1024


def standing(values: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of `values [N]` are above each target, and how many equal it, `[T]` each.

    NaN is above all numbers, and all are above a target that is NaN: a model that has diverged is
    never taken for a good one.
    """
    if len(targets) > TARGETS_BY_COUNTING or len(values) < SHORT_ROW:
        ordered = np.sort(values)  # NaN last
        undefined = np.isnan(targets)
        start = np.searchsorted(ordered, targets, side="left")
        end = np.where(undefined, start, np.searchsorted(ordered, targets, side="right"))
        return np.where(undefined, len(values), len(values) - end), end - start
    found = np.empty(len(values), bool)
    up_to = [np.count_nonzero(np.less_equal(values, t, out=found)) for t in targets]
    equal = np.array([np.count_nonzero(np.equal(values, t, out=found)) for t in targets], np.int64)
    return len(values) - np.array(up_to, np.int64), equal


def places(items: np.ndarray, targets: np.ndarray, equal: np.ndarray, seed: int) -> np.ndarray:
    """A place among what scores the same for each of a user's items: no two items share one.

    Args:
        items: The items, `[T]`.
        targets: Their scores, `[T]`.
        equal: How many candidates have that score, `[T]`.
        seed: What places are drawn with, so that they do not depend on other users.
    """
    drawn = np.zeros(len(items), np.int64)
    if equal.max(initial=0) < 2:
        return drawn
    rng = np.random.default_rng(seed)
    for value in np.unique(targets[equal > 1]):
        tied = np.flatnonzero(targets == value)
        distinct, which = np.unique(items[tied], return_inverse=True)
        number = int(equal[tied[0]])
        if number <= SHUFFLED:
            found = rng.permutation(number)[: len(distinct)]
        else:
            found = rng.choice(number, len(distinct), replace=False)
        drawn[tied] = found[which]
    return drawn


class Scored(ABC):
    """Scores of users with the whole catalogue, of which some users' are ready at a time.

    Attributes:
        at_once: How many users those are.
    """

    at_once = 1024

    @abstractmethod
    def score(self, users: slice) -> None:
        """Has the scores of these users ready, given by their positions."""

    @abstractmethod
    def of(self, place: int, items: np.ndarray) -> np.ndarray:
        """Scores of items, `[T]`, by the user at a place among those that are ready."""

    @abstractmethod
    def standing(self, place: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many items are above, and level with, each of these for that user; `[T]` each."""

    @abstractmethod
    def top(
        self, part: slice, asked: np.ndarray, known: Sequence[np.ndarray], k: int
    ) -> np.ndarray:
        """The k best items of users without those they know, `[asked, k]`, -1 where none is left.

        The scores of those users may be spoilt.

        Args:
            part: Places of some users that are ready.
            asked: Those of them that are asked for.
            known: Items of every user that is ready.
            k: How many.
        """


class ByModel(Scored):
    """By dot products of queries `[U, D]` or `[U, K, D]` with candidates `[C, D]`."""

    def __init__(self, query: np.ndarray, candidate: np.ndarray) -> None:
        self._query, self._candidate = query, candidate
        self.at_once = rows_at_once(len(candidate))
        self._scores = np.empty((min(self.at_once, len(query)), len(candidate)), np.float32)

    def score(self, users: slice) -> None:
        query = self._query[users]
        score_all_in_numpy(query, self._candidate, out=self._scores[: len(query)])

    def of(self, place: int, items: np.ndarray) -> np.ndarray:
        return self._scores[place, items]

    def standing(self, place: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row = self._scores[place]
        return standing(row, row[items])

    def top(
        self, part: slice, asked: np.ndarray, known: Sequence[np.ndarray], k: int
    ) -> np.ndarray:
        for place in asked.tolist():
            self._scores[place, known[place]] = -np.inf
        values, best = top_k(self._scores[part], k)
        return np.where(np.isfinite(values), best, -1)[asked - part.start]


class ByPopularity(Scored):
    """By how often each item is taken, `[C]`: one order for all users."""

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts
        _, level, size = np.unique(counts, return_inverse=True, return_counts=True)
        self._higher, self._equal = (len(counts) - np.cumsum(size))[level], size[level]
        self._order = np.argsort(-counts, kind="stable")

    def score(self, users: slice) -> None:
        pass

    def of(self, place: int, items: np.ndarray) -> np.ndarray:
        return self._counts[items]

    def standing(self, place: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._higher[items], self._equal[items]

    def top(
        self, part: slice, asked: np.ndarray, known: Sequence[np.ndarray], k: int
    ) -> np.ndarray:
        best = np.full((len(asked), k), -1)
        for found, place in zip(best, asked.tolist(), strict=True):
            first = self._order[: k + len(known[place])]
            left = first[np.isin(first, known[place], invert=True)][:k]
            found[: len(left)] = left
        return best


class ByOwn(Scored):
    """By how often each user has each of the items, the latest first among equals; by no others.

    Items that a user does not have score 0, and are counted without being looked at.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self._held_out, self._num_items = held_out, held_out.dataset.num_items

    def score(self, users: slice) -> None:
        items, owners = self._held_out.own(users)  # oldest first
        pairs = owners.astype(np.int64) * self._num_items + items - 1
        pairs, which, often = np.unique(pairs, return_inverse=True, return_counts=True)
        total = np.bincount(owners, minlength=users.stop - users.start)
        latest = np.zeros(len(pairs), np.int64)
        latest[which] = np.arange(len(items)) - (np.cumsum(total) - total)[owners] + 1
        owner = pairs // self._num_items
        scores = often + latest / (total[owner] + 1)
        self._starts = np.searchsorted(owner, np.arange(len(total) + 1))
        order = np.lexsort((scores, owner))
        self._ascending, self._worst_first = scores[order], (pairs % self._num_items)[order]
        self._pairs, self._scores = np.append(pairs, -1), np.append(scores, 0.0)

    def of(self, place: int, items: np.ndarray) -> np.ndarray:
        pairs = place * self._num_items + items
        found = np.searchsorted(self._pairs[:-1], pairs)
        return np.where(self._pairs[found] == pairs, self._scores[found], 0.0)

    def standing(self, place: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = self._ascending[self._starts[place] : self._starts[place + 1]]
        targets = self.of(place, items)
        higher = len(own) - np.searchsorted(own, targets, side="right")
        return higher, np.where(targets > 0, 1, self._num_items - len(own))

    def top(
        self, part: slice, asked: np.ndarray, known: Sequence[np.ndarray], k: int
    ) -> np.ndarray:
        last = self._starts[asked + 1, np.newaxis] - np.arange(1, k + 1)
        there = last >= self._starts[asked, np.newaxis]
        return np.where(there, np.append(self._worst_first, -1)[np.where(there, last, -1)], -1)


def rank_all(held_out: HeldOut, scored: Scored) -> dict[str, np.ndarray]:
    """Ranks every held-out item, and what is asked for among all that may be recommended.

    That is what its user does not have yet, or of data with repeats, all.

    Args:
        held_out: Interactions of the users, whose items stand at row less 1 in the catalogue.
        scored: Scores of the users.

    Returns:
        `ranks_of_all [H]`, `ranks` of those that are asked for, and `top`, `[V, 10]`; see
        `Retrieval.measure`.
    """
    starts = np.searchsorted(held_out.owner, np.arange(len(held_out.users) + 1)).tolist()
    k = min(TOP, held_out.dataset.num_items)
    found = [(np.zeros(0), np.zeros(0), np.zeros((0, k)))]
    # NumPy lets the others count where a pass over many scores is under way.
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ranks") as threads:
        for chunk in metrics.chunks(len(held_out.users), scored.at_once):
            scored.score(chunk)
            known = _left_out(held_out, chunk)

            def rank(part: slice, chunk: slice = chunk, known: Any = known) -> _Ranks:
                return _ranks_of(held_out, scored, starts, chunk.start, part, known, k)

            ready = range(0, len(known), USERS_AT_ONCE)
            parts = [slice(n, min(n + USERS_AT_ONCE, len(known))) for n in ready]
            found += threads.map(rank, parts)
    names = "ranks", "ranks_of_all", "top"
    return {
        name: np.concatenate(arrays).astype(np.int32)
        for name, arrays in zip(names, zip(*found, strict=True), strict=True)
    }


def _ranks_of(
    held_out: HeldOut,
    scored: Scored,
    starts: Sequence[int],
    first: int,
    part: slice,
    known: Sequence[np.ndarray],
    k: int,
) -> _Ranks:
    """What `rank_all` returns of some of the users whose scores are ready.

    Args:
        held_out: See there.
        scored: See there.
        starts: Where the interactions of each user begin.
        first: The first user that is ready.
        part: Places of the users among those that are ready.
        known: What is not recommended to each that is ready.
        k: How many items are recommended.
    """
    ranks, ranks_of_all, asked = [np.zeros(0)], [np.zeros(0)], []
    for place in range(part.start, part.stop):
        user = int(held_out.users[first + place])
        rows = slice(starts[first + place], starts[first + place + 1])
        items, wanted = held_out.item[rows] - 1, held_out.asked[rows]
        higher, equal = scored.standing(place, items)
        targets = scored.of(place, items)
        ranks_of_all.append(higher + places(items, targets, equal, user))
        if not wanted.any():
            continue
        asked.append(place)
        items, targets = items[wanted], targets[wanted]
        had_higher, had_equal = standing(scored.of(place, known[place]), targets)
        higher, equal = higher[wanted] - had_higher, equal[wanted] - had_equal
        ranks.append(higher + places(items, targets, equal, user))
    top = scored.top(part, np.array(asked, np.int64), known, k) + 1
    return np.concatenate(ranks), np.concatenate(ranks_of_all), top


def _left_out(held_out: HeldOut, users: slice) -> list[np.ndarray]:
    """What is not recommended to each of the users as they have it, as positions in the catalogue.

    Once each, since it is counted.
    """
    if held_out.dataset.repeats:
        return [np.zeros(0, np.int64)] * (users.stop - users.start)
    items, owners = held_out.own(users)
    width = held_out.dataset.num_items
    pairs = ascending(owners.astype(np.int64) * width + items - 1)
    ends = np.searchsorted(pairs, width * np.arange(1, users.stop - users.start))
    return np.split(pairs % width, ends)
