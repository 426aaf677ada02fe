"""The candidate pool that a retrieval loss scores against, and log Q of what is in it.

A pool holds every item at most once, and all replicas share it: each embeds its own slice.
"""

import numpy as np


class Catalogue:
    """All items, every step. Nothing is sampled, so log Q is 0."""

    def __init__(self, num_items: int) -> None:
        self._items = np.arange(1, num_items + 1, dtype=np.int32)

    def items(self, targets: np.ndarray) -> np.ndarray:
        """Item rows of the pool, ascending, given the target items of the global batch."""
        return self._items

    def log_q(self, items: np.ndarray, batch_share: float) -> np.ndarray:
        """Log of the probability that each item is in the pool."""
        return np.zeros(len(items), np.float32)


class InBatch:
    """The distinct target items of the global batch.

    A batch holds `batch_share` of all units (users or rows), and a training row is a target with
    probability `target_share` where its unit is in the batch. An item is then in the pool with
    probability `1 - prod (1 - batch_share * target_share)` over its rows. Training counts are known
    exactly, so nothing is estimated from the stream, and no floor is needed on large catalogues.

    Args:
        row_items: Item of each training row.
        num_items: Items in the catalogue.
        target_share: Probability that each of those rows is a target, its unit being in the batch.
    """

    def __init__(self, row_items: np.ndarray, *, num_items: int, target_share: np.ndarray) -> None:
        self._row_items = row_items
        self._num_items = num_items
        self._target_share = target_share
        # One entry for whole batches and one for the short batch that ends an epoch.
        self._log_q: dict[float, np.ndarray] = {}

    def items(self, targets: np.ndarray) -> np.ndarray:
        """Item rows of the pool, ascending, given the target items of the global batch."""
        return np.unique(targets)

    def log_q(self, items: np.ndarray, batch_share: float) -> np.ndarray:
        """Log of the probability that each item, chosen in some row, is in the pool."""
        if batch_share not in self._log_q:
            # A probability of 1 would have no logarithm of what is left.
            share = np.minimum(batch_share * self._target_share, 1 - 1e-12)
            missed = np.bincount(
                self._row_items, weights=np.log1p(-share), minlength=self._num_items + 1
            )
            probability = -np.expm1(missed)
            chosen = probability > 0
            log_q = np.log(probability, out=np.zeros_like(probability), where=chosen)
            self._log_q[batch_share] = log_q.astype(np.float32)
        return self._log_q[batch_share][items]
