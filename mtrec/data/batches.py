"""Batches as packed row numbers: a seeded permutation each epoch, a slice for each replica.

Every random choice is a function of (seed, epoch, step) and is made for the global batch before it
is cut into replicas' slices. Any number of replicas therefore trains on the same examples, and a
job can start again at any step, given what was mined for its epoch.

A batch is a dictionary of arrays. Q, N, H, K, M, P, V count queries, rows, history entries, pairs
of a query and an item of its own, distinct items, pool items and items drawn for views of one
replica; shapes are padded so that all replicas' agree.

| field | shape | meaning |
|---|---|---|
| query | Q | user row of each query; 0 for padding |
| query_draw | Q | drawn evenly from 0 to 1: features with dropout are unknown to the lowest |
| history_query, history_item | H | query an entry belongs to (-1 for padding), position in `item` |
| history_label_rating, ... | H | rating and other labels of the entry, NaN where there is none |
| own_query | K | query that has, brought or might have brought the item; -1 for padding |
| own_item, own_pool | K | position of the item in `item`, in the whole pool (-1 for padding) |
| own_log_q | K | log Q of the item |
| own_weight | K | 0: the user has it, it is no negative; 1: given or mined, there for certain; \
else one over the probability that other units bring what the query might have brought |
| item | M | distinct item rows of rows, histories and own items; 0 for padding |
| row_query, row_item | N | query of a training row, position of its target in `item` |
| row_weight | N | 1 for a row and 0 for padding |
| row_draw | N | drawn evenly from 0 to 1: a task that takes a share of the rows takes the lowest |
| row_time | N | int64 seconds since 1970 of the row; 0 where it has none, and for padding |
| label_rating, ... | N | rating and other labels of the interactions, NaN where a row has none |
| row_kind | N | 1 for the first row with its query and target, 0 for repeats and padding |
| row_had | N | 1 where the user has the item of the row by an interaction that is no target |
| row_pool | N | position of the row's target in the whole pool; -1: not there, or padding |
| row_log_q | N | log Q of the row's target |
| pool, pool_log_q | P | items r, r + R, ... of the pool for replica r (0 for padding), log Q |
| pool_frozen | P | 1 for an item that the pool's gradient does not move |
| view_item | V | drawn items r, r + R, ... for replica r; 0 for padding; if a head asks for views |
| view_draw | 1 | a whole number drawn evenly, by which the features of both views are chosen |

Where negatives have a `log_q_rate`, log Q is 0 here and the step puts its estimate in its place.
The whole pool is that of all replicas or, with local negatives, the replica's own. Rows of a query
lie side by side, as do entries of its history, and are in time order. No entry of a history has the
item of a target of its query, however often the user took it. A pair of query and own item occurs
once, if the item is in the pool, whether it was shown or not; those of a query lie side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories, first_of_each
from mtrec.data.negatives import Negatives, Pool
from mtrec.data.units import Brings, Queries, Units
from mtrec.errors import UserError

Batch = dict[str, np.ndarray]

# Tell the random streams of pools, of draws for each row and query, and of views, from the batch's.
_POOL, _DRAW, _QUERY_DRAW, _VIEW = 1, 2, 3, 4
# Lengths that vary are padded to a multiple of this, so that few shapes occur.
ROUND_TO = 256


@dataclass(frozen=True)
class _Global:
    """The batch of a step before it is cut."""

    queries: Queries
    draw: np.ndarray  # a number from 0 to 1 for each row
    query_draw: np.ndarray  # the same for each query


class Batches:
    """The training batches of every epoch and replica.

    Args:
        dataset: The data.
        fit: Row numbers of the interactions to train on.
        batch_of: `users`: a query is a user with all their rows. `rows`: a query is one row.
        global_batch: Queries in a batch over all replicas.
        history_share: Probability that an item is shown as history, with all that the user did with
            it. With `users`, the items not shown are the targets; with `rows`, the other items of
            the row's user are thinned.
        chronological: Whether only earlier entries are shown (by time, ties excluded), those of
            items that are not a target too.
        negatives: What the pool is made of; null if no head needs one.
        num_replicas: Replicas that share a batch.
        seed: Seed of all random choices.
        views: Items drawn evenly from the catalogue in each step for heads that compare views of
            them; all items if there are fewer, and 0 if no head does.

    Attributes:
        histories: The interactions to train on, by user.
        known: Those by which users have something.
        num_items: Items in the catalogue.
        steps_per_epoch: Steps that show every query once.

    Raises:
        UserError: If the batch does not divide by the replicas, or the data lacks the negatives
            that are asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        fit: np.ndarray,
        *,
        batch_of: str,
        global_batch: int,
        history_share: float,
        chronological: bool,
        negatives: Negatives | None,
        num_replicas: int,
        seed: int,
        views: int = 0,
    ) -> None:
        if global_batch % num_replicas:
            down = global_batch // num_replicas * num_replicas
            raise UserError(
                f"train.global_batch must divide by the number of replicas ({num_replicas}); got "
                f"{global_batch}. Set train.global_batch={down or num_replicas}."
            )
        self.histories = Histories.of_all(dataset, fit)
        self.known = Histories.of(dataset, fit)
        self.batch_of = batch_of
        self.global_batch = global_batch
        self.num_replicas = num_replicas
        self.seed = seed
        self.views = views
        columns = {n: np.asarray(c)[self.histories.rows] for n, c in dataset.interactions.items()}
        self._time = columns["timestamp"].astype(np.int64)
        self._units = Units(
            self.histories,
            self._time,
            batch_of=batch_of,
            history_share=history_share,
            chronological=chronological,
        )
        self.num_items = dataset.num_items
        self._shuffled: tuple[int, np.ndarray] | None = None
        self.negatives = negatives
        self._given: np.ndarray | None = None
        if negatives:
            if negatives.given:
                self._given = _given(columns)
            brings = self._units.brings(self._given)
            negatives.adapt(brings.item, num_items=self.num_items, target_share=brings.share)
            self._uncertain = self._units.uncertain(brings)
        self._mined = np.zeros((dataset.num_users + 1, 0), np.int32)
        self._made: dict[int, _Global] = {}
        self.steps_per_epoch = -(-len(self._units.ids) // global_batch)

    def mine(self, lists: np.ndarray) -> None:
        """Takes the items that each user brings into the pool beside, from the next step on.

        Args:
            lists: Distinct item rows for each user row, `[U + 1, k]`, 0 for none; none of them is
                among those of `not_to_mine`.
        """
        self._mined = lists
        if self.negatives:
            counts = np.diff(self.histories.offsets)
            units = counts if self.batch_of == "rows" else counts > 0
            found = lists > 0
            units = np.broadcast_to(units[:, np.newaxis], lists.shape)[found]
            self.negatives.adapt_mined(
                np.bincount(lists[found], weights=units, minlength=self.num_items + 1)
            )

    def not_to_mine(self, users: np.ndarray) -> list[np.ndarray]:
        """What each of `users` has, was shown or was given to be told from, as item rows."""
        entries, _ = self.histories.entries(users)
        counts = self.histories.offsets[users + 1] - self.histories.offsets[users]
        ends = np.cumsum(counts)[:-1]
        own = np.split(self.histories.items[entries], ends)
        if self._given is None:
            return own
        given = np.split(self._given[entries], ends)
        return [np.concatenate([o, g[g > 0]]) for o, g in zip(own, given, strict=True)]

    def _order(self, epoch: int) -> np.ndarray:
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self._units.ids)
            self._shuffled = (epoch, order)
        return self._shuffled[1]

    def step(self, epoch: int, step: int) -> list[Batch]:
        """The batch of one step, a slice for each replica."""
        place = (epoch - 1) * self.steps_per_epoch + step
        past = self.negatives.past_batches if self.negatives else 0
        # This batch, then those before it that the pool asks for.
        wanted = range(place, max(place - past, 0) - 1, -1)
        self._made = {p: self._made.get(p) or self._make(p) for p in wanted}
        batches = list(self._made.values())
        replicas = self.num_replicas
        size = self.global_batch // replicas
        starts = range(0, self.global_batch, size)
        if self.negatives and self.negatives.local:
            pools = [self._pool(batches, first, size, place) for first in starts]
            own = [slice(None)] * replicas
        else:
            pools = [self._pool(batches, 0, self.global_batch, place)] * replicas
            own = [slice(replica, None, replicas) for replica in range(replicas)]
        slices = [
            self._slice(batches[0], first, size, pool, part) | views
            for first, pool, part, views in zip(starts, pools, own, self._views(place), strict=True)
        ]
        return pad_together(slices, queries=size)

    def _make(self, place: int) -> _Global:
        epoch, step = place // self.steps_per_epoch + 1, place % self.steps_per_epoch
        units = self._order(epoch)[step * self.global_batch : (step + 1) * self.global_batch]
        queries = self._units.draw(units, np.random.default_rng([self.seed, epoch, step]))
        draw, query_draw = (
            np.random.default_rng([self.seed, place, stream]).random(size, np.float32)
            for stream, size in ((_DRAW, len(queries.row)), (_QUERY_DRAW, len(queries.user)))
        )
        return _Global(queries, draw, query_draw)

    def _pool(self, batches: Sequence[_Global], first: int, size: int, place: int) -> Pool:
        """The pool over the `size` queries from `first` on."""
        if self.negatives is None:
            return Pool.empty(self.num_items)
        targets, shares = [], []
        for age, batch in enumerate(batches):
            part, _ = batch.queries.part(first, size)
            _, brought = self._brought(part, mined=age == 0)
            targets.append(np.concatenate([self.histories.items[part.row], brought]))
            shares.append(len(part.user) / len(self._units.ids))
        return self.negatives.pool(
            targets, shares, np.random.default_rng([self.seed, place, first, _POOL])
        )

    def _brought(self, queries: Queries, *, mined: bool) -> tuple[np.ndarray, np.ndarray]:
        """Items that come into the pool with a query beside its targets, and the query of each."""
        owners: list[np.ndarray] = [np.zeros(0, np.int32)]
        items: list[np.ndarray] = [np.zeros(0, np.int32)]
        if self._given is not None:
            given = self._given[queries.row]
            owners.append(queries.row_owner[given > 0])
            items.append(given[given > 0])
        if mined:
            lists = self._mined[queries.user]
            owners.append(np.nonzero(lists)[0])
            items.append(lists[lists > 0])
        return np.concatenate(owners), np.concatenate(items)

    def _views(self, place: int) -> list[Batch]:
        """Each replica's fields of a step for heads that compare views."""
        if not self.views:
            return [{}] * self.num_replicas
        rng = np.random.default_rng([self.seed, place, _VIEW])
        count = min(self.views, self.num_items)
        items = rng.choice(self.num_items, count, replace=False, shuffle=False) + 1
        draw = rng.integers(2**31, size=1)
        own = [slice(replica, None, self.num_replicas) for replica in range(self.num_replicas)]
        return [{"view_item": items[part], "view_draw": draw} for part in own]

    def _slice(self, batch: _Global, first: int, size: int, pool: Pool, part: slice) -> Batch:
        queries, mine = batch.queries.part(first, size)
        items, labels = self.histories.items, self.histories.labels
        row, shown = queries.row, queries.shown
        target, history = items[row], items[shown]
        target_pair = self._pair(queries.row_owner, target)
        own = self._own(queries, target_pair, pool)
        own_item = own.pop("item")
        item, position = np.unique(np.concatenate([target, history, own_item]), return_inverse=True)
        row_item, history_item, own_place = np.split(
            position, [len(target), len(target) + len(history)]
        )
        return {
            "query": queries.user,
            "query_draw": batch.query_draw[first : first + size],
            "history_query": queries.shown_owner,
            "history_item": history_item,
            "own_item": own_place,
            "own_log_q": pool.log_q[own_item],
            **{f"own_{name}": values for name, values in own.items()},
            "item": item,
            "row_query": queries.row_owner,
            "row_item": row_item,
            "row_weight": np.ones(len(target), np.float32),
            "row_draw": batch.draw[mine],
            "row_time": self._time[row],
            "row_kind": first_of_each(target_pair),
            "row_had": queries.row_had,
            "row_pool": _positions(pool.items, target),
            "row_log_q": pool.log_q[target],
            "pool": pool.items[part],
            "pool_log_q": pool.log_q[pool.items[part]],
            "pool_frozen": pool.frozen[part],
            **{f"label_{name}": label[row] for name, label in labels.items()},
            **{f"history_label_{name}": label[shown] for name, label in labels.items()},
        }

    def _own(self, queries: Queries, target_pair: np.ndarray, pool: Pool) -> Batch:
        """Items of the pool that are a query's own, but for its targets; see the fields `own_`."""
        had, had_owner = self.histories.items[queries.had], queries.had_owner
        owner, brought = self._brought(queries, mined=True)
        if len(brought):
            pair, had_pair = self._pair(owner, brought), self._pair(had_owner, had)
            new = first_of_each(pair) & ~np.isin(pair, np.concatenate([target_pair, had_pair]))
            owner, brought = owner[new], brought[new]
        weight = np.repeat(np.array([0, 1], np.float32), [len(had), len(brought)])
        owner, item = np.concatenate([had_owner, owner]), np.concatenate([had, brought])
        if pool.log_missed is not None:
            taken = np.concatenate([target_pair, self._pair(owner, item)])
            left, might = self._not_brought(queries, taken)
            log_q = pool.log_q_beside(might.item, might.share)
            owner, item = np.concatenate([owner, left]), np.concatenate([item, might.item])
            weight = np.concatenate([weight, np.exp(-log_q).astype(np.float32)])
        place = _positions(pool.items, item)
        found = {"query": owner, "item": item, "pool": place, "weight": weight}
        there = np.flatnonzero(place >= 0)
        there = there[np.argsort(owner[there], kind="stable")]
        return {name: values[there] for name, values in found.items()}

    def _not_brought(self, queries: Queries, taken: np.ndarray) -> tuple[np.ndarray, Brings]:
        """What queries might have brought, but for the pairs `taken`, and the query of each."""
        units = self._uncertain.unit
        first, end = (np.searchsorted(units, queries.user, side) for side in ("left", "right"))
        counts = end - first
        owner = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(owner)) + np.repeat(end - np.cumsum(counts), counts)
        free = ~np.isin(self._pair(owner, self._uncertain.item[place]), taken)
        return owner[free], self._uncertain.of(place[free])

    def _pair(self, owner: np.ndarray, item: np.ndarray) -> np.ndarray:
        return owner.astype(np.int64) * (self.num_items + 1) + item


def _given(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if "negative" not in columns:
        raise UserError(
            "negatives.given needs data that names them: a column of the interactions in "
            "data.negative. Set that, or negatives.given=false."
        )
    return columns["negative"]


def _positions(pool: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Position of each item in the ascending pool, -1 where it is not there."""
    if len(pool) == 0:
        return np.full(len(items), -1)
    found = np.minimum(np.searchsorted(pool, items), len(pool) - 1)
    return np.where(pool[found] == items, found, -1)


def rounded(length: int) -> int:
    """The padded length: the next multiple of `ROUND_TO`, at least one."""
    return max(1, -(-length // ROUND_TO)) * ROUND_TO


def padding(name: str) -> float:
    """What a field is padded with."""
    if name.startswith(("label_", "history_label_")):
        return float("nan")
    return -1 if name in ("history_query", "own_query", "own_pool", "row_pool") else 0


def _kind(name: str, values: np.ndarray) -> type[np.generic]:
    if values.dtype.kind == "f":
        return np.float32
    # Seconds since 1970 end with 2038 in int32, and float32 rounds them to two minutes.
    return np.int64 if name == "row_time" else np.int32


def pad_together(slices: Sequence[Batch], *, queries: int) -> list[Batch]:
    """Pads each field of all slices to one length, `query` to exactly `queries`."""
    padded: list[Batch] = [{} for _ in slices]
    for name in slices[0]:
        longest = max(len(part[name]) for part in slices)
        length = queries if name in ("query", "query_draw") else rounded(longest)
        for part, out in zip(slices, padded, strict=True):
            values = np.asarray(part[name])
            out[name] = np.full(length, padding(name), _kind(name, values))
            out[name][: len(values)] = values
    return padded


def stack(steps: Sequence[Batch]) -> Batch:
    """Several steps' batches of one replica as arrays `[K, ...]`, for one call of the step."""
    padded = pad_together(steps, queries=len(steps[0]["query"]))
    return {name: np.stack([part[name] for part in padded]) for name in padded[0]}
