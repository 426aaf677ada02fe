"""Batches and inputs of queries that are written out."""

from typing import get_type_hints

import numpy as np
import tensorflow as tf

from mtrec.data.batches import Batches
from mtrec.data.batching import Batching
from mtrec.data.inputs import (
    Batch,
    HistoryInputs,
    Own,
    PairInputs,
    PoolSlice,
    QueryInputs,
    Rows,
    Views,
)


def batches_of(data, rows, *, batch_of, global_batch, history_share, chronological, **others):
    """The batches of rows to train on."""
    how = Batching(
        batch_of=batch_of,
        global_batch=global_batch,
        history_share=history_share,
        chronological=chronological,
    )
    return Batches(data, rows, how, **others)


def asked(users, items, owners, *, places=None, labels=None, **others):
    """Queries of users with item rows side by side; `owners` says whose each is."""
    history = HistoryInputs(items, owners, places, labels or {})
    return QueryInputs(users, history, **others)


def pairs_of(users, items, **others):
    """Pairs of user and item rows, of users without a history."""
    users, none = np.asarray(users, np.int32), np.zeros(0, np.int32)
    queries = asked(users, none, none, **others)
    return PairInputs(queries, np.arange(len(users), dtype=np.int32), np.asarray(items, np.int32))


def with_fields(batch, **changed):
    """The batch with other values in some fields, such as `rows_log_q` for `batch.rows.log_q`."""
    for name, values in changed.items():
        group, _, field = name.partition("_")
        of = getattr(batch, group) if field else batch.query.history
        field = field or name
        hint = get_type_hints(type(of), include_extras=True)[field]
        kind = hint.__metadata__[0].dtype
        if field == "labels":
            values = {label: np.asarray(each, kind) for label, each in values.items()}
        of = of._replace(**{field: values if field == "labels" else np.asarray(values, kind)})
        query = batch.query._replace(history=of)
        batch = batch._replace(**({group: of} if group != name else {"query": query}))
    return batch


def written(**fields):
    """A batch of some fields, such as `items` and `rows_item`; the others are empty."""
    none = np.zeros(0, np.int32)
    query = QueryInputs(none, HistoryInputs(none, none, none), none, requests=none)
    rows = Rows(none, none, none, none, none, {}, none, none, none, none)
    pool, views = PoolSlice(none, none, none), Views(none, np.int32(0))
    return with_fields(Batch(query, rows, Own(none, none, none, none, none), pool, views), **fields)


def as_tensors(batch):
    """The batch as the step has it."""

    def tensor(values):
        whole = np.asarray(values).dtype.kind == "i"
        return tf.constant(values, tf.int64 if whole else None)

    return tf.nest.map_structure(tensor, batch)
