"""Batches as packed row numbers: a seeded permutation each epoch, a slice for each replica.

Every random choice is a function of (seed, epoch, step) and is made for the global batch before it
is cut into replicas' slices. Any number of replicas therefore trains on the same examples, and a
job can start again at any step, given what was mined for its epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrec.data.batching import Batching
from mtrec.data.before import Before
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories, first_of_each
from mtrec.data.inputs import (
    Batch,
    HistoryInputs,
    Lengths,
    Own,
    PoolSlice,
    QueryInputs,
    Rows,
    Views,
    pad,
)
from mtrec.data.marks import Marks, Places, is_among
from mtrec.data.negatives import Negatives, Pool
from mtrec.data.units import Brings, Queries, Units
from mtrec.errors import UserError

# Tell the random streams of pools, of draws for each row and query, and of views, from the batch's.
_POOL, _DRAW, _QUERY_DRAW, _VIEW = 1, 2, 3, 4


@dataclass(frozen=True)
class _Global:
    """The batch of a step before it is cut."""

    queries: Queries
    draw: np.ndarray  # a number from 0 to 1 for each row
    query_draw: np.ndarray  # the same for each query


@dataclass(frozen=True)
class _Share:
    """What a replica has of a batch, as far as it must be known to cut what all of them have.

    Attributes:
        first: The number of its first query.
        queries: Its queries.
        mine: Which targets of the batch are theirs.
        target_pair: The pair of query and item that each of their targets is.
        pool: The whole pool that they are told from.
        embeds: What the replica embeds of it.
        own: Their own items of the pool, by item row.
        views: Its items to compare views of.
        again: The place in what is shown of each item that a query may take again.
        items: The item rows that it names, repeated.
        named: Each of them once, ascending, and the position there of all of them; None for a
            replica that is only counted.
    """

    first: int
    queries: Queries
    mine: slice
    target_pair: np.ndarray
    pool: Pool
    embeds: slice
    own: Own
    views: Views
    again: np.ndarray
    items: np.ndarray
    named: tuple[np.ndarray, np.ndarray] | None


class Batches:
    """The training batches of every epoch and replica.

    Args:
        dataset: The data.
        fit: Row numbers of the interactions to train on.
        batching: What a batch is made of.
        negatives: What the pool is made of; null if no head needs one.
        num_replicas: Replicas that share a batch; where it does not divide, the last have less.
        seed: Seed of all random choices.
        views: Items drawn evenly from the catalogue in each step for heads that compare views of
            them; all items if there are fewer, and 0 if no head does.
        before: Whether heads ask what users did with items before, or will take again: then
            `Rows.before` and `Batch.again` are made.

    Attributes:
        histories: The interactions to train on, by user.
        known: Those by which users have something.
        num_items: Items in the catalogue.
        queries_per_epoch: Queries of an epoch.
        steps_per_epoch: Steps that show every query once.

    Raises:
        UserError: If the data has repeats and is not shown in time order, or lacks the negatives
            that are asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        fit: np.ndarray,
        batching: Batching,
        *,
        negatives: Negatives | None,
        num_replicas: int,
        seed: int,
        views: int = 0,
        before: bool = False,
    ) -> None:
        if dataset.repeats and not batching.chronological and batching.batch_of != "requests":
            raise UserError(
                "`chronological` must be true with `repeats`, or what a user takes again would be "
                "told by what they took later; got false. Set `chronological`=true."
            )
        self.histories = Histories.of_all(dataset, fit)
        self.known = self.histories if dataset.taken is None else Histories.of(dataset, fit)
        self.batching = batching
        self.global_batch = batching.global_batch
        self.num_replicas = num_replicas
        self.seed = seed
        self.views = views
        rows = self.histories.rows
        self._units = Units(
            self.histories,
            batch_of=batching.batch_of,
            history_share=batching.history_share,
            chronological=batching.chronological,
            repeats=dataset.repeats,
            request=requests[rows]
            if (requests := dataset.interactions.get("request")) is not None
            else None,
        )
        self.num_items = dataset.num_items
        self._before = Before(self.histories, self.num_items) if before else None
        self._shuffled: tuple[int, np.ndarray] | None = None
        self.negatives = negatives
        asked = negatives is not None and negatives.given
        self._given = _given(dataset.interactions)[rows] if asked else None
        if negatives:
            brings = self._units.brings(self._given) if negatives.sampled else Brings.none()
            negatives.adapt(brings.item, num_items=self.num_items, target_share=brings.share)
            self._uncertain = self._units.uncertain(brings)
        self._mined = np.zeros((dataset.num_users + 1, 0), np.int32)
        self._made: dict[int, _Global] = {}
        self._marks, self._places = Marks(self.num_items + 1), Places(self.num_items + 1)
        self.queries_per_epoch = len(self._units.ids)
        self.steps_per_epoch = -(-self.queries_per_epoch // self.global_batch)

    def mine(self, lists: np.ndarray) -> None:
        """Takes the items that each user brings into the pool beside, from the next step on.

        Args:
            lists: Distinct item rows for each user row, `[U + 1, k]`, 0 for none; none of them is
                among those of `not_to_mine`.
        """
        self._mined = lists
        if self.negatives:
            found = lists > 0
            units = np.broadcast_to(self._units.per_user[:, np.newaxis], lists.shape)[found]
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

    def step(self, epoch: int, step: int, *, replicas: Sequence[int] | None = None) -> list[Batch]:
        """The batch of one step, a slice for each of `replicas`, or for all of them.

        What others have of it is counted, so that lengths agree, and not made.
        """
        place = (epoch - 1) * self.steps_per_epoch + step
        past = self.negatives.past_batches if self.negatives else 0
        # This batch, then those before it that the pool asks for.
        wanted = range(place, max(place - past, 0) - 1, -1)
        self._made = {p: self._made.get(p) or self._make(p) for p in wanted}
        batches = list(self._made.values())
        size = -(-self.global_batch // self.num_replicas)
        asked = range(self.num_replicas) if replicas is None else replicas
        shares = self._shares(batches, size, place, asked)
        counts = [self._counted(share) for share in shares]
        lengths = Lengths(*map(max, zip(*counts, strict=True)))
        return [
            pad(self._slice(batches[0], shares[replica], size), lengths, queries=size)
            for replica in asked
        ]

    def _shares(
        self, batches: Sequence[_Global], size: int, place: int, asked: Sequence[int]
    ) -> list[_Share]:
        """What every replica has of the first of the batches, those `asked` for to be made."""
        local = self.negatives is not None and self.negatives.local
        shares = []
        for replica, views in enumerate(self._views(place)):
            first = replica * size
            if not replica or local:
                pool = self._pool(batches, first, size if local else self.global_batch, place)
            queries, mine = batches[0].queries.part(first, size)
            items = self.histories.items
            target = items[queries.row]
            target_pair = self._pair(queries.row_owner, target)
            own = self._own(queries, target_pair, pool)
            named = np.concatenate([target, items[queries.shown], own.item])
            shown = self._pair(queries.shown_owner, items[queries.shown])
            again = first_of_each(shown) if self._before else np.zeros(0, bool)
            shares.append(
                _Share(
                    first=first,
                    queries=queries,
                    mine=mine,
                    target_pair=target_pair,
                    pool=pool,
                    embeds=slice(None) if local else slice(replica, None, self.num_replicas),
                    own=own,
                    views=views,
                    again=np.flatnonzero(again),
                    items=named,
                    named=self._marks.numbered(named) if replica in asked else None,
                )
            )
        return shares

    def _counted(self, share: _Share) -> Lengths:
        return Lengths(
            history=len(share.queries.shown),
            items=len(share.named[0] if share.named else self._marks.distinct(share.items)),
            rows=len(share.queries.row),
            own=len(share.own.item),
            pool=len(share.pool.items[share.embeds]),
            views=len(share.views.items),
            again=len(share.again),
        )

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
        if mined and self._mined.shape[1]:
            lists = self._mined[queries.user]
            owners.append(np.nonzero(lists)[0])
            items.append(lists[lists > 0])
        return np.concatenate(owners), np.concatenate(items)

    def _views(self, place: int) -> list[Views]:
        """What each replica has of a step's items to compare views of."""
        rng = np.random.default_rng([self.seed, place, _VIEW])
        count = min(self.views, self.num_items)
        items = rng.choice(self.num_items, count, replace=False, shuffle=False) + 1
        draw = rng.integers(2**31)
        own = [slice(replica, None, self.num_replicas) for replica in range(self.num_replicas)]
        return [Views(items[part], draw) for part in own]

    def _slice(self, batch: _Global, share: _Share, size: int) -> Batch:
        """The replica's slice, not padded."""
        queries, pool, part = share.queries, share.pool, share.embeds
        row, shown = queries.row, queries.shown
        labels = self.histories.labels
        assert share.named
        item, position = share.named
        row_place, history_place, own_place = np.split(position, [len(row), len(row) + len(shown)])
        target = item[row_place]
        return Batch(
            query=QueryInputs(
                users=queries.user,
                history=HistoryInputs(
                    items=item,
                    owners=queries.shown_owner,
                    places=history_place,
                    labels={name: label[shown] for name, label in labels.items()},
                ),
                draw=batch.query_draw[share.first : share.first + size],
                requests=np.where(queries.first < 0, 0, self.histories.rows[queries.first] + 1),
            ),
            rows=Rows(
                query=queries.row_owner,
                item=row_place,
                weight=np.ones(len(target), np.float32),
                draw=batch.draw[share.mine],
                time=self.histories.times[row],
                labels={name: label[row] for name, label in labels.items()},
                kind=first_of_each(share.target_pair),
                had=queries.row_had,
                pool=self._places.of(pool.items, target),
                log_q=pool.log_q[target],
                before=self._before.of_targets(queries) if self._before else (),
                requests=(self.histories.rows[row] + 1).astype(np.int32),
            ),
            own=share.own._replace(item=own_place),
            pool=PoolSlice(
                items=pool.items[part],
                log_q=pool.log_q[pool.items[part]],
                frozen=pool.frozen[part],
            ),
            views=share.views,
            again=self._before.again(queries, share.again, history_place) if self._before else (),
        )

    def _own(self, queries: Queries, target_pair: np.ndarray, pool: Pool) -> Own:
        """Items of the pool that are a query's own, but for its targets, by their item rows."""
        had, had_owner = self.histories.items[queries.had], queries.had_owner
        owner, brought = self._brought(queries, mined=True)
        if len(brought):
            pair, had_pair = self._pair(owner, brought), self._pair(had_owner, had)
            new = first_of_each(pair) & ~is_among(pair, np.concatenate([target_pair, had_pair]))
            owner, brought = owner[new], brought[new]
        in_order = not len(brought)
        weight = np.repeat(np.array([0, 1], np.float32), [len(had), len(brought)])
        owner, item = np.concatenate([had_owner, owner]), np.concatenate([had, brought])
        if pool.log_missed is not None and len(self._uncertain.unit):
            taken = np.concatenate([target_pair, self._pair(owner, item)])
            left, might = self._not_brought(queries, taken)
            log_q = pool.log_q_beside(might.item, might.share)
            owner, item = np.concatenate([owner, left]), np.concatenate([item, might.item])
            weight = np.concatenate([weight, np.exp(-log_q).astype(np.float32)])
            in_order = False
        place = self._places.of(pool.items, item)
        there = np.flatnonzero(place >= 0)
        there = there if in_order else there[np.argsort(owner[there], kind="stable")]
        owner, item, place, weight = (v[there] for v in (owner, item, place, weight))
        return Own(owner, item, place, pool.log_q[item], weight)

    def _not_brought(self, queries: Queries, taken: np.ndarray) -> tuple[np.ndarray, Brings]:
        """What queries might have brought, but for the pairs `taken`, and the query of each."""
        units = self._uncertain.unit
        first, end = (np.searchsorted(units, queries.user, side) for side in ("left", "right"))
        counts = end - first
        owner = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(owner)) + np.repeat(end - np.cumsum(counts), counts)
        free = ~is_among(self._pair(owner, self._uncertain.item[place]), taken)
        return owner[free], self._uncertain.of(place[free])

    def _pair(self, owner: np.ndarray, item: np.ndarray) -> np.ndarray:
        return owner.astype(np.int64) * (self.num_items + 1) + item


def _given(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if "negative" not in columns:
        raise UserError(
            "`negatives.given` needs data that names them: a column of the interactions in "
            "`negative`. Set that, or `negatives.given`=false."
        )
    return columns["negative"]
