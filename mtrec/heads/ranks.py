"""Exact ranks of held-out items in the whole catalogue, by counting what scores higher.

Ranks start at 0. A held-out item's rank is the number of candidates that score higher, and among
candidates with exactly its score its place is drawn at random: ties are never counted as hits, and
a model that scores everything alike finds k of C items in its top k, as chance does.
"""

import functools
import itertools
import os
from abc import ABC, abstractmethod
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from mtrec.data.marks import ascending
from mtrec.heads import metrics
from mtrec.heads.blas import one_blas_thread
from mtrec.heads.exact_search import SCORES_IN_CACHE, rows_at_once, top_k
from mtrec.heads.head import HeldOut
from mtrec.heads.max_similarity import score_all_in_numpy
from mtrec.heads.standing import places_of_each, standing, standing_among

# Recommended items that are looked at.
TOP = 10
# Users that a thread counts for, if their scores fit the cache.
USERS_AT_ONCE = 64


class Known:
    """What is not recommended to each of some users, as positions in the catalogue.

    Args:
        held_out: Interactions of users. Of data with repeats, all may be recommended.
        users: Their positions, `[P]`.
    """

    def __init__(self, held_out: HeldOut, users: np.ndarray) -> None:
        width = held_out.dataset.num_items
        pairs = np.zeros(0, np.int64)
        if not held_out.dataset.repeats:
            items, owners = held_out.own(users)
            pairs = ascending(owners.astype(np.int64) * width + items - 1)
        self._owner, self._item = np.divmod(pairs, width)
        self._starts = np.searchsorted(self._owner, np.arange(len(users) + 1))

    def of(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """The users of a part, ascending, and an item of each, once each since it is counted."""
        mine = slice(self._starts[part.start], self._starts[part.stop])
        return self._owner[mine], self._item[mine]


class Scored(ABC):
    """Scores of users with the whole catalogue, of which some users' are ready at a time.

    Users are given by their places among those that are ready, `[T]`, ascending.

    Attributes:
        at_once: How many users those are.
    """

    at_once = 1024

    @abstractmethod
    def score(self, users: np.ndarray, threads: Executor) -> None:
        """Has the scores of these users ready, given by their positions."""

    @abstractmethod
    def of(self, place: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The score of each user with an item, `[T]`."""

    @abstractmethod
    def standing(
        self, part: slice, place: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many items are above, and level with, each of these for its user; `[T]` each.

        Args:
            part: Places of users.
            place: Users among them.
            items: An item for each.
        """

    @abstractmethod
    def top(self, part: slice, known: Known, k: int) -> np.ndarray:
        """The k best items of users without those they know, `[R, k]`, -1 where none is left.

        The scores of those users may be spoilt.

        Args:
            part: Places of the users.
            known: What every user that is ready knows.
            k: How many.
        """


class ByModel(Scored):
    """By dot products of queries `[U, D]` or `[U, K, D]` with candidates `[C, D]`."""

    def __init__(self, query: np.ndarray, candidate: np.ndarray) -> None:
        self._query, self._candidate = query, candidate
        blocks = max(1, -(-len(query) // rows_at_once(len(candidate))))
        self.at_once = max(1, -(-len(query) // blocks))  # all blocks alike
        self._scores = np.empty((self.at_once, len(candidate)), np.float32)

    def score(self, users: np.ndarray, threads: Executor) -> None:
        query, scores = self._query[users], self._scores[: len(users)]

        def multiply(part: slice) -> None:
            score_all_in_numpy(query, self._candidate[part], out=scores[:, part])

        total = len(self._candidate)
        each = 64 * -(-total // (64 * (os.cpu_count() or 1)))
        list(threads.map(multiply, [slice(n, n + each) for n in range(0, total, each)]))

    def of(self, place: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self._scores[place, items]

    def standing(
        self, part: slice, place: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return standing(self._scores[part], place - part.start, self.of(place, items))

    def top(self, part: slice, known: Known, k: int) -> np.ndarray:
        self._scores[known.of(part)] = -np.inf
        values, best = top_k(self._scores[part], k)
        return np.where(np.isfinite(values), best, -1)


class ByPopularity(Scored):
    """By how often each item is taken, `[C]`: one order for all users."""

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts
        _, level, size = np.unique(counts, return_inverse=True, return_counts=True)
        self._higher, self._equal = (len(counts) - np.cumsum(size))[level], size[level]
        self._order = np.argsort(-counts, kind="stable")

    def score(self, users: np.ndarray, threads: Executor) -> None:
        pass

    def of(self, place: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self._counts[items]

    def standing(
        self, part: slice, place: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._higher[items], self._equal[items]

    def top(self, part: slice, known: Known, k: int) -> np.ndarray:
        best = np.full((part.stop - part.start, k), -1)
        owner, item = known.of(part)
        starts = np.searchsorted(owner, np.arange(part.start, part.stop + 1)).tolist()
        for found, (start, end) in zip(best, itertools.pairwise(starts), strict=True):
            first = self._order[: k + end - start]
            left = first[np.isin(first, item[start:end], invert=True)][:k]
            found[: len(left)] = left
        return best


class ByOwn(Scored):
    """By how often each user has each of the items, the latest first among equals; by no others.

    Items that a user does not have score 0, and are counted without being looked at.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self._held_out, self._num_items = held_out, held_out.dataset.num_items

    def score(self, users: np.ndarray, threads: Executor) -> None:
        items, owners = self._held_out.own(users)  # oldest first
        pairs = owners.astype(np.int64) * self._num_items + items - 1
        pairs, which, often = np.unique(pairs, return_inverse=True, return_counts=True)
        total = np.bincount(owners, minlength=len(users))
        latest = np.zeros(len(pairs), np.int64)
        latest[which] = np.arange(len(items)) - (np.cumsum(total) - total)[owners] + 1
        self._owner = pairs // self._num_items
        scores = often + latest / (total[self._owner] + 1)
        self._starts = np.searchsorted(self._owner, np.arange(len(total) + 1))
        self._worst_first = (pairs % self._num_items)[np.lexsort((scores, self._owner))]
        self._pairs, self._scores = np.append(pairs, -1), np.append(scores, 0.0)

    def of(self, place: np.ndarray, items: np.ndarray) -> np.ndarray:
        pairs = place * self._num_items + items
        found = np.searchsorted(self._pairs[:-1], pairs)
        return np.where(self._pairs[found] == pairs, self._scores[found], 0.0)

    def standing(
        self, part: slice, place: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        own = slice(self._starts[part.start], self._starts[part.stop])
        targets = self.of(place, items)
        higher, equal = standing_among(self._scores[:-1][own], self._owner[own], targets, place)
        others = self._num_items - np.diff(self._starts)[place]
        return higher, np.where(targets > 0, equal, others)

    def top(self, part: slice, known: Known, k: int) -> np.ndarray:
        first, end = (
            self._starts[part.start : part.stop],
            self._starts[part.start + 1 : part.stop + 1],
        )
        last = end[:, np.newaxis] - np.arange(1, k + 1)
        there = last >= first[:, np.newaxis]
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
    total, num_items = len(held_out.users), held_out.dataset.num_items
    ranking = _Ranking(held_out, scored)
    together = max(1, min(USERS_AT_ONCE, SCORES_IN_CACHE // num_items))
    # NumPy lets the others count where a pass over many scores is under way, and BLAS's own threads
    # would spin meanwhile, in wait for the next product.
    with one_blas_thread(), ThreadPoolExecutor(os.cpu_count(), "ranks") as threads:
        for chunk in metrics.chunks(total, scored.at_once):
            users = ranking.users[chunk]
            scored.score(users, threads)
            rank = functools.partial(ranking.rank, chunk.start, Known(held_out, users))
            parts = range(0, len(users), together)
            list(threads.map(rank, [slice(n, min(n + together, len(users))) for n in parts]))
    asked = held_out.asked
    return {
        "ranks": ranking.ranks[asked],
        "ranks_of_all": ranking.ranks_of_all,
        "top": ranking.top[np.unique(held_out.owner[asked])],
    }


class _Ranking:
    """The ranks of held-out items, found for some users after others.

    Args:
        held_out: See `rank_all`.
        scored: See there.

    Attributes:
        users: Positions of the users, `[U]`, those with most held-out items first.
        ranks: Of each item among those that its user does not have yet, `[H]`; of no meaning where
            it is not asked for.
        ranks_of_all: Of each item among all, `[H]`.
        top: What is recommended to each user, `[U, k]`.
    """

    def __init__(self, held_out: HeldOut, scored: Scored) -> None:
        self._held_out, self._scored = held_out, scored
        total, each = len(held_out.users), held_out.owner
        items = np.bincount(each, minlength=total)
        self.users = np.argsort(-items, kind="stable")
        self._rows = np.argsort(np.argsort(self.users)[each], kind="stable")  # in the users' order
        self._starts = np.append(0, np.cumsum(items[self.users]))
        self.ranks, self.ranks_of_all = np.zeros((2, len(each)), np.int32)
        self.top = np.zeros((total, min(TOP, held_out.dataset.num_items)), np.int32)

    def rank(self, first: int, known: Known, part: slice) -> None:
        """Finds those of some users whose scores are ready.

        Args:
            first: Place in `users` of the first who is ready.
            known: What those who are ready know.
            part: Places of the users among those.
        """
        held_out, scored = self._held_out, self._scored
        edges = self._starts[first + part.start : first + part.stop + 1]
        rows = self._rows[edges[0] : edges[-1]]
        place = np.repeat(np.arange(part.start, part.stop), np.diff(edges))
        items, asked = held_out.item[rows] - 1, held_out.asked[rows]
        targets = scored.of(place, items)
        seeds = held_out.users[self.users[first : first + part.stop]]

        def ranked(above: np.ndarray, level: np.ndarray, these: np.ndarray) -> np.ndarray:
            tied = place[these], items[these], targets[these], level[these]
            return above[these] + places_of_each(*tied, seeds)

        higher, equal = scored.standing(part, place, items)
        self.ranks_of_all[rows] = ranked(higher, equal, np.arange(len(rows)))
        owner, item = known.of(part)
        had = standing_among(scored.of(owner, item), owner, targets, place)
        self.ranks[rows[asked]] = ranked(higher - had[0], equal - had[1], asked)
        mine = self.users[first + part.start : first + part.stop]
        self.top[mine] = scored.top(part, known, self.top.shape[1]) + 1
