"""What a model is asked and trained on: the inputs of queries, and a replica's batch.

Fields hold NumPy arrays as the data makes them, and tensors as the step, where whole numbers are
int64, and the exported model see them; `tf.nest` goes through them. A field's annotation is the
type and the value that it is padded with; what nobody asks for is `()`. Q, H, M, N, K, P, V, A
count queries, entries of their histories, distinct items, training rows, pairs of a query and an
item of its own, pool items, items drawn for views and pairs of a query and an item that it may take
again, of one replica.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, get_type_hints

import numpy as np

from mtrec.data.histories import Histories

# Lengths that vary are padded to a multiple of this, at least one, so that few shapes occur.
ROUND_TO = 256

Ints: TypeAlias = Annotated[Any, np.int32(0)]
Places: TypeAlias = Annotated[Any, np.int32(-1)]
# Seconds since 1970 end with 2038 in int32, and float32 rounds them to two minutes.
Seconds: TypeAlias = Annotated[Any, np.int64(0)]
Floats: TypeAlias = Annotated[Any, np.float32(0)]
Labels: TypeAlias = Annotated[Mapping[str, Any], np.float32("nan")]
NONE: Mapping[str, Any] = {}


class HistoryInputs(NamedTuple):
    """The histories of all queries side by side, each in time order."""

    items: Ints  # [M] item rows
    owners: Places  # [H] position of the query that an entry belongs to
    # [H] position of an entry's item in `items`: an item of many histories is then looked up, and
    # its gradient summed, once. None: `items` are those of the entries, [H].
    places: Ints = None
    # [H] rating and other labels by name, NaN where there is none; a name that is missing: nowhere.
    labels: Labels = NONE
    times: Seconds = ()  # [H] seconds since 1970


class QueryInputs(NamedTuple):
    """What is known of queries. All but the history has a first axis of Q."""

    users: Ints  # [Q] user rows; 0 for a user who is not known
    history: HistoryInputs  # what each is known to have chosen
    # [Q] in training, drawn evenly from 0 to 1: features with a dropout above are served as unknown
    draw: Floats = None
    # Encoded values by a feature's path in place of the tables'; see `Tower.encode_row`.
    replaced: Mapping[str, Any] = NONE
    # [Q] row of the requests' table, 0 for a request that is not known; None: none is
    requests: Ints = None
    time: Seconds = ()  # [Q] when each is asked, in seconds since 1970

    @classmethod
    def of(
        cls,
        users: np.ndarray,
        known: Histories,
        counts: np.ndarray | None = None,
        requests: np.ndarray | None = None,
        time: np.ndarray | tuple[()] = (),
    ) -> "QueryInputs":
        """User rows `[Q]` with all that is known of them, or with their `counts` oldest entries."""
        entries, owners = known.entries(users, counts)
        labels = {name: values[entries] for name, values in known.labels.items()}
        items, times = known.items[entries], known.times[entries]
        history = HistoryInputs(items, owners, labels=labels, times=times)
        return cls(users.astype(np.int32), history, requests=requests, time=time)

    @classmethod
    def of_new(cls, items: np.ndarray, replaced: Mapping[str, Any]) -> "QueryInputs":
        """One user who is not known, with a history of item rows `[H]` and encoded values."""
        history = HistoryInputs(items, np.zeros(len(items), np.int32))
        return cls(np.zeros(1, np.int32), history, replaced=replaced)


class Rows(NamedTuple):
    """Training rows, in the order of their queries, and those of a query in time order."""

    query: Ints  # [N] position of its query
    item: Ints  # [N] position of its target in `Batch.items`
    weight: Floats  # [N] 1 for a row, 0 for padding
    draw: Floats  # [N] drawn evenly from 0 to 1: a task with a share of the rows takes the lowest
    time: Seconds  # [N] seconds since 1970, 0 where it has none
    labels: Labels  # [N] rating and other labels by name, NaN where it has none
    kind: Ints  # [N] 1 for the first row with its query and target, 0 for repeats
    had: Ints  # [N] 1 where the user has the item by an interaction that is no target
    pool: Places  # [N] position of the target in the whole pool; -1: not there
    log_q: Floats  # [N] log Q of the target
    # [N, 7] what the user did with the target before; see `mtrec.data.before.NUMBERS`
    before: Floats = ()
    requests: Ints = ()  # [N] row of the requests' table, of what is known of the row itself


class Own(NamedTuple):
    """Pairs, each once, of a query and a pool item that it has, brought or might have brought.

    Those of a query lie side by side, the queries in their order.
    """

    query: Places  # [K] position of the query
    item: Ints  # [K] position of the item in `Batch.items`
    pool: Places  # [K] position of the item in the whole pool
    log_q: Floats  # [K] log Q of the item
    # [K] 0: the user has it, it is no negative; 1: given or mined, there for certain; else one over
    # the probability that other units bring what the query might have brought.
    weight: Floats


class PoolSlice(NamedTuple):
    """A replica's part of the candidate pool: of R replicas, r has the items r, r + R, ...

    The whole pool is that of all replicas or, with local negatives, the replica's own.
    """

    items: Ints  # [P] item rows
    log_q: Floats  # [P]
    frozen: Ints  # [P] 1 for an item that the pool's gradient does not move


class Views(NamedTuple):
    """Items that heads compare views of; none where no head asks for them."""

    items: Ints  # [V] of the items drawn, r, r + R, ... for replica r
    draw: Ints  # [] a whole number drawn evenly, by which the features of both views are chosen


class Again(NamedTuple):
    """Pairs, each once, of a query and an item of its history, which it may take again."""

    query: Places  # [A] position of the query
    item: Ints  # [A] position of the item in `Batch.items`
    time: Seconds  # [A] when the query is asked, in seconds since 1970
    before: Floats  # [A, 7] as in `Rows`
    taken: Floats  # [A] 1 where the item is a target of the query, else 0


class PairInputs(NamedTuple):
    """What is known of pairs of a query and an item."""

    queries: QueryInputs
    query: Ints  # [N] position of the query
    items: Ints  # [N] item rows
    time: Seconds = ()  # [N] seconds since 1970; (): the queries' own
    before: Floats = ()  # [N, 7] as in `Rows`; (): what the queries' histories tell
    requests: Ints = ()  # [N] as in `Rows`; (): what was sent with the queries


class Batch(NamedTuple):
    """One replica's part of a batch, padded so that all replicas' shapes agree.

    No entry of a history has the item of a target of its query, however often the user took it; of
    data with repeats, none that is not strictly earlier than all targets has it.
    Where negatives have a `log_q_rate`, log Q is 0 until the step puts its estimate in its place.
    """

    query: QueryInputs
    rows: Rows  # what the queries are asked for
    own: Own  # items of the pool that are a query's own, but for its targets
    pool: PoolSlice  # what targets are told from
    views: Views
    again: Any = ()  # `Again`, if a head asks for it

    @property
    def items(self) -> Any:
        """The distinct item rows that histories, rows and own pairs name, `[M]`; 0 for padding."""
        return self.query.history.items


class Lengths(NamedTuple):
    """How many there are of each in the slices of a step, before padding: H, M, N, K, P, V, A."""

    history: int
    items: int
    rows: int
    own: int
    pool: int
    views: int
    again: int = 0


_COUNTED = {
    HistoryInputs: "history",
    Rows: "rows",
    Own: "own",
    PoolSlice: "pool",
    Views: "views",
    Again: "again",
    QueryInputs: "queries",
}


def padding(batch: Batch) -> Batch:
    """The value that each field of a batch is padded with."""
    filled: Batch = _joined([batch], lambda _, fill, __: fill)
    return filled


def pad(batch: Batch, lengths: Lengths, *, queries: int) -> Batch:
    """A replica's slice padded to the lengths of a step, what has an axis of Q to `queries`."""
    counts = lengths._asdict()

    def join(arrays: list[np.ndarray], fill: np.generic, counted: str) -> np.ndarray:
        length = queries if counted == "queries" else _rounded(counts[counted])
        return _padded(arrays[0], fill, length)

    padded: Batch = _joined([batch], join)
    return padded


def _rounded(length: int) -> int:
    return max(1, -(-length // ROUND_TO)) * ROUND_TO


def _padded(array: np.ndarray, fill: np.generic, length: int) -> np.ndarray:
    if not array.ndim:
        return array.astype(fill.dtype)
    padded = np.empty((length, *array.shape[1:]), fill.dtype)
    padded[: len(array)] = array
    padded[len(array) :] = fill
    return padded


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """The fields of a part of a batch and their annotations."""
    return get_type_hints(kind, include_extras=True)


def _joined(
    parts: Sequence[Any], join: Callable[..., Any], of: Any = Batch, counted: str = ""
) -> Any:
    """`join` of each field's arrays, what pads it, and what its first axis counts."""
    first = parts[0]
    if isinstance(first, tuple):
        counted = _COUNTED.get(type(first), "")
        fields = _fields(type(first)).items()
        return type(first)(
            **{
                name: _joined(
                    [getattr(part, name) for part in parts],
                    join,
                    kind,
                    # The items of histories are all that the batch names.
                    "items" if (counted, name) == ("history", "items") else counted,
                )
                for name, kind in fields
            }
        )
    if isinstance(first, Mapping):
        return {n: _joined([part[n] for part in parts], join, of, counted) for n in first}
    return join([np.asarray(part) for part in parts], of.__metadata__[0], counted)
