"""Many users or items through the model, some at a time."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mtrec.data.histories import Histories
from mtrec.data.inputs import QueryInputs
from mtrec.heads import metrics
from mtrec.model.recommender import Recommender

USERS_AT_ONCE = 1024
ITEMS_AT_ONCE = 65_536


def embed_users(model: Recommender, users: np.ndarray, known: Histories) -> dict[str, np.ndarray]:
    """Query representations of user rows `[U]` for each head, `[U, D]` or `[U, K, D]`."""
    return embed_queries(model, lambda part: QueryInputs.of(users[part], known), len(users))


def embed_queries(
    model: Recommender, inputs: Callable[[slice], QueryInputs], count: int
) -> dict[str, np.ndarray]:
    """Query representations of so many queries, whose inputs are had by their positions."""
    parts = [model.queries(inputs(part)) for part in metrics.chunks(count, USERS_AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def embed_items(model: Recommender, num_items: int) -> dict[str, np.ndarray]:
    """Candidate representations of items 1..C for each head, `[C, D]`."""
    rows = np.arange(1, num_items + 1, dtype=np.int32)
    parts = [
        model.candidates(tf.constant(rows[part]))
        for part in metrics.chunks(num_items, ITEMS_AT_ONCE, "items")
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
