"""The candidate pool that a retrieval loss scores against, and log Q of what is in it.

A pool holds every item at most once, the targets of the batch among them. Unless it is local, all
replicas share it, and each embeds its own slice.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mtrec.data.marks import Marks, is_among
from mtrec.data.units import Brings
from mtrec.errors import UserError


@dataclass(frozen=True)
class Pool:
    """The candidates of one step.

    Attributes:
        items: Item rows, ascending and distinct, `[P]`.
        frozen: Whether an item takes part without being moved itself, `[P]`.
        log_q: Log of the probability that each item is in the pool, `[C + 1]` by item row; 0 for an
            item that never is, and for all where the step is to estimate it.
        log_missed: Log of the probability that it is not, float64 `[C + 1]`; None where nothing is
            sampled, or the step is to estimate log Q.
        share: The share of all units that both are of.
    """

    items: np.ndarray
    frozen: np.ndarray
    log_q: np.ndarray
    log_missed: np.ndarray | None = None
    share: float = 0.0

    def log_q_beside(self, items: np.ndarray, brings: np.ndarray) -> np.ndarray:
        """Log of the probability that items are in the pool by way of others than one unit.

        Args:
            items: Item rows, `[K]`.
            brings: Probability that the unit brings each where it is in the batch, `[K]`.
        """
        log_q = self.log_q[items].astype(np.float64)
        if self.log_missed is None:
            return log_q
        own = np.log1p(-np.minimum(self.share * brings, 1 - 1e-12))
        by_others = -np.expm1(self.log_missed[items] - own)
        # Nothing but rounding where no other unit brings it: it is there from an earlier batch.
        return np.log(by_others, out=log_q, where=by_others > 1e-9)

    @classmethod
    def empty(cls, num_items: int) -> "Pool":
        """The pool of a model that scores against none."""
        return cls(np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(num_items + 1, np.float32))


class Negatives(ABC):
    """What a retrieval head's positives are told from.

    Attributes:
        sampled: Whether what is in the pool depends on what the units of a batch bring.
        past_batches: Batches before the current one whose targets it asks for.
        given: Whether the items that the data names as a row's negative count as targets.
        mined: Items that it asks for with each query, those that the model ranks highest of what
            the user does not have.
        local: Whether each replica has a pool of its own.
        log_q_rate: Rate of the estimate of log Q that the step makes; see
            `mtrec.training.streaming_log_q`. None where the pool's own is from training counts.
    """

    sampled = True
    past_batches = 0
    given = False
    mined = 0
    local = False
    log_q_rate: float | None = None

    @abstractmethod
    def adapt(self, brings: Callable[[], Iterable[Brings]], *, num_items: int) -> None:
        """Takes what the units, users or rows, can bring into the pool.

        Args:
            brings: Goes through what they can, some units at a time; not asked if not `sampled`.
            num_items: Items in the catalogue.
        """

    @abstractmethod
    def adapt_mined(self, units: np.ndarray) -> None:
        """Takes what the units of the current batch bring beside, as mined, for certain.

        Args:
            units: The number of units that bring each item, `[C + 1]`; none of them brings the same
                item by `adapt`.
        """

    @abstractmethod
    def pool(
        self, targets: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator
    ) -> Pool:
        """The pool of a step.

        Args:
            targets: Target items of the batch, with what is mined for it, then the target items of
                the batches before it.
            shares: The share of all units that each of those batches held.
            rng: Draws what is drawn; seeded by the step.
        """


class Catalogue(Negatives):
    """All items, every step. Nothing is sampled, so log Q is 0.

    Args:
        most_items: The largest catalogue for which that is meant: each step encodes all of it.
    """

    sampled = False

    def __init__(self, *, most_items: int) -> None:
        self._most_items = most_items

    def adapt(self, brings: Callable[[], Iterable[Brings]], *, num_items: int) -> None:
        """See `Negatives`.

        Raises:
            UserError: The catalogue is larger.
        """
        if num_items > self._most_items:
            raise UserError(
                f"The catalogue must have `most_items`={self._most_items} at most, because every "
                f"step encodes all of it as negatives; it has {num_items}. Choose the head "
                "`softmax`, whose negatives are the batch's targets, or set "
                f"`most_items`={num_items}."
            )
        items = np.arange(1, num_items + 1, dtype=np.int32)
        self._pool = Pool(items, np.zeros(num_items, bool), np.zeros(num_items + 1, np.float32))

    def adapt_mined(self, units: np.ndarray) -> None:
        """See `Negatives`; all items are there anyway."""

    def pool(
        self, targets: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator
    ) -> Pool:
        """See `Negatives`."""
        return self._pool


class InBatch(Negatives):
    """The distinct targets of the global batch, and if asked for, more.

    A batch holds a share of all units, users or rows, and each brings its items with some
    probability where it is there. An item is then in the pool with probability
    `1 - (1 - uniform / C) prod (1 - share * brings.share)`, the product over the units that can
    bring it and `share` counting past batches too. What is mined for a unit comes for certain, with
    the current batch alone. A query's own given and mined items, and targets that were shown in
    vain, are there for certain, and losses take their log Q for 0 beside that query. What it might
    have brought and did not, such as what was shown in vain and is no target this time, is there by
    way of the other units: beside that query, Q is theirs. Training counts are known exactly, so
    nothing is estimated from the stream, and no floor is needed on large catalogues.

    Args:
        uniform: Items drawn from the catalogue beside, so that those nobody takes are told from
            positives too (Yang et al., WWW 2020).
        past_batches: Batches whose targets stay in the pool, embedded anew but not moved; an item
            of the current batch is moved as ever (in the sense of Wang et al. 2021,
            arXiv:2110.15154, without stale embeddings).
        given: The items that the data names as negatives of the targets' rows, such as those that
            were shown and not taken, join the pool, for every row to be told from.
        mined: For each query, this many items that the model as it was at the start of the epoch
            ranks highest, of those that its user neither has nor was given, join the pool (Xiong et
            al., ICLR 2021, arXiv:2007.00808), for every row to be told from. There are none in the
            first epoch. With several retrieval heads the first one ranks.
        local: Each replica takes its own share of the batch alone, and nothing travels. The
            objective then depends on the number of replicas.
        log_q_rate: Q is estimated from the steps between an item's pools, with this rate, instead
            of from training counts, for a stream whose counts are unknown or drift; see
            `mtrec.training.streaming_log_q.StreamingLogQ`. Null for the one from training counts,
            which takes the units of a batch for independent draws: of 100 units it makes Q up to
            17 % too low in batches of 2, 0.8 % in batches of 32. The estimate is of all units'
            draws, beside a query too.

    Raises:
        UserError: If a number is out of its range, or log Q is to be estimated from local pools.
    """

    def __init__(
        self,
        *,
        uniform: int,
        past_batches: int,
        given: bool,
        mined: int,
        local: bool,
        log_q_rate: float | None,
    ) -> None:
        counts = {"uniform": uniform, "past_batches": past_batches, "mined": mined}
        for name, value in counts.items():
            if value < 0:
                raise UserError(f"`{name}` must be at least 0; got {value}.")
        if log_q_rate is not None and not 0 < log_q_rate <= 1:
            raise UserError(
                f"`log_q_rate` must be above 0 and at most 1, or null; got {log_q_rate}."
            )
        if log_q_rate is not None and local:
            raise UserError(
                "`log_q_rate` must be null with `local`=true, as it is estimated "
                f"from the pool that all replicas share; got {log_q_rate}. Set one of the two."
            )
        self.uniform = uniform
        self.past_batches = past_batches
        self.given = given
        self.mined = mined
        self.local = local
        self.log_q_rate = log_q_rate

    def adapt(self, brings: Callable[[], Iterable[Brings]], *, num_items: int) -> None:
        """See `Negatives`.

        Raises:
            UserError: If more items are to be drawn, or mined, than there are.
        """
        for name, value in (("uniform", self.uniform), ("mined", self.mined)):
            if value > num_items:
                raise UserError(
                    f"`{name}` must be at most the number of items ({num_items}); got "
                    f"{value}. Use the whole catalogue instead."
                )
        self._brings = brings
        self._num_items = num_items
        self._marks = Marks(num_items + 1)
        self.adapt_mined(np.zeros(num_items + 1))

    def adapt_mined(self, units: np.ndarray) -> None:
        """See `Negatives`."""
        self._mined_units = units
        # Few shares occur: whole batches, and those with the short batch that ends an epoch.
        self._logs: dict[tuple[float, float], tuple[np.ndarray, np.ndarray]] = {}

    def pool(
        self, targets: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator
    ) -> Pool:
        """See `Negatives`."""
        moved = self._marks.ascending(targets[0])
        if self.uniform:
            drawn = rng.choice(self._num_items, self.uniform, replace=False, shuffle=False) + 1
            moved = np.union1d(moved, drawn)
        items = (
            self._marks.ascending(np.concatenate([moved, *targets[1:]])) if targets[1:] else moved
        )
        frozen = ~is_among(items, moved) if targets[1:] else np.zeros(len(items), bool)
        items = items.astype(np.int32)
        if self.log_q_rate is not None:
            return Pool(items, frozen, np.zeros(self._num_items + 1, np.float32))
        share, current = min(float(np.sum(shares)), 1.0), float(shares[0])
        if (share, current) not in self._logs:
            self._logs[share, current] = self._logs_of_probability(share, current)
        log_q, log_missed = self._logs[share, current]
        return Pool(items, frozen, log_q, log_missed, share)

    def _logs_of_probability(self, share: float, current: float) -> tuple[np.ndarray, np.ndarray]:
        # A probability of 1 would have no logarithm of what is left.
        missed = np.zeros(self._num_items + 1)
        for brings in self._brings():
            of_units = np.minimum(share * brings.share, 1 - 1e-12)
            np.add.at(missed, brings.item, np.log1p(-of_units))
        missed += self._mined_units * np.log1p(-min(current, 1 - 1e-12))
        missed[1:] += np.log1p(-min(self.uniform / self._num_items, 1 - 1e-12))
        probability = -np.expm1(missed)
        possible = probability > 0
        log_q = np.log(probability, out=np.zeros_like(probability), where=possible)
        return log_q.astype(np.float32), missed
