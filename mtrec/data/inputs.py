"""What a model is asked and trained on: the inputs of queries, and a replica's batch.

Both hold NumPy arrays as the data makes them, and tensors as the step and the exported model see
them; `tf.nest` goes through them. The annotation of a field is the type and the value that it is
padded with. Q, H, M, N, K, P, V count queries, entries of their histories, distinct items, training
rows, pairs of a query and an item of its own, pool items and items drawn for views of one replica.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, get_type_hints

import numpy as np

from mtrec.data.histories import Histories

# Lengths that vary are padded to a multiple of this, so that few shapes occur.
ROUND_TO = 256

# Arrays or tensors.
Ints: TypeAlias = Annotated[Any, np.int32(0)]
Places: TypeAlias = Annotated[Any, np.int32(-1)]
# Seconds since 1970 end with 2038 in int32, and float32 rounds them to two minutes.
Seconds: TypeAlias = Annotated[Any, np.int64(0)]
Floats: TypeAlias = Annotated[Any, np.float32(0)]
Labels: TypeAlias = Annotated[Mapping[str, Any], np.float32("nan")]
NONE: Mapping[str, Any] = {}


class HistoryInputs(NamedTuple):
    """The histories of all queries side by side, each in time order.

    Attributes:
        items: Item rows, `[M]`.
        owners: Position of the query that an entry belongs to, `[H]`; -1 for padding.
        places: Position of an entry's item in `items`, `[H]`: an item of many histories is then
            looked up, and its gradient summed, once. None: entry by entry, `items` are `[H]`.
        labels: Rating and other labels of the entries by name, `[H]`, NaN where there is none. Of
            one that is not among them, histories count as having none.
    """

    items: Ints
    owners: Places
    places: Ints = None
    labels: Labels = NONE


class QueryInputs(NamedTuple):
    """What is known of queries. All but the history has a first axis of Q.

    Attributes:
        users: User row of each, `[Q]`; 0 for a user who is not known, and for padding.
        history: The items that each is known to have chosen.
        draw: In training, a number drawn evenly from 0 to 1, `[Q]`: features with a dropout above
            it are served as unknown.
        replaced: Encoded values by a feature's path, which stand in for those of the users' table;
            see `mtrec.model.tower.Tower.encode_row`.
    """

    users: Ints
    history: HistoryInputs
    draw: Floats = None
    replaced: Mapping[str, Any] = NONE

    @classmethod
    def of(cls, users: np.ndarray, known: Histories) -> "QueryInputs":
        """User rows `[Q]` with all that is known of them."""
        entries, owners = known.entries(users)
        labels = {name: values[entries] for name, values in known.labels.items()}
        history = HistoryInputs(known.items[entries], owners, labels=labels)
        return cls(users.astype(np.int32), history)

    @classmethod
    def of_new(cls, items: np.ndarray, replaced: Mapping[str, Any]) -> "QueryInputs":
        """One user who is not known, with a history of item rows `[H]` and encoded values."""
        history = HistoryInputs(items, np.zeros(len(items), np.int32))
        return cls(np.zeros(1, np.int32), history, replaced=replaced)


class Rows(NamedTuple):
    """Training rows, those of a query side by side and in time order.

    Attributes:
        query: Position of a row's query, `[N]`.
        item: Position of its target in `Batch.items`, `[N]`.
        weight: 1 for a row and 0 for padding, `[N]`.
        draw: Drawn evenly from 0 to 1, `[N]`: a task that takes a share of the rows takes the
            lowest.
        time: Seconds since 1970, `[N]`; 0 where a row has none, and for padding.
        labels: Rating and other labels by name, `[N]`, NaN where a row has none.
        kind: 1 for the first row with its query and target, 0 for repeats and padding, `[N]`.
        had: 1 where the user has the item of the row by an interaction that is no target, `[N]`.
        pool: Position of the target in the whole pool, `[N]`; -1: not there, or padding.
        log_q: Log Q of the target, `[N]`.
    """

    query: Ints
    item: Ints
    weight: Floats
    draw: Floats
    time: Seconds
    labels: Labels
    kind: Ints
    had: Ints
    pool: Places
    log_q: Floats


class Own(NamedTuple):
    """Pairs, each once, of a query and an item in the pool that it has, brought or might have.

    Those of a query lie side by side, the queries in their order.

    Attributes:
        query: Position of the query, `[K]`; -1 for padding.
        item: Position of the item in `Batch.items`, `[K]`.
        pool: Position of the item in the whole pool, `[K]`; -1 for padding.
        log_q: Log Q of the item, `[K]`.
        weight: 0: the user has it, it is no negative; 1: given or mined, there for certain; else,
            for what the query might have brought, one over the probability that other units bring
            it, `[K]`.
    """

    query: Places
    item: Ints
    pool: Places
    log_q: Floats
    weight: Floats


class PoolSlice(NamedTuple):
    """A replica's part of the candidate pool: of R replicas, r has its items r, r + R, ...

    The whole pool is that of all replicas or, with local negatives, the replica's own.

    Attributes:
        items: Item rows, `[P]`; 0 for padding.
        log_q: Their log Q, `[P]`.
        frozen: 1 for an item that the pool's gradient does not move, `[P]`.
    """

    items: Ints
    log_q: Floats
    frozen: Ints


class Views(NamedTuple):
    """What heads need that compare views of items; nothing where none asks for them.

    Attributes:
        items: Of the items drawn, r, r + R, ... for replica r, `[V]`; 0 for padding.
        draw: A whole number drawn evenly, by which the features of both views are chosen, `[]`.
    """

    items: Ints
    draw: Ints


class Batch(NamedTuple):
    """One replica's part of a batch, in shapes that all replicas' agree in.

    No entry of a history has the item of a target of its query, however often the user took it.
    Where negatives have a `log_q_rate`, log Q is 0 until the step puts its estimate in its place.

    Attributes:
        query: The queries. Items of histories, rows and own pairs are one list, each there once.
        rows: What they are asked for.
        own: Items of the pool that are a query's own, but for its targets.
        pool: The candidates that targets are told from.
        views: Items to compare views of.
    """

    query: QueryInputs
    rows: Rows
    own: Own
    pool: PoolSlice
    views: Views

    @property
    def items(self) -> Any:
        """The distinct item rows that rows, histories and own pairs name, `[M]`; 0 for padding."""
        return self.query.history.items


def pad_together(slices: Sequence[Batch], *, queries: int) -> list[Batch]:
    """Pads each field of all slices to one length, what has an axis of Q to exactly `queries`."""
    padded: list[Batch] = _padded(slices, Batch, queries, None)
    return padded


def stack(steps: Sequence[Batch]) -> Batch:
    """Several steps' batches of one replica as arrays `[K, ...]`, for one call of the step."""
    stacked: Batch = _stacked(pad_together(steps, queries=len(steps[0].query.users)))
    return stacked


def rounded(length: int) -> int:
    """The padded length: the next multiple of `ROUND_TO`, at least one."""
    return max(1, -(-length // ROUND_TO)) * ROUND_TO


def _padded(parts: Sequence[Any], of: Any, queries: int, length: int | None) -> list[Any]:
    """The parts as fields of the type `of`, padded to a length; None for the longest, rounded."""
    first = parts[0]
    if isinstance(first, tuple):
        length = queries if isinstance(first, QueryInputs) else None
        types = get_type_hints(type(first), include_extras=True)
        columns = [
            _padded([getattr(part, name) for part in parts], field, queries, length)
            for name, field in types.items()
        ]
        return [type(first)(*values) for values in zip(*columns, strict=True)]
    if isinstance(first, Mapping):
        named = {n: _padded([part[n] for part in parts], of, queries, length) for n in first}
        return [{n: values[place] for n, values in named.items()} for place in range(len(parts))]
    (fill,), arrays = of.__metadata__, [np.asarray(part) for part in parts]
    if not arrays[0].ndim:
        return [array.astype(fill.dtype) for array in arrays]
    length = length or rounded(max(map(len, arrays)))
    padded = [np.full((length, *array.shape[1:]), fill) for array in arrays]
    for out, array in zip(padded, arrays, strict=True):
        out[: len(array)] = array
    return padded


def _stacked(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, tuple):
        return type(first)(*(_stacked(column) for column in zip(*parts, strict=True)))
    if isinstance(first, Mapping):
        return {name: _stacked([part[name] for part in parts]) for name in first}
    return np.stack(parts)
