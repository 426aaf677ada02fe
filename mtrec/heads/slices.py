"""Groups of users and items by which metrics are broken down."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mtrec.data.columns import Texts
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories

HEAD_SHARE = 0.2
MOST_GROUPS = 25


def popularity(known: Histories, num_items: int) -> np.ndarray:
    """How often users have each item in the known histories, `[C + 1]` by item row."""
    counts = known.taken_each
    return np.pad(counts, (0, num_items + 1 - len(counts)))


def item_groups(known: Histories, num_items: int) -> np.ndarray:
    """`head` for the most popular fifth of the items, else `tail`: `[C + 1]` by item row."""
    counts = popularity(known, num_items)[1:]
    head = np.argsort(-counts, kind="stable")[: round(HEAD_SHARE * num_items)]
    groups = np.full(num_items + 1, "tail")
    groups[head + 1] = "head"
    return groups


def user_groups(dataset: Dataset, known: Histories, users: np.ndarray) -> dict[str, np.ndarray]:
    """Groups of `users [U]`: by activity, and by each of their columns with few distinct texts."""
    counts = known.offsets[users + 1] - known.offsets[users]
    low, high = np.quantile(counts, [1 / 3, 2 / 3])
    names = ("least active", "middle", "most active")
    activity = np.select([counts <= low, counts <= high], names[:2], names[2])
    groups = {"activity": activity}
    for name, column in dataset.users.items():
        if not isinstance(column, Texts) or name == dataset.user_key:
            continue
        if len(column[1:].arrow().unique()) <= MOST_GROUPS:
            groups[name] = np.asarray(column[users])
    return groups


def by_group(
    slice_: str,
    groups: np.ndarray,
    metric: str,
    model: np.ndarray,
    baseline: np.ndarray,
    reduce: Callable[[np.ndarray], float],
) -> list[dict[str, Any]]:
    """One row a group: `{"slice", "value", "metric", "model", "baseline", "count"}`.

    Args:
        slice_: What the groups are groups of.
        groups: Label of each element, `[N]`.
        metric: Name of the metric.
        model: The model's value of each element, `[N]`.
        baseline: The baseline's value of each element, `[N]`.
        reduce: Turns the values of a group into its metric, such as `np.mean`.
    """
    rows = []
    for value in np.unique(groups):
        inside = groups == value
        rows.append(
            {
                "slice": slice_,
                "value": str(value) or "unknown",
                "metric": metric,
                "model": float(reduce(model[inside])),
                "baseline": float(reduce(baseline[inside])),
                "count": int(inside.sum()),
            }
        )
    return rows
