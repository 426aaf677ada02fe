"""What every head has: a loss for each example, and figures on held-out interactions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.inputs import Batch, PairInputs, QueryInputs
from mtrec.data.marks import ascending
from mtrec.data.negatives import Negatives
from mtrec.distributed.traffic import Sent
from mtrec.distributed.weights import unnumbered
from mtrec.errors import UserError
from mtrec.heads.tally import PerUser, Tally


@dataclass(frozen=True)
class Examples:
    """One replica's share of a batch, as a head sees it.

    Attributes:
        query: This head's query representations, `[Q, D]`, or `[Q, K, D]` with K query vectors.
        item: This head's representations of the items named by rows and histories, `[M, D]`.
        pool: This head's representations of the replica's slice of the candidate pool, `[P, D]`.
        batch: The batch itself.
        views: For a head that asks for them, two views of the items drawn for the step: this
            head's representations by some of the features, and by the others, `[V, D]` each.
    """

    query: tf.Tensor
    item: tf.Tensor
    pool: tf.Tensor
    batch: Batch
    views: Sequence[tf.Tensor] = ()


@dataclass(frozen=True)
class HeldOut:
    """Held-out interactions, by user or, of data that is asked for so, by request.

    Attributes:
        users: User row of each evaluated user, or of each request's, `[U]`, ascending.
        counts: How many of that user's entries in `histories` are known when they are asked about,
            the oldest, `[U]`.
        requests: Row of the requests' table of each request, `[U]`, 0 for a user.
        times: Seconds since 1970 of the first held-out interaction of each, `[U]`.
        owner: Position in `users` of each held-out interaction, `[H]`, ascending.
        item: Item row of each held-out interaction, `[H]`.
        labels: Rating and other labels of each held-out interaction by name, `[H]`, NaN where there
            is none.
        time: Seconds since 1970 of each held-out interaction, `[H]`, 0 where there is none.
        row: Row of the requests' table of each held-out interaction, `[H]`.
        new: Whether the user did not have the item before, `[H]`.
        asked: Whether it tests retrieval, `[H]`: what is new, or of data with repeats, all.
        known: What users are known to have, by which items are popular and users active.
        histories: What they have by then; they are recommended again with repeats alone. Of data
            that is asked for by request, requests that are held out and earlier are among it.
        dataset: The data, for the columns that metrics are sliced by.
    """

    users: np.ndarray
    counts: np.ndarray
    requests: np.ndarray
    times: np.ndarray
    owner: np.ndarray
    item: np.ndarray
    labels: Mapping[str, np.ndarray]
    time: np.ndarray
    row: np.ndarray
    new: np.ndarray
    asked: np.ndarray
    known: Histories
    histories: Histories
    dataset: Dataset

    def inputs(self, users: slice | np.ndarray) -> QueryInputs:
        """What is known of some users, given by their positions, when they are asked about."""
        own = self.counts[users], self.requests[users], self.times[users]
        return QueryInputs.of(self.users[users], self.histories, *own)

    def own(self, users: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Item rows of what they have by then, oldest first, and the owner of each from 0 on."""
        entries, owners = self.histories.entries(self.users[users], self.counts[users])
        return self.histories.items[entries], owners

    @cached_property
    def own_items(self) -> tuple[np.ndarray, np.ndarray]:
        """What users have by then, each item once: owners, ascending, and item rows, `[M]` each."""
        items, owners = self.own(slice(0, len(self.users)))
        width = self.dataset.num_items + 1
        pairs = ascending(owners.astype(np.int64) * width + items)
        return (pairs // width).astype(np.int32), (pairs % width).astype(np.int32)

    def of(self, users: slice) -> "HeldOut":
        """Those of some users alone, given by their positions `start:stop` in `users`."""
        rows = slice(*np.searchsorted(self.owner, [users.start, users.stop]))
        return replace(
            self,
            users=self.users[users],
            counts=self.counts[users],
            requests=self.requests[users],
            times=self.times[users],
            owner=self.owner[rows] - users.start,
            item=self.item[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            time=self.time[rows],
            row=self.row[rows],
            new=self.new[rows],
            asked=self.asked[rows],
        )


@dataclass(frozen=True)
class Report:
    """What a head found on held-out interactions.

    Attributes:
        metrics: Metric name (`recall_at_10`) to value.
        baseline: The same metrics of the head's simple baseline.
        slices: Rows `{"slice", "value", "metric", "model", "baseline", "count"}`.
        tables: Further tables by name, for figures.
        per_user: What each user adds to the metrics that are sums over users.
    """

    metrics: dict[str, float]
    baseline: dict[str, float] = field(default_factory=dict)
    slices: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    per_user: PerUser | None = None


class Head(keras.layers.Layer, ABC):
    """An objective over the two towers' outputs, which says of itself what others ask of it.

    How a batch is filled, what is mined, indexed, served and reported depends on what a head
    answers here, never on its class: a head of one's own is used as those of `mtrec.heads` are.

    Args:
        dim: Width of the representations it reads; null takes the towers' shared output as it is.
        sampling_rate: Share of the rows it learns from, drawn anew each step. Of two heads with
            rates below 1, the one with the lower rate learns from some of the other's rows.

    Attributes:
        views: How many items, drawn evenly from the catalogue in each step, it asks for two views
            of. Its rows are then those items, and no training rows: 0 for none.
        negatives: What fills the candidate pool that it scores against; None if it scores against
            none. Heads of one model share a pool.
        corrected: Whether log Q of what is in the pool may have a part in its loss.
        ranks: Whether an item's score is the dot product of what `embed` makes of query and
            candidate, the highest one of several query vectors. The first head that ranks is
            indexed and recommended from; the first that has negatives too is mined with.
        rates: Whether what it serves of a pair is shown beside what is recommended, as `rating`.
            The first head that rates is.
        before: Whether it asks what users did with items before, or will take again: batches then
            have `Rows.before` and `Batch.again`.

    Raises:
        UserError: If the width is below 1, or the rate not above 0 and at most 1.
    """

    # Vectors of width D in a query's representation; a candidate has one.
    query_vectors = 1
    views: int = 0
    negatives: Negatives | None = None
    corrected: bool = True
    ranks: bool = False
    rates: bool = False
    before: bool = False

    def __init__(self, *, dim: int | None, sampling_rate: float = 1.0) -> None:
        super().__init__(name=unnumbered(self))
        if dim is not None and dim < 1:
            raise UserError(f"`dim` must be at least 1, or null; got {dim}.")
        if not 0 < sampling_rate <= 1:
            raise UserError(f"`sampling_rate` must be above 0 and at most 1; got {sampling_rate}.")
        self.dim = dim
        self.sampling_rate = sampling_rate

    @abstractmethod
    def adapt(self, dataset: Dataset, fit: np.ndarray, *, name: str, seed: int) -> None:
        """Makes the weights, sized and started from the training rows `fit`.

        Args:
            dataset: The data.
            fit: Row numbers of the interactions to train on, `[rows]`.
            name: What the model calls this head; its weights are named after it.
            seed: Seed of all initial weights.
        """

    def learns(self, dataset: Dataset, fit: np.ndarray) -> np.ndarray:
        """Those of the training rows `fit` that the head learns from."""
        return fit

    def known(self, dataset: Dataset, fit: np.ndarray, label: str, name: str) -> np.ndarray:
        """A label of the training rows `fit`, `[rows]`, NaN where a row has none.

        Raises:
            UserError: If the interactions lack it, or none of those rows has it.
        """
        labels = dataset.label(label, named_by=f"heads.{name}.label")[fit]
        if not np.isfinite(labels).any():
            column = "rating" if label == "rating" else "labels"
            raise UserError(
                f"`heads.{name}` must have something to learn from; none of the {len(fit)} rows "
                f"to fit has a {label}. Name a column that holds it in `{column}`, set "
                f"`weights.{name}`=0, or leave the head out."
            )
        return labels

    def taken(self, dataset: Dataset, *, name: str) -> np.ndarray | None:
        """Whether each interaction gives its user the item, `[rows]`; None: it has no say in that.

        See `mtrec.heads.retrieval.with_taken`.
        """
        return None

    def positive(self, held_out: HeldOut) -> HeldOut:
        """Held-out interactions, those being `asked` that a head which ranks is judged by."""
        return held_out

    def embed(self, representation: tf.Tensor) -> tf.Tensor:
        """What a head that ranks is searched by: vectors `[..., D]` of queries or candidates."""
        return representation

    def score_pairs(
        self,
        query: tf.Tensor,
        candidate: tf.Tensor,
        pairs: PairInputs,
        *,
        name: str,
    ) -> dict[str, tf.Tensor]:
        """What is served of pairs beside the score of a head that ranks; nothing by default.

        Args:
            query: This head's query representations, `[N, D]` or `[N, K, D]`.
            candidate: This head's candidate representations, `[N, D]`.
            pairs: The pairs; rows of users and items are 0 where they are not known.
            name: What the head's prediction is served as.

        Returns:
            `[N]` each: the prediction by `name`, and what else there is of it by names that begin
            with `name`, such as `rating_spread`.
        """
        return {}

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """What one replica sends for the loss of a step, beside gradients; nothing by default.

        Args:
            batch: The replica's part of a batch.
            width: Width D of this head's representations.
            replicas: Number of replicas R, above 1; see `mtrec.distributed.traffic`.
        """
        return []

    @abstractmethod
    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss of every row and how much it counts: `[N]` and weights `[N]`, 0 for a row left out.

        For a head with `views`, its rows are the drawn items, `[V]`.

        Nothing is reduced or sampled here: that, dividing by the global sum of weights, and
        weighting the tasks happen in one place, `mtrec.training.step`.
        """

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """What is to be known of some of the held-out users; nothing by default.

        Workers measure users of their own. Along the first axis of every array the users, or what
        is counted of each, stand in their order, so that arrays of consecutive users are joined.

        Args:
            held_out: The interactions of those users.
            query: This head's query representations of those users, `[U, D]` or `[U, K, D]`.
            candidate: This head's representations of items 1..C, `[C, D]`; item row i is at i - 1.
            full: Whether it is for a report, and not for metrics alone.

        Returns:
            Arrays by name, the same names for any users.
        """
        return {}

    def per_user(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> PerUser | None:
        """What each of some held-out users adds to the metrics; nothing by default.

        Args:
            held_out: The interactions of those users.
            measured: What was measured of them; see `measure`.
        """
        return None

    def tally(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Tally:
        """What is counted of some held-out users, to which that of others is added.

        By default what `per_user` says; with metrics that are no means, what they are made of too.
        """
        return Tally.of(self.per_user(held_out, measured))

    def figures(self, tally: Tally) -> dict[str, float]:
        """The metrics by name, from the tally of all users; none of what was not counted."""
        return tally.means()

    def report(self, held_out: HeldOut, measured: Mapping[str, np.ndarray]) -> Report:
        """The metrics, and all else a report holds.

        Args:
            held_out: The interactions of all users.
            measured: What was measured of all users, in full; see `measure`.
        """
        return Report(
            metrics=self.figures(self.tally(held_out, measured)),
            per_user=self.per_user(held_out, measured),
        )
