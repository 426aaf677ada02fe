"""Requests: a user, a moment and what is known of it when one asks, its context.

The rows of one request are what the user took then; a request is known by its first row.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mtrec.data.dataset import Dataset

# Before the names of a request's columns, where a feature of the query tower reads them.
CONTEXT = "context."
# When a question comes, in seconds since 1970.
TIME = "context.time"
_HOUR, _DAY = 3600, 86_400
_OF_TIMES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "hour_of_day": lambda times: times // _HOUR % 24,
    "weekday": lambda times: (times // _DAY + 3) % 7,  # 1970 began on a Thursday
}


class QueryColumns(Mapping[str, Any]):
    """What features of the query tower may read: users' columns, and requests' as `context.device`.

    Where there are times, `context.hour_of_day` (0 to 23) and `context.weekday` (0 for Monday, in
    UTC) come of them. Columns are of `[rows + 1]`: row r + 1 is interaction r, row 0 is unknown.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._users, self._requests = dataset.users, dataset.requests
        self._times = np.asarray(dataset.interactions["timestamp"])
        of_times = _OF_TIMES if self._times.any() else {}
        contexts = [f"{CONTEXT}{name}" for name in {**of_times, **self._requests}]
        self._names = [*self._users, *contexts]

    def __getitem__(self, column: str) -> Any:
        if column not in self._names:
            raise KeyError(column)
        if column in self._users:
            return self._users[column]
        name = column.removeprefix(CONTEXT)
        if name in self._requests:
            return self._requests[name]
        found = np.full(len(self._times) + 1, np.nan, np.float32)
        np.copyto(found[1:], _OF_TIMES[name](self._times), where=self._times != 0, casting="unsafe")
        return found

    def __contains__(self, column: object) -> bool:
        return column in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
