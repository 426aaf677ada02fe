"""A call's batches as one buffer: a step is given one array, however many fields a batch has.

Each array that a step is given costs a copy to its device and a slice of each step. On a GPU,
TensorFlow keeps whole numbers of four bytes, and what it computes of them, in the host's memory: in
the buffer they are the bits of float32, and in the step they have eight bytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtrec.data.inputs import Batch, padding

# In this order fields of one kind lie side by side.
_KINDS = [np.dtype(kind) for kind in (np.int64, np.int32, np.float32)]


class Packed(NamedTuple):
    """K batches of one replica.

    Attributes:
        numbers: Their fields side by side, those of one kind together, float32 `[K, L]`.
        sizes: How many of those numbers each kind has, where among its kind each field of whole
            numbers begins, and the length of each field, int32.
        like: A batch with fields of the same names.
    """

    numbers: np.ndarray
    sizes: np.ndarray
    like: Batch


def pack(batches: Sequence[Batch]) -> Packed:
    """Steps of one replica, each field padded to one length."""
    fills = tf.nest.flatten(padding(batches[0]))
    fields = list(zip(*map(tf.nest.flatten, batches), strict=True))
    order = _order(fills)
    lengths = [max(np.size(array) for array in fields[f]) for f in order]
    words = [n * fills[f].dtype.itemsize // 4 for f, n in zip(order, lengths, strict=True)]
    numbers = np.empty((len(batches), sum(words)), np.float32)
    ends = np.cumsum(words).tolist()
    for f, first, end in zip(order, [0, *ends], ends, strict=False):
        for out, array in zip(numbers[:, first:end].view(fills[f].dtype), fields[f], strict=True):
            out[: np.size(array)] = np.ravel(array)
            out[np.size(array) :] = fills[f]
    of_kinds = [
        sum(n for f, n in zip(order, words, strict=True) if fills[f].dtype == kind)
        for kind in _KINDS
    ]
    starts = []
    for kind in _KINDS[:-1]:
        of_kind = [n for f, n in zip(order, lengths, strict=True) if fills[f].dtype == kind]
        starts += np.cumsum([0, *of_kind])[:-1].tolist()
    return Packed(numbers, np.array([*of_kinds, *starts, *lengths], np.int32), batches[0])


def unpack(numbers: tf.Tensor, sizes: tf.Tensor, like: Batch) -> Batch:
    """A batch as the step sees it, whole numbers being int64.

    Args:
        numbers: A row of `Packed.numbers`, `[L]`.
        sizes: As there.
        like: As there.
    """
    fills = tf.nest.flatten(padding(like))
    long, whole, real = (sum(fill.dtype == kind for fill in fills) for kind in _KINDS)
    count = long + whole
    of_kinds, *ranges, lengths = tf.split(sizes, [len(_KINDS), *[1] * (2 * count), real])
    longs, wholes, reals = tf.split(numbers, of_kinds, num=len(_KINDS))
    longs = tf.bitcast(tf.reshape(longs, [-1, 2]), tf.int64)
    wholes = tf.cast(tf.bitcast(wholes, tf.int32), tf.int64)
    # To split them in one operation is nothing that TensorFlow has for GPUs.
    found = [
        tf.slice(longs if place < long else wholes, start, length)
        for place, (start, length) in enumerate(zip(ranges[:count], ranges[count:], strict=True))
    ]
    found += tf.split(reals, lengths, num=real)
    places = np.argsort(_order(fills))
    shapes = [np.shape(array) for array in tf.nest.flatten(like)]
    flat = [
        found[p] if len(shape) == 1 else tf.reshape(found[p], [-1, *shape[1:]] if shape else [])
        for p, shape in zip(places, shapes, strict=True)
    ]
    unpacked: Batch = tf.nest.pack_sequence_as(like, flat)
    return unpacked


def _order(fills: Sequence[np.generic]) -> list[int]:
    """The fields, those of one kind together."""
    return sorted(range(len(fills)), key=lambda f: _KINDS.index(fills[f].dtype))
