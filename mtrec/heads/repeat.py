"""Repeats: whether a user will take an item again that they took before."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories, first_of_each
from mtrec.data.inputs import Batch, PairInputs
from mtrec.data.units import strictly_earlier
from mtrec.errors import UserError
from mtrec.heads.binary import Binary
from mtrec.heads.head import HeldOut
from mtrec.heads.membership import is_in
from mtrec.heads.pairs import Judged, Learnt


class Repeat(Binary):
    """The cross-entropy of whether an item of a query's history is among its targets.

    Its pairs are those of a query and an item that the user took strictly before, each once: of a
    request, what will be in it; of a user, what will be taken from then on. So it tells own items
    from each other, and an item that the user does not have gets a probability of 0.

    Args:
        dim: See `PairHead`, as for the others.
        members: See there.
        layers: See there.
        l2: See there.
        cross: See there.
        moving_biases: See there.
        features: See there.
    """

    before = True

    def __init__(
        self,
        *,
        dim: int,
        members: int,
        layers: Sequence[int],
        l2: float,
        cross: int = 0,
        moving_biases: int | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> None:
        how = {"cross": cross, "moving_biases": moving_biases, "features": features}
        own = {"dim": dim, "members": members, "layers": layers, "l2": l2}
        super().__init__(label="again", at_least=1.0, **own, **how)

    def learns(self, dataset: Dataset, fit: np.ndarray) -> np.ndarray:
        """All training rows."""
        return fit

    def known(self, dataset: Dataset, fit: np.ndarray, label: str, name: str) -> np.ndarray:
        """Counts the pairs of requests and items that may be taken again, and those that are.

        Returns:
            1 for each training row, `[rows]`: all of them may be of such a pair.

        Raises:
            UserError: If the data is not of users who take items again, or none of them does.
        """
        pairs, taken = _counted(Histories.of(dataset, fit), dataset.num_items)
        if not dataset.repeats or not taken:
            received = "no user does so in the rows to fit" if dataset.repeats else "got false"
            raise UserError(
                f"`heads.{name}` learns what users take again, and needs `repeats`=true and such "
                f"users; {received}. Set `weights.{name}`=0, or leave the head out."
            )
        # One of either kind is added to those there are.
        self.train_share = (taken + 1) / (pairs + 2)
        return np.ones(len(fit), np.float32)

    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """The log odds that an item which may be taken again in a request is."""
        return float(np.log(self.train_share / (1 - self.train_share)))

    def learnt(self, batch: Batch) -> Learnt:
        """The pairs of queries and items that they may take again."""
        again = batch.again
        weight = tf.cast(again.query >= 0, tf.float32)
        query = tf.maximum(again.query, 0)
        return Learnt(query, again.item, again.time, again.before, (), again.taken, weight)

    def judged(self, held_out: HeldOut) -> Judged:
        """Each query with each item that it may take again."""
        width = held_out.dataset.num_items + 1
        owner, items = held_out.own_items
        pairs = owner.astype(np.int64) * width + items
        taken = held_out.owner[held_out.asked].astype(np.int64) * width
        taken += held_out.item[held_out.asked]
        label = np.zeros(len(pairs))
        at = np.searchsorted(pairs, taken)
        label[at[np.append(pairs, -1)[at] == taken]] = 1
        times, requests = held_out.times[owner], held_out.requests[owner]
        return Judged(owner, items, label.astype(np.float32), times, requests)

    def score_pairs(
        self, query: tf.Tensor, candidate: tf.Tensor, pairs: PairInputs, *, name: str
    ) -> dict[str, tf.Tensor]:
        """The probability that the item is taken again; 0 where the user does not have it."""
        told = super().score_pairs(query, candidate, pairs, name=name)
        history = pairs.queries.history
        asked, own = (
            tf.cast(owners, tf.int64) * (1 << 32) + tf.cast(items, tf.int64)
            for owners, items in ((pairs.query, pairs.items), (history.owners, history.items))
        )
        return {n: tf.where(is_in(asked, own), values, 0.0) for n, values in told.items()}


def _counted(histories: Histories, num_items: int) -> tuple[int, int]:
    """How many pairs of a moment and an item that its user has by then there are, and are taken."""
    counts = np.diff(histories.offsets)
    user = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    place = np.arange(len(user))
    begin = histories.offsets[user]
    moment = begin + strictly_earlier(user, histories.times)  # the first entry of each one's
    pair = user * (num_items + 1) + histories.items
    _, first, which = np.unique(pair, return_index=True, return_inverse=True)
    new = np.concatenate([[0], np.cumsum(first[which] == place)])
    has = (new[moment] - new[begin])[moment == place]
    again = first[which] < moment
    once = first_of_each(moment * (num_items + 1) + histories.items)
    return int(has.sum()), int((again & once).sum())
