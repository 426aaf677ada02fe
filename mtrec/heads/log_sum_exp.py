"""The log of the sum of exponentials of a query's scores, with its gradient written out.

The gradient in a score is its share of the sum, `d lse(s) / d s_j = exp(s_j - lse) = softmax(s)_j`.
Shares are kept for it where they are few. Of more, those of some queries exist at a time, and are
made again for the gradient (Chen et al. 2016, arXiv:1604.06174).
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtrec.heads.max_similarity import score_all, score_all_gradients
from mtrec.heads.score_blocks import Blocks

# Shares are kept for the gradient up to so many, half a GiB; making more again needs no memory.
SCORES_KEPT = 2**27


def log_sum_exp(
    query: tf.Tensor,
    candidate: tf.Tensor,
    bias: tf.Tensor,
    changed: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """`log sum_j exp(s(q, j) + bias_j)` of every query, `[Q]`, block by block of the queries.

    Differentiable in queries and candidates.

    Args:
        query: `[Q, D]` or `[Q, K, D]`.
        candidate: `[P, D]`.
        bias: What is added to the scores of a candidate, `[P]`.
        changed: Scores `[b, P]` of the queries from one to before another, with some numbers added
            to or put in the place of some scores: `changed(scores, first, end)`.
    """
    blocks = Blocks(tf.shape(query)[0], tf.shape(candidate)[0])
    whole = tf.size(query[..., 0], tf.int64) * tf.size(bias, tf.int64) <= SCORES_KEPT

    @tf.custom_gradient
    def found(query: tf.Tensor, candidate: tf.Tensor) -> Any:
        # The bias is a column of the product: a pass over all scores takes a good part of its time.
        one_more = tf.concat([query, tf.ones_like(query[..., :1])], axis=-1)
        biased = tf.concat([candidate, bias[:, tf.newaxis]], axis=1)

        def scores(k: tf.Tensor) -> tf.Tensor:
            first, end = blocks.of(k)
            return changed(score_all(one_more[first:end], biased), first, end)

        def forward(k: tf.Tensor, sums: Any, kept: Any) -> tuple[Any, Any]:
            scored = scores(k)
            share = tf.nn.softmax(scored)
            # The log of the highest share is the highest score less the log of the sum.
            highest, highest_share = (tf.reduce_max(x, axis=1) for x in (scored, share))
            written = sums.write(k, highest - tf.math.log(highest_share))
            # Not an empty part of them, which would hold on to all.
            nothing = tf.zeros([0, tf.shape(share)[1]])
            return written, kept.write(k, tf.cond(whole, lambda: share, lambda: nothing))

        sums, kept = blocks.loop(forward, (blocks.array(), blocks.array(None)))

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.convert_to_tensor(upstream)  # that of a gather is slices

            def backward(k: tf.Tensor, of_query: Any, of_candidate: Any) -> tuple[Any, Any]:
                first, end = blocks.of(k)
                share = tf.cond(whole, lambda: kept.read(k), lambda: tf.nn.softmax(scores(k)))
                one, other = score_all_gradients(
                    query[first:end], candidate, share, upstream[first:end]
                )
                return of_query.write(k, one), of_candidate + other

            start = blocks.array(*query.shape[1:]), tf.zeros_like(candidate)
            of_query, of_candidate = blocks.loop(backward, start)
            return of_query.concat(), of_candidate

        return sums.concat(), gradients

    return found(query, candidate)
