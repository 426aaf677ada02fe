"""Batches as packed row numbers: a seeded permutation each epoch, a slice for each replica.

Every random choice is a function of (seed, epoch, step) and is made for the global batch before it
is cut into replicas' slices. Any number of replicas therefore trains on the same examples, and a
job can start again at any step, given what was mined for its epoch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mtrec.data.batching import Batching
from mtrec.data.before import Before
from mtrec.data.dataset import Dataset
from mtrec.data.drawn import Drawn, Queries
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
from mtrec.data.room import copied, of_rows
from mtrec.data.share import Share
from mtrec.data.units import Brings, Units
from mtrec.errors import UserError

# Tell the random streams of pools, of draws for each row and query, and of views, from the batch's.
_POOL, _DRAW, _QUERY_DRAW, _VIEW = 1, 2, 3, 4


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
            request=of_rows(requests, rows)
            if (requests := dataset.interactions.get("request")) is not None
            else None,
        )
        self.num_items = dataset.num_items
        self._before = Before(self.histories, self.num_items) if before else None
        self._shuffled: tuple[int, np.ndarray] | None = None
        self.negatives = negatives
        asked = negatives is not None and negatives.given
        self._given = of_rows(_given(dataset.interactions), rows) if asked else None
        if negatives:
            negatives.adapt(lambda: self._units.brings(self._given), num_items=self.num_items)
            sampled = negatives.sampled
            self._uncertain = self._units.uncertain(self._given) if sampled else Brings.none()
        self._mined = np.zeros((dataset.num_users + 1, 0), np.int32)
        self._made: dict[int, Drawn] = {}
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
            order = copied(self._units.ids, like=self.histories.items)
            np.random.default_rng([self.seed, epoch]).shuffle(order)
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
        self._made = {p: self._made.get(p) or self._draw(p) for p in wanted}
        asked = range(self.num_replicas) if replicas is None else replicas
        size = -(-self.global_batch // self.num_replicas)
        local = self.negatives is not None and self.negatives.local
        drawn, shares, lengths = self._made[place], {}, []
        for replica, views in enumerate(self._views(place)):
            first = replica * size
            if not replica or local:
                pool = self._pool(first, size if local else self.global_batch, place)
            embeds = slice(None) if local else slice(replica, None, self.num_replicas)
            if replica in asked or self._beside(pool):
                share = self._share(drawn.queries(first, size), pool, embeds, views)
                shares[replica] = share
                lengths.append(share.lengths)
            else:
                part = drawn.part(first, size)
                lengths.append(self._counted(drawn, part, pool, embeds, views))
        most = Lengths(*map(max, zip(*lengths, strict=True)))
        return [
            pad(self._slice(drawn, shares[replica], replica * size, place), most, queries=size)
            for replica in asked
        ]

    def _beside(self, pool: Pool) -> bool:
        """Whether a share has more than its entries' marks tell."""
        given, mined = self._given is not None, self._mined.shape[1] > 0
        return given or mined or self._before is not None or self._might_bring(pool)

    def _might_bring(self, pool: Pool) -> bool:
        """Whether queries might bring what they do not."""
        return pool.log_missed is not None and len(self._uncertain.unit) > 0

    def _share(self, queries: Queries, pool: Pool, embeds: slice, views: Views) -> Share:
        """What the replica of `queries` has of a batch."""
        items = self.histories.items
        target, shown = items[queries.row], items[queries.shown]
        own = self._own(queries, target, pool)
        again = np.zeros(0, np.int64)
        if self._before:
            again = np.flatnonzero(first_of_each(self._pair(queries.shown_owner, shown)))
        named, position = self._marks.numbered(np.concatenate([target, shown, own.item]))
        places = np.split(position, [len(target), len(target) + len(shown)])
        return Share(queries, pool, embeds, own, views, again, named, places)

    def _counted(
        self, drawn: Drawn, part: slice, pool: Pool, embeds: slice, views: Views
    ) -> Lengths:
        """The `lengths` of the share of the queries whose entries these are."""
        items, target, shown = drawn.items[part], drawn.target[part], drawn.shown[part]
        own = drawn.had[part] & (self._places.of(pool.items, items) >= 0)
        return Lengths(
            history=int(np.count_nonzero(shown)),
            items=self._marks.count(items[np.flatnonzero(target | shown | own)]),
            rows=int(np.count_nonzero(target)),
            own=int(np.count_nonzero(own)),
            pool=len(pool.items[embeds]),
            views=len(views.items),
        )

    def _draw(self, place: int) -> Drawn:
        """The batch of a step before it is cut."""
        epoch, step = place // self.steps_per_epoch + 1, place % self.steps_per_epoch
        units = self._order(epoch)[step * self.global_batch : (step + 1) * self.global_batch]
        return self._units.draw(units, np.random.default_rng([self.seed, epoch, step]))

    def _pool(self, first: int, size: int, place: int) -> Pool:
        """The pool over the `size` queries from `first` on."""
        if self.negatives is None:
            return Pool.empty(self.num_items)
        targets, shares = [], []
        for at, drawn in self._made.items():
            part, users = drawn.part(first, size), drawn.user[first : first + size]
            target = np.flatnonzero(drawn.target[part])
            brought = [drawn.items[part][target]]
            if self._given is not None:
                given = self._given[drawn.entries[part][target]]
                brought.append(given[given > 0])
            if at == place and self._mined.shape[1]:
                mined = self._mined[users]
                brought.append(mined[mined > 0])
            targets.append(np.concatenate(brought))
            shares.append(len(users) / len(self._units.ids))
        return self.negatives.pool(
            targets, shares, np.random.default_rng([self.seed, place, first, _POOL])
        )

    def _brought(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Items that come into the pool with a query beside its targets, and the query of each."""
        owners: list[np.ndarray] = [np.zeros(0, np.int32)]
        items: list[np.ndarray] = [np.zeros(0, np.int32)]
        if self._given is not None:
            given = self._given[queries.row]
            owners.append(queries.row_owner[given > 0])
            items.append(given[given > 0])
        if self._mined.shape[1]:
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

    def _slice(self, drawn: Drawn, share: Share, first: int, place: int) -> Batch:
        """The slice of the replica whose queries begin with the `first` one, not padded."""
        queries, pool, part = share.queries, share.pool, share.embeds
        row, shown = queries.row, queries.shown
        labels = self.histories.labels
        row_place, history_place, own_place = share.places
        target = share.items[row_place]
        # Draws are those of the global batch: the first of them are of the replicas before.
        before = np.count_nonzero(drawn.target[: drawn.part(first, 0).start])
        draw, query_draw = (
            np.random.default_rng([self.seed, place, stream]).random(at + size, np.float32)[at:]
            for stream, at, size in (
                (_DRAW, before, len(row)),
                (_QUERY_DRAW, first, len(queries.user)),
            )
        )
        return Batch(
            query=QueryInputs(
                users=queries.user,
                history=HistoryInputs(
                    items=share.items,
                    owners=queries.shown_owner,
                    places=history_place,
                    labels={name: label[shown] for name, label in labels.items()},
                ),
                draw=query_draw,
                requests=np.where(queries.first < 0, 0, self.histories.rows[queries.first] + 1),
            ),
            rows=Rows(
                query=queries.row_owner,
                item=row_place,
                weight=np.ones(len(target), np.float32),
                draw=draw,
                time=self.histories.times[row],
                labels={name: label[row] for name, label in labels.items()},
                kind=queries.row_first,
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

    def _own(self, queries: Queries, target: np.ndarray, pool: Pool) -> Own:
        """Items of the pool that are a query's own, but for its targets, by their item rows."""
        owner, item = queries.had_owner, self.histories.items[queries.had]
        weight = np.zeros(len(item), np.float32)
        target_pair, in_order = self._pair(queries.row_owner, target), True
        of, brought = self._brought(queries)
        if len(brought):
            pair = self._pair(of, brought)
            taken = np.concatenate([target_pair, self._pair(owner, item)])
            new = first_of_each(pair) & ~is_among(pair, taken)
            owner, item = np.concatenate([owner, of[new]]), np.concatenate([item, brought[new]])
            weight = np.concatenate([weight, np.ones(np.count_nonzero(new), np.float32)])
            in_order = False
        if self._might_bring(pool):
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
