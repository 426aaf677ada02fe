"""Retrieval: which items a user will choose, out of the whole catalogue."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec import metrics, slices
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError
from mtrec.heads.head import Examples, Head, HeldOut, PerUser, Report
from mtrec.strategy import all_gather, all_sum

# Before the names of what the baseline was measured to do.
_POPULAR = "popular_"


class RetrievalLoss(ABC):
    """What a row costs, given its score and the candidate pool."""

    @abstractmethod
    def __call__(self, examples: Examples, temperature: float) -> tf.Tensor:
        """Loss of every row, `[N]`; scores are `<query, candidate> / temperature`."""


class ImplicitSquared(RetrievalLoss):
    """Squared error on positives plus a small weight on all pairs of query and candidate.

    `(1 - s_ui)^2 + w * sum_j s_uj^2`, the sum over the catalogue less the items in the query's
    history (Hu, Koren, Volinsky 2008). A query's sum is shared out over its rows. It is computed
    as `u^T G u` with the Gramian `G = sum_j v_j v_j^T`, so that B queries and C candidates cost
    O((B + C) D^2) and no B x C matrix exists (Krichene et al. 2019, arXiv:1807.07187). Replicas
    exchange D x D numbers.

    Args:
        all_pairs_weight: The weight w, relative to a positive's.
    """

    def __init__(self, *, all_pairs_weight: float) -> None:
        self.all_pairs_weight = all_pairs_weight

    def __call__(self, examples: Examples, temperature: float) -> tf.Tensor:
        """See the class."""
        batch = examples.batch
        query, pool = examples.query / temperature, examples.pool
        num_queries = tf.shape(query)[0]
        # A pool that is a sample stands for the catalogue: weight by 1 / P(in the pool).
        weight = tf.where(batch["pool"] > 0, tf.exp(-batch["pool_log_q"]), 0.0)
        gramian = all_sum(tf.matmul(pool, pool * weight[:, tf.newaxis], transpose_a=True))
        all_pairs = tf.reduce_sum(tf.matmul(query, gramian) * query, axis=-1)  # [Q]
        # What the Gramian has too much: a query's own targets, which are in the pool for certain
        # and stand for themselves alone, and the items of its history, which do not count.
        score = _dots(query, examples.item, batch["row_query"], batch["row_item"])
        surplus = tf.where(batch["row_first"] > 0, tf.exp(-batch["row_log_q"]) - 1.0, 0.0)
        all_pairs -= tf.math.unsorted_segment_sum(
            surplus * tf.square(score), batch["row_query"], num_queries
        )
        history_query = tf.maximum(batch["history_query"], 0)  # padding is nowhere in the pool
        history_score = _dots(query, examples.item, history_query, batch["history_item"])
        surplus = tf.where(batch["history_pool"] >= 0, tf.exp(-batch["history_log_q"]), 0.0)
        all_pairs -= tf.math.unsorted_segment_sum(
            surplus * tf.square(history_score), history_query, num_queries
        )
        rows = tf.math.unsorted_segment_sum(batch["row_weight"], batch["row_query"], num_queries)
        all_pairs = tf.math.divide_no_nan(all_pairs, rows)
        shared = tf.gather(all_pairs, batch["row_query"])
        return tf.square(1.0 - score) + self.all_pairs_weight * shared


class Softmax(RetrievalLoss):
    """Cross-entropy of the positive against the candidate pool of all replicas.

    In this order: scores over the temperature, minus log Q where the pool is a sample (Yi et al.
    2019), items of the query's history masked, then the softmax. The pool holds each item once,
    the positive included, so that no accidental hit can occur beside it.

    Args:
        log_q_correction: Whether to subtract the log of each candidate's probability of being in
            the pool, which undoes the over-sampling of popular items.
    """

    def __init__(self, *, log_q_correction: bool) -> None:
        self.log_q_correction = log_q_correction

    def __call__(self, examples: Examples, temperature: float) -> tf.Tensor:
        """See the class."""
        batch = examples.batch
        query = examples.query / temperature
        pool, ids = all_gather(examples.pool), all_gather(batch["pool"])
        scores = tf.matmul(query, pool, transpose_b=True)  # [Q, D] x [D, P] -> [Q, P]
        score = _dots(query, examples.item, batch["row_query"], batch["row_item"])
        if self.log_q_correction:
            scores -= all_gather(batch["pool_log_q"])
            score -= batch["row_log_q"]
        # Replica r embeds the pool's items r, r + R, ...; gathering puts its slice after r others.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        place = batch["history_pool"]
        place = place % replicas * tf.shape(batch["pool"])[0] + place // replicas
        pairs = tf.boolean_mask(
            tf.stack([batch["history_query"], place], axis=1), batch["history_pool"] >= 0
        )
        masked = tf.scatter_nd(pairs, tf.ones_like(pairs[:, 0]), tf.shape(scores))
        scores = tf.where((masked > 0) | (ids == 0), scores.dtype.min, scores)
        return tf.gather(tf.reduce_logsumexp(scores, axis=1), batch["row_query"]) - score


def _dots(query: tf.Tensor, item: tf.Tensor, owners: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(query, owners) * tf.gather(item, items), axis=-1)


class Retrieval(Head):
    """The dot product of the towers' outputs, trained to rank chosen items first.

    Args:
        dim: Width of its representations; null for the towers' shared output.
        normalize: Whether to scale both sides to length 1.
        temperature: Scores are divided by it in training.
        pool: `catalogue`, or `in_batch` for the items of the global batch.
        loss: The loss over rows and pool.
    """

    def __init__(
        self,
        *,
        dim: int | None,
        normalize: bool,
        temperature: float,
        pool: str,
        loss: RetrievalLoss,
    ) -> None:
        super().__init__(dim=dim)
        if pool not in ("catalogue", "in_batch"):
            raise UserError(f"A retrieval head's pool must be catalogue or in_batch; got {pool}.")
        self.normalize = normalize
        self.temperature = temperature
        self.pool = pool
        self.loss = loss

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, seed: int) -> None:
        """Nothing to make: the towers hold all weights."""

    def embed(self, representation: tf.Tensor) -> tf.Tensor:
        """What the index holds and is asked with: `[B, D]`, of length 1 if normalised."""
        if not self.normalize:
            return representation
        # A query that nothing is known of is a vector of zeros and stays one. Its gradient must
        # not be divided by an epsilon: a single one of 1e6 spoils Adam's moments for the whole job.
        squared = tf.reduce_sum(tf.square(representation), axis=-1, keepdims=True)
        return representation * tf.math.rsqrt(tf.where(squared > 0, squared, 1.0))

    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each row; every row that is not padding counts."""
        embedded = Examples(
            query=self.embed(examples.query),
            item=self.embed(examples.item),
            pool=self.embed(examples.pool),
            batch=examples.batch,
        )
        return self.loss(embedded, self.temperature), examples.batch["row_weight"]

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """Ranks in the whole catalogue, exact, and what is recommended.

        Returns:
            `ranks` of each new held-out item among the items the user does not have yet,
            `ranks_of_all`, of every held-out item among all, and `top`: the ten best item rows, 0
            where there are fewer, of each user with a new item, `[V, 10]`. If `full`, the same of
            the baseline, which recommends by popularity, with `popular_` before the names.
        """
        query, candidate = (np.asarray(self.embed(side)) for side in (query, candidate))
        measured = _rank_all(held_out, lambda rows: query[rows] @ candidate.T)
        if full:
            counts = slices.popularity(held_out.known, held_out.dataset.num_items)[1:]
            popular = _rank_all(
                held_out, lambda rows: np.tile(counts.astype(np.float32), (len(query[rows]), 1))
            )
            measured |= {f"{_POPULAR}{name}": values for name, values in popular.items()}
        return measured

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """Ranking metrics, means over users, beside those of the most popular items."""
        if not held_out.new.any():
            return Report(metrics={})
        found = _Ranked.of(held_out, measured, prefix="")
        if not full:
            return Report(metrics=found.averages())
        popular = _Ranked.of(held_out, measured, prefix=_POPULAR)
        return Report(
            metrics=found.averages(),
            baseline=popular.averages(),
            slices=_slices(held_out, found, popular),
            per_user=PerUser.summed(found.per_user(), found.users, len(held_out.users)),
        )


@dataclass(frozen=True)
class _Ranked:
    """Ranks of the new held-out items, and what was recommended instead of them."""

    users: np.ndarray  # positions in held_out.users of those with a new item, [V]
    owner: np.ndarray  # position in `users` of each new held-out item, [H]
    ranks: np.ndarray  # rank among the items the user does not have yet, [H]
    ranks_of_all: np.ndarray  # rank of every held-out item in the whole catalogue
    beyond: dict[str, float]  # coverage and popularity of the recommended items

    @classmethod
    def of(cls, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, prefix: str) -> "_Ranked":
        """From what `Retrieval.measure` measured under names that begin with `prefix`."""
        num_items = held_out.dataset.num_items
        top = measured[f"{prefix}top"]
        recommended = top[top > 0]
        share = slices.popularity(held_out.known, num_items) / held_out.dataset.num_users
        users, owner = np.unique(held_out.owner[held_out.new], return_inverse=True)
        return cls(
            users=users,
            owner=owner,
            ranks=measured[f"{prefix}ranks"],
            ranks_of_all=measured[f"{prefix}ranks_of_all"],
            beyond={
                "coverage_at_10": len(np.unique(recommended)) / num_items,
                "popularity_at_10": float(share[recommended].mean()),
            },
        )

    def per_user(self) -> dict[str, np.ndarray]:
        return metrics.ranking(self.ranks, self.owner, len(self.users))

    def averages(self) -> dict[str, float]:
        averages = {name: float(values.mean()) for name, values in self.per_user().items()}
        return averages | self.beyond | metrics.factorized_top_k(self.ranks_of_all)


def _rank_all(held_out: HeldOut, scores_of: Callable[[slice], np.ndarray]) -> dict[str, np.ndarray]:
    """Ranks every new held-out item, in chunks of users that keep B x C scores in 64 MiB."""
    num_items = held_out.dataset.num_items
    starts = np.searchsorted(held_out.owner, np.arange(len(held_out.users) + 1))
    ranks, ranks_of_all, top = [], [], []
    for rows in metrics.chunks(len(held_out.users), max(1, 2**24 // num_items)):
        scores = scores_of(rows)
        users = held_out.users[rows]
        parts = [slice(starts[u], starts[u + 1]) for u in range(rows.start, rows.stop)]
        items = [held_out.item[part] - 1 for part in parts]
        ranks_of_all.append(metrics.ranks(scores, items, users))
        entries, owners = held_out.known.entries(users)
        scores[owners, held_out.known.items[entries] - 1] = -np.inf
        items = [held_out.item[part][held_out.new[part]] - 1 for part in parts]
        ranks.append(metrics.ranks(scores, items, users))
        scores = scores[[len(new) > 0 for new in items]]
        best = metrics.top_k(scores, min(10, num_items))
        top.append(np.where(np.isfinite(np.take_along_axis(scores, best, axis=1)), best + 1, 0))
    measured = {"ranks": ranks, "ranks_of_all": ranks_of_all, "top": top}
    return {name: np.concatenate(parts).astype(np.int32) for name, parts in measured.items()}


def _slices(held_out: HeldOut, found: _Ranked, popular: _Ranked) -> list[dict[str, Any]]:
    """Recall in the top 10 by group of users (averaged over users) and of items (over items)."""
    users = held_out.users[found.users]
    groups = slices.user_groups(held_out.dataset, held_out.known, users)
    model, baseline = (r.per_user()["recall_at_10"] for r in (found, popular))
    rows = [
        row
        for name, group in groups.items()
        for row in slices.by_group(name, group, "recall_at_10", model, baseline, np.mean)
    ]
    items = slices.item_groups(held_out.known, held_out.dataset.num_items)
    group = items[held_out.item[held_out.new]]
    hits = found.ranks < 10, popular.ranks < 10
    return slices.by_group("items", group, "recall_at_10", *hits, np.mean) + rows
