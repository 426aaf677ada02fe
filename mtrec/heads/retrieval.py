"""Retrieval: which items a user will choose, out of the whole catalogue."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.histories import first_of_each
from mtrec.data.inputs import Batch
from mtrec.data.negatives import Negatives
from mtrec.distributed.traffic import Sent
from mtrec.errors import UserError, require
from mtrec.heads import metrics, slices
from mtrec.heads.head import Examples, Head, HeldOut, Report
from mtrec.heads.ranks import ByModel, ByOwn, ByPopularity, rank_all
from mtrec.heads.retrieval_losses import RetrievalLoss, kinds_of_rows, once_a_pair
from mtrec.heads.row_products import unit
from mtrec.heads.tally import PerUser, Tally

# Before the names of what the baselines were measured to do.
_POPULAR, _OWN = "popular_", "own_"
# Metrics that are told of new and of repeated items apart.
_APART = ("recall_at_10", "ndcg_at_10")
_KINDS = ("new", "repeat")


class Retrieval(Head):
    """The dot product of the towers' outputs, trained to rank chosen items first.

    Args:
        dim: Width of its vectors; null for that of the towers' shared output.
        normalize: Whether to scale both sides to length 1.
        temperature: Scores are divided by it in training.
        negatives: What positives are told from; all heads of a model share it.
        loss: The loss over rows and pool.
        label: A column of the interactions that says which rows are positive; null for all. Items
            of rows below were shown in vain: they are told from the positive ones of their query
            (with `batch_of=rows`, which has one row, by way of the pool alone). Rows without
            the label say nothing.
        at_least: Labels from here on are positive.
        has: By which rows users have items: `positive`, or `all`, such as films that were rated
            low, but seen. See `with_taken`.
        weight_by: A column of the interactions whose value weighs a row, which must not be below 0;
            rows without one are left out. Null weighs all alike.
        sampling_rate: See `Head`.
        query_vectors: Number K of vectors of a query; an item's score is the highest of their dot
            products. See `mtrec.heads.max_similarity`.

    Raises:
        UserError: If the temperature is not above 0, there is no query vector, or `has` is none of
            these, or says nothing.
    """

    ranks = True
    negatives: Negatives

    def __init__(
        self,
        *,
        dim: int | None,
        normalize: bool,
        temperature: float,
        negatives: Negatives,
        loss: RetrievalLoss,
        label: str | None = None,
        at_least: float = 1.0,
        has: str = "positive",
        weight_by: str | None = None,
        sampling_rate: float = 1.0,
        query_vectors: int = 1,
    ) -> None:
        super().__init__(dim=dim, sampling_rate=sampling_rate)
        if query_vectors < 1:
            raise UserError(f"`query_vectors` must be at least 1; got {query_vectors}.")
        self.query_vectors = query_vectors
        self.normalize = normalize
        require("`temperature`", temperature, above=0)
        self.temperature = temperature
        self.negatives = negatives
        self.loss = loss
        self.corrected = loss.corrected
        self.label = label
        self.at_least = at_least
        self.has = has
        if has not in ("positive", "all"):
            raise UserError(f"`has` must be positive or all; got {has}.")
        if has == "all" and label is None:
            raise UserError(
                "`has` must be positive without a label, as all rows are; got all. Set `label` too."
            )
        self.weight_by = weight_by

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, name: str, seed: int) -> None:
        """Nothing to make: the towers hold all weights.

        Raises:
            UserError: If no training row has a column or is positive, a weight is below 0, what
                users have is not marked, or the loss is made for queries of one vector.
        """
        if self.query_vectors > 1 and self.loss.one_vector:
            raise UserError(
                f"`heads.{name}.query_vectors` must be 1 with `heads.{name}.loss`="
                f"{type(self.loss).__name__}, which is made for scores that are dot products; "
                f"got {self.query_vectors}. Set it to 1, or take BPR, Hinge, or Softmax without "
                "same_tower."
            )
        if self.label is not None:
            labels = self.known(dataset, fit, self.label, name)
            if not (labels >= self.at_least).any():
                raise UserError(
                    f"`heads.{name}.at_least` must be reached by some rows to fit; their "
                    f"highest {self.label} is {np.nanmax(labels):g}; got {self.at_least:g}."
                )
            if dataset.taken is None:
                raise UserError(
                    f"The data must say by which rows users have items, since `heads.{name}` "
                    "has a label. Give the model, batches and evaluator what "
                    "mtrec.heads.retrieval.with_taken(dataset, heads) returns."
                )
        if self.weight_by is not None:
            weights = self.known(dataset, fit, self.weight_by, name)
            if np.nanmin(weights, initial=0.0) < 0:
                raise UserError(
                    f"`heads.{name}.weight_by` must name a column of numbers of at least 0; "
                    f"{self.weight_by} holds {np.nanmin(weights):g}."
                )

    def embed(self, representation: tf.Tensor) -> tf.Tensor:
        """What the index holds and is asked with: vectors `[..., D]`, of length 1 if normalised."""
        return unit(representation) if self.normalize else representation

    def taken(self, dataset: Dataset, *, name: str) -> np.ndarray:
        """What is positive, or with `has=all` every interaction.

        Raises:
            UserError: If the interactions lack the label.
        """
        if self.label is None or self.has == "all":
            return np.ones(len(dataset.interactions["item"]), bool)
        return dataset.label(self.label, named_by=f"heads.{name}.label") >= self.at_least

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """What its loss asks for, unless each replica has a pool of its own."""
        if self.negatives.local:
            return []
        return self.loss.sends(batch, width=width, replicas=replicas)

    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each row; every positive one counts, by its weight.

        Those with the same query and target share theirs: what a query asks for is right or wrong
        once, as in evaluation, however often its user took the item.
        """
        batch = examples.batch
        weight = batch.rows.weight
        kind = batch.rows.kind
        if self.label is not None:
            label = batch.rows.labels[self.label]
            positive = label >= self.at_least
            weight = tf.where(positive, weight, 0.0)
            kind = kinds_of_rows(batch, positive, label < self.at_least)
        if self.weight_by is not None:
            factor = batch.rows.labels[self.weight_by]
            weight *= tf.where(tf.math.is_finite(factor), factor, 0.0)
        weight = once_a_pair(batch, weight)
        embedded = Examples(
            query=self.embed(examples.query),
            item=self.embed(examples.item),
            pool=self.embed(examples.pool),
            batch=batch._replace(rows=batch.rows._replace(weight=weight, kind=kind)),
        )
        return self.loss(embedded, self.temperature, local=self.negatives.local), weight

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """Ranks in the whole catalogue, exact, and what is recommended.

        Returns:
            `ranks` of each new held-out item among the items the user does not have yet, or of
            data with repeats, of every one among all; `ranks_of_all`, of every held-out item among
            all, and `top`: the ten best item rows, 0 where there are fewer, of each user with a
            rank, `[V, 10]`. If `full`, the same of the baseline, which recommends by popularity,
            with `popular_` before the names, and of data with repeats `own_ranks`, those by the
            user's own most frequent items.
        """
        held_out = self.positive(held_out)
        query, candidate = (np.asarray(self.embed(side)) for side in (query, candidate))
        measured = rank_all(held_out, ByModel(query, candidate))
        if full:
            counts = slices.popularity(held_out.known, held_out.dataset.num_items)[1:]
            popular = rank_all(held_out, ByPopularity(counts))
            measured |= {f"{_POPULAR}{name}": values for name, values in popular.items()}
            if held_out.dataset.repeats:
                measured[f"{_OWN}ranks"] = rank_all(held_out, ByOwn(held_out))["ranks"]
        return measured

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser:
        """Ranking metrics of the users who ask for an item; see `mtrec.heads.metrics.ranking`."""
        return _per_user(self.positive(held_out), measured["ranks"])

    def tally(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Tally:
        """What each metric of `figures` is made of."""
        held_out = self.positive(held_out)
        num_items = held_out.dataset.num_items
        recommended = measured["top"][measured["top"] > 0]
        share = slices.popularity(held_out.known, num_items) / held_out.dataset.num_users
        sums = {
            "recommended": np.bincount(recommended, minlength=num_items + 1),
            "popularity": share[recommended].sum(),
            "factorized": metrics.factorized_hits(measured["ranks_of_all"]),
            "held out": np.array(len(measured["ranks_of_all"])),
        }
        if held_out.dataset.repeats:
            for kind, asked in _apart(held_out).items():
                ranks = measured["ranks"][asked[held_out.asked]]
                found = _per_user(replace(held_out, asked=asked), ranks)
                for name in _APART:
                    sums[f"{kind}_{name}"] = np.array([found.totals[name].sum(), found.count.sum()])
        return Tally.of(_per_user(held_out, measured["ranks"]), sums=sums)

    def figures(self, tally: Tally) -> dict[str, float]:
        """Ranking metrics, means over users, and what is recommended; none where nothing is asked.

        Of data with repeats, recall and NDCG at 10 of new items and of repeated ones apart too,
        means over the users that have such a target: how much of it the one list holds (Li et al.
        2023, A Next Basket Recommendation Reality Check, arXiv:2109.14233).
        """
        means, sums = tally.means(), tally.sums
        if not means:
            return {}
        apart = {f"{kind}_{name}" for kind in _KINDS for name in _APART} & sums.keys()
        recommended = sums["recommended"]
        hits = zip(metrics.FACTORIZED_AT, sums["factorized"], strict=True)
        return {
            **means,
            **{n: float(sums[n][0] / sums[n][1]) for n in sorted(apart) if sums[n][1]},
            "coverage_at_10": np.count_nonzero(recommended) / (len(recommended) - 1),
            "popularity_at_10": float(sums["popularity"] / recommended.sum()),
            **{f"factorized_top_{k}": float(found / sums["held out"]) for k, found in hits},
        }

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """The metrics, beside those of the most popular items."""
        report = super().report(held_out, measured)
        if not report.metrics:
            return report
        popular = {
            name.removeprefix(_POPULAR): values
            for name, values in measured.items()
            if name.startswith(_POPULAR)
        }
        baseline = self.figures(self.tally(held_out, popular))
        held_out = self.positive(held_out)
        if held_out.dataset.repeats:
            own = _per_user(held_out, measured[f"{_OWN}ranks"])
            baseline |= {f"{_OWN}{n}": own.totals[n].sum() / own.count.sum() for n in _APART}
        rows = _slices(held_out, measured["ranks"], popular["ranks"])
        return replace(report, baseline=baseline, slices=rows)

    def positive(self, held_out: HeldOut) -> HeldOut:
        """The interactions, the first positive one of a user with an item being asked for."""
        asked = held_out.asked
        if self.label is not None:
            asked = asked & (held_out.labels[self.label] >= self.at_least)
        rows = np.flatnonzero(asked)
        pairs = held_out.owner[rows].astype(np.int64) * (held_out.dataset.num_items + 1)
        asked = np.zeros(len(asked), bool)
        asked[rows[first_of_each(pairs + held_out.item[rows])]] = True
        return replace(held_out, asked=asked)


def with_taken(dataset: Dataset, heads: Mapping[str, Head]) -> Dataset:
    """The data with a mark on the rows by which users have items.

    There is one history for all heads: users have what they have for any head with a say in it (see
    `Head.taken`), such as what is positive for a retrieval head. Without such a head they have all.
    Rows that are not marked are still targets of other heads, and of their own user told from what
    is positive.

    Args:
        dataset: The data.
        heads: The heads to train, by name.

    Raises:
        UserError: If the interactions lack the label of a head.
    """
    said = (head.taken(dataset, name=name) for name, head in heads.items())
    found = [taken for taken in said if taken is not None]
    return replace(dataset, taken=np.any(found, axis=0)) if found else dataset


def _per_user(held_out: HeldOut, ranks: np.ndarray) -> PerUser:
    """Ranking metrics of each user, given the ranks of what is asked for."""
    users, owner = np.unique(held_out.owner[held_out.asked], return_inverse=True)
    found = metrics.ranking(ranks, owner, len(users))
    return PerUser.summed(found, users, len(held_out.users))


def _apart(held_out: HeldOut) -> dict[str, np.ndarray]:
    """Which of the interactions are asked for and are new, and which repeat."""
    return dict(
        zip(_KINDS, (held_out.asked & held_out.new, held_out.asked & ~held_out.new), strict=True)
    )


def _slices(held_out: HeldOut, ranks: np.ndarray, popular: np.ndarray) -> list[dict[str, Any]]:
    """Recall in the top 10 by group of users (averaged over users) and of items (over items)."""
    found, baseline = (_per_user(held_out, each) for each in (ranks, popular))
    asks = found.count > 0
    users = held_out.users[asks]
    groups = slices.user_groups(held_out.dataset, held_out.known, users)
    model, simple = (each.totals["recall_at_10"][asks] for each in (found, baseline))
    rows = [
        row
        for name, group in groups.items()
        for row in slices.by_group(name, group, "recall_at_10", model, simple, np.mean)
    ]
    items = slices.item_groups(held_out.known, held_out.dataset.num_items)
    group = items[held_out.item[held_out.asked]]
    hits = ranks < 10, popular < 10
    return slices.by_group("items", group, "recall_at_10", *hits, np.mean) + rows
