"""The candidate pool that a retrieval loss scores against, and log Q of what is in it.

A pool holds every item at most once, and all replicas share it: each embeds its own slice.
"""

import numpy as np

from mtrec.data.histories import Histories


class Catalogue:
    """All items, every step. Nothing is sampled, so log Q is 0."""

    def __init__(self, num_items: int) -> None:
        self._items = np.arange(1, num_items + 1, dtype=np.int32)
        self._log_q = np.zeros(num_items + 1, np.float32)

    def items(self, targets: np.ndarray) -> np.ndarray:
        """Item rows of the pool, ascending, given the target items of the global batch."""
        return self._items

    def log_q(self, items: np.ndarray) -> np.ndarray:
        """Log of the probability that each item is in the pool."""
        return self._log_q[items]


class InBatch:
    """The distinct target items of the global batch.

    An item chosen in `n` of all `units` (users or rows) is in a batch of `batch` units with
    probability `1 - (1 - share * batch / units)^n`, where `share` is the part of a unit's items
    that become targets. Training counts are known exactly, so nothing is estimated from the
    stream, and no floor is needed on large catalogues.

    Args:
        histories: Training interactions.
        num_items: Items in the catalogue.
        batch_share: Probability that a given training interaction is a target of a given batch.
    """

    def __init__(self, histories: Histories, *, num_items: int, batch_share: float) -> None:
        counts = np.bincount(histories.items, minlength=num_items + 1).astype(np.float64)
        # An item that never was a target cannot be in the pool; count it as chosen once.
        missed = np.maximum(counts, 1) * np.log1p(-min(batch_share, 1 - 1e-12))
        self._log_q = np.log(-np.expm1(missed)).astype(np.float32)

    def items(self, targets: np.ndarray) -> np.ndarray:
        """Item rows of the pool, ascending, given the target items of the global batch."""
        return np.unique(targets)

    def log_q(self, items: np.ndarray) -> np.ndarray:
        """Log of the probability that each item is in the pool."""
        return self._log_q[items]
