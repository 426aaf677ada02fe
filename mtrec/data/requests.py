"""Requests: a user, a moment and what is known of it when one asks, its context.

The rows of one request are what the user took then; a request is known by its first row.
"""

import numpy as np

from mtrec.data.columns import Columns
from mtrec.data.dataset import Dataset

# Before the names of a request's columns, where a feature of the query tower reads them.
CONTEXT = "context."
_HOUR, _DAY = 3600, 86_400


def contexts(dataset: Dataset) -> Columns:
    """What features may read of requests, by names such as `context.device`.

    Where there are times, `context.hour_of_day` (0 to 23) and `context.weekday` (0 for Monday, in
    UTC) come of them.

    Returns:
        Columns of `[rows + 1]`: row r + 1 is interaction r, and row 0 is unknown.
    """
    times = np.asarray(dataset.interactions["timestamp"])
    found: Columns = {}
    if times.any():
        # 1970 began on a Thursday.
        parts = {"hour_of_day": times // _HOUR % 24, "weekday": (times // _DAY + 3) % 7}
        for name, values in parts.items():
            known = np.where(times != 0, values, np.nan)
            found[name] = np.concatenate([[np.nan], known]).astype(np.float32)
    return {f"{CONTEXT}{name}": column for name, column in (found | {**dataset.requests}).items()}


def numbers(user: np.ndarray, time: np.ndarray, request: np.ndarray | None) -> np.ndarray:
    """The number of each row's request, from 0 on in the order in which they begin.

    Args:
        user: User row, `[N]`.
        time: Seconds since 1970, `[N]`.
        request: What the rows of one request of a user have alike, `[N]`; None for their time.
    """
    key = time if request is None else request
    order = np.lexsort((key, user))
    new = np.ones(len(order), bool)
    new[1:] = np.any([np.diff(values[order]) != 0 for values in (user, key)], axis=0)
    starts = np.flatnonzero(new)
    if not len(starts):
        return np.zeros(0, np.int64)
    # Stable: each begins with its first row.
    place = np.argsort(np.argsort(order[starts]))
    found = np.empty(len(order), np.int64)
    found[order] = place[np.cumsum(new) - 1]
    return found


def earlier(
    known: tuple[np.ndarray, np.ndarray], asked: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """How many known rows of its user are strictly earlier than each request, `[Q]`.

    Args:
        known: User row and time of each known row, by user and then by time.
        asked: User row and time of each request.
    """
    _, place = np.unique(np.concatenate([known[1], asked[1]]), return_inverse=True)
    width = len(place) + 1
    of_known, of_asked = np.split(place, [len(known[1])])
    keys = known[0].astype(np.int64) * width + of_known
    user = asked[0].astype(np.int64)
    first, end = (np.searchsorted(keys, user * width + part) for part in (0, of_asked))
    return end - first
