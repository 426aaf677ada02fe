"""Pairs of a query and an item, as heads that predict a number for them handle them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Learnt(NamedTuple):
    """The pairs of a batch that a head learns from.

    Attributes:
        query: Position of the query of each, `[N]`.
        item: Position of the item in `Batch.items`, `[N]`.
        time: Seconds since 1970, `[N]`.
        before: What the user did with the item before; see `Rows`.
        requests: Rows of the requests' table; see `Rows`.
        label: The label, NaN where there is none, `[N]`.
        weight: 1 for a pair, 0 for padding, `[N]`.
    """

    query: tf.Tensor
    item: tf.Tensor
    time: tf.Tensor
    before: tf.Tensor
    requests: tf.Tensor
    label: tf.Tensor
    weight: tf.Tensor


class Judged(NamedTuple):
    """The pairs of held-out queries that a head is judged by.

    Attributes:
        owner: Position in `HeldOut.users` of the query of each, ascending, `[N]`.
        item: Item row, `[N]`.
        label: The label, `[N]`.
        time: Seconds since 1970, `[N]`.
        requests: Rows of the requests' table, `[N]`.
    """

    owner: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray
    requests: np.ndarray


class Told(NamedTuple):
    """What a head tells of pairs.

    Attributes:
        output: Each member's output, `[N, E]`.
        hidden: What heads that are given it are told beside, `[N, D]`.
        cost: What each pair costs whatever its label: regularisation and calibration, `[N]`.
    """

    output: tf.Tensor
    hidden: tf.Tensor
    cost: tf.Tensor
