"""Columns with any number of values a row, such as genres or words, as the towers read them.

A row costs as many lookups as it has values, whatever the other rows have. Padding, which replicas
need to look up equally many, is of unknown values of the last row.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Ragged
from mtrec.heads.row_products import weighted
from mtrec.heads.segments import owned_sum


class EncodedBags(NamedTuple):
    """A whole column.

    Attributes:
        offsets: `[rows + 1]`; row r has `values[offsets[r]:offsets[r + 1]]`.
        values: Those of all rows, int64; 0 for an unknown one.
        most: The most values that n rows have together, for n = 0, 1, ..., rows.
    """

    offsets: tf.Tensor
    values: tf.Tensor
    most: tf.Tensor


class BagRows(NamedTuple):
    """The values of B rows side by side.

    Attributes:
        values: `[E]` int64; 0 for an unknown one.
        owners: Position from 0 to B - 1 of the row that each belongs to, `[E]`, rising.
        count: B.
    """

    values: tf.Tensor
    owners: tf.Tensor
    count: tf.Tensor


def on_device(encoded: np.ndarray | Ragged) -> tf.Tensor | EncodedBags:
    """A column as a feature has encoded it, for `gather`."""
    if isinstance(encoded, Ragged):
        largest = np.sort(np.diff(encoded.offsets))[::-1]
        most = np.concatenate([[0], np.cumsum(largest)]).astype(np.int64)
        return EncodedBags(
            *(tf.constant(a, tf.int64) for a in (encoded.offsets, encoded.values, most))
        )
    # Whole numbers of four bytes are kept in the host's memory where a GPU computes.
    return tf.constant(encoded, tf.int64 if encoded.dtype.kind == "i" else None)


def known_rows(column: tf.Tensor | EncodedBags) -> tf.Tensor | EncodedBags:
    """A column without row 0, that of the unknown, which has no values."""
    if isinstance(column, EncodedBags):
        return column._replace(offsets=column.offsets[1:])
    return column[1:]


def row_of_unknown(column: tf.Tensor | EncodedBags) -> tf.Tensor | EncodedBags:
    """Row 0 of a column, that of the unknown, as a column."""
    if isinstance(column, EncodedBags):
        return EncodedBags(column.offsets[:2], column.values[:1], column.most[:2])
    return column[:1]


def gather(
    column: tf.Tensor | EncodedBags, rows: tf.Tensor, *, distinct: bool
) -> tf.Tensor | BagRows:
    """The encoded values of `rows [B]`: `[B, ...]`, or of a column of bags `BagRows`.

    Replicas that train together look up equally many values: theirs are padded to the most that B
    rows can have.

    Args:
        column: What `on_device` returns.
        rows: Row numbers.
        distinct: Whether no row but that of the unknown comes twice.
    """
    if not isinstance(column, EncodedBags):
        return tf.gather(column, rows)
    count = tf.shape(rows)[0]
    starts = tf.gather(column.offsets, rows)
    ends = tf.cumsum(tf.gather(column.offsets, rows + 1) - starts)
    bounds = tf.concat([tf.zeros([1], tf.int64), ends], axis=0)
    size = bounds[-1]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        most = tf.minimum(count, tf.shape(column.most)[0] - 1)
        size = column.most[most] if distinct else tf.cast(count, tf.int64) * column.most[1]
    entries = tf.range(size)
    owners = tf.searchsorted(ends, entries, side="right", out_type=tf.int64)
    owners = tf.minimum(owners, tf.cast(count, tf.int64) - 1)
    inside = entries < bounds[-1]
    places = tf.gather(starts, owners) + entries - tf.gather(bounds, owners)
    values = tf.gather(column.values, tf.where(inside, places, 0))
    return BagRows(tf.where(inside, values, 0), owners, count)


def from_padded(values: tf.Tensor) -> BagRows:
    """The rows of `values [B, L]`, each padded with 0."""
    count = tf.shape(values)[0]
    owners = tf.repeat(tf.range(tf.cast(count, tf.int64)), tf.shape(values)[1])
    return BagRows(tf.reshape(values, [-1]), owners, count)


def unknown_where(hidden: tf.Tensor, encoded: tf.Tensor | BagRows) -> tf.Tensor | BagRows:
    """Encoded values, those of unknown ones (zeros) where `hidden`, `[B]` or a scalar, is true."""
    if isinstance(encoded, BagRows):
        of_entries = tf.gather(hidden, encoded.owners) if hidden.shape.rank else hidden
        return encoded._replace(values=tf.where(~of_entries, encoded.values, 0))
    if hidden.shape.rank:
        hidden = tf.reshape(hidden, [-1, *[1] * (encoded.shape.rank - 1)])
    return tf.where(hidden, tf.zeros_like(encoded), encoded)


def mean(vectors: tf.Tensor, rows: BagRows) -> tf.Tensor:
    """For each row the mean of the vectors `[E, D]` of its known values, or zeros: `[B, D]`."""
    known = tf.cast(rows.values > 0, vectors.dtype)[:, tf.newaxis]
    total = owned_sum(weighted(vectors, known), rows.owners, rows.count)
    count = tf.math.unsorted_segment_sum(known, rows.owners, rows.count)
    return weighted(total, tf.math.reciprocal_no_nan(count))
