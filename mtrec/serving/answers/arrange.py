"""How the best candidates stand beside each other in an answer.

Shapes: `Q` queries, `N` candidates of each, `D` the width of an item's vector.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Bags
from mtrec.data.dataset import Dataset
from mtrec.data.vocabulary import Vocabulary
from mtrec.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class Arrange:
    """Fills an answer place by place, each with the candidate that is best beside those before it.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): a candidate counts as
    `trade_off` times its score, from 0 for the worst candidate to 1 for the best, less
    `1 - trade_off` times its highest cosine with an item that stands there already. A score that is
    undefined counts -1, one without bound 2.

    Args:
        trade_off: 1 for the order of the scores, lower ones for items unlike each other.
        at_most: How many items of a category an answer may hold; null for any number.
        of: The column of the items that holds their category, or several of each.
    """

    trade_off: float
    at_most: int | None
    of: str | None

    def __post_init__(self) -> None:
        require("`trade_off`", self.trade_off, least=0, most=1)
        if self.at_most is not None:
            require("`at_most`", self.at_most, least=1)
            if self.of is None:
                raise UserError(
                    "`of` must name a column of the items with `at_most`; got null. Name one."
                )

    def categories(self, dataset: Dataset) -> np.ndarray:
        """Numbers of each item's categories from 1, padded with 0, `[C + 1, L]`.

        Raises:
            UserError: If the items lack the column.
        """
        if self.at_most is None or self.of is None:
            return np.zeros((dataset.num_items + 1, 1), np.int32)
        if self.of not in dataset.items:
            raise UserError(
                f"`of` must name a column of the items ({', '.join(dataset.items)}); got {self.of}."
            )
        column = dataset.items[self.of]
        codes = Vocabulary(column).rows(column)
        if not isinstance(column, Bags):
            return codes[:, np.newaxis].astype(np.int32)
        counts = np.diff(column.offsets)
        found = np.zeros((len(counts), max(1, counts.max(initial=0))), np.int32)
        owners = np.repeat(np.arange(len(counts)), counts)
        found[owners, np.arange(len(owners)) - np.repeat(column.offsets[:-1], counts)] = codes
        return found

    def __call__(
        self, scores: tf.Tensor, vectors: tf.Tensor, categories: tf.Tensor, k: tf.Tensor
    ) -> tf.Tensor:
        """Which candidates stand in the k places, `[Q, k]`; -1 where none may.

        Args:
            scores: Of the candidates, -inf where there is none, `[Q, N]`.
            vectors: Their vectors, of length 1, `[Q, N, D]`.
            categories: Their categories, `[Q, N, L]`.
            k: How many places, at most N.
        """
        valid = tf.math.is_finite(scores)
        # What is undefined, and without bound, is as far below and above as what is not is apart.
        within = valid & (tf.abs(scores) < scores.dtype.max)
        highest = tf.reduce_max(tf.where(within, scores, -np.inf), axis=1, keepdims=True)
        lowest = tf.reduce_min(tf.where(within, scores, np.inf), axis=1, keepdims=True)
        relevance = tf.math.divide_no_nan(scores - lowest, highest - lowest)
        relevance = tf.where(within, relevance, tf.where(scores > 0, 2.0, -1.0))
        # An item of two categories is one of each: [Q, N, L] against [Q, L] of the item placed.
        labelled = categories > 0

        def place(
            step: tf.Tensor, left: tf.Tensor, likeness: tf.Tensor, full: tf.Tensor, out: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            open_ = left & tf.reduce_all(full < (self.at_most or 1), axis=-1)
            value = self.trade_off * relevance
            value -= (1 - self.trade_off) * tf.where(step > 0, likeness, 0.0)
            chosen = tf.argmax(tf.where(open_, value, -np.inf), axis=1, output_type=tf.int32)
            found = tf.gather(open_, chosen, batch_dims=1)
            vector = tf.gather(vectors, chosen, batch_dims=1)  # [Q, D]
            cosine = tf.einsum("qnd,qd->qn", vectors, vector)
            likeness = tf.where(step > 0, tf.maximum(likeness, cosine), cosine)
            theirs = tf.gather(categories, chosen, batch_dims=1)  # [Q, L]
            same = labelled[..., tf.newaxis] & (
                categories[..., tf.newaxis] == theirs[:, tf.newaxis, tf.newaxis]
            )
            shared = tf.reduce_any(same, axis=-1) & found[:, tf.newaxis, tf.newaxis]
            full += tf.cast(shared & (self.at_most is not None), tf.int32)
            left &= ~tf.one_hot(chosen, tf.shape(scores)[1], on_value=True, off_value=False)
            chosen = tf.where(found, chosen, -1)
            return step + 1, left, likeness, full, tf.concat([out, chosen[:, tf.newaxis]], axis=1)

        start = (
            tf.constant(0),
            valid,
            tf.zeros_like(scores),
            tf.zeros_like(categories),
            tf.zeros([tf.shape(scores)[0], 0], tf.int32),
        )
        shapes = (*(x.shape for x in start[:-1]), tf.TensorShape([None, None]))
        *_, chosen = tf.while_loop(lambda step, *_: step < k, place, start, shape_invariants=shapes)
        return chosen
