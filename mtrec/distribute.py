"""Where training runs: the strategy, and sums and gathers over its replicas."""

import tensorflow as tf


def all_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of every replica's `value`, the same on all; its gradient is summed as well."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def all_gather(value: tf.Tensor) -> tf.Tensor:
    """Every replica's `value`, joined along the first axis; gradients return to their replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # One tensor a call: a call with mixed types fails.
    return context.all_gather(tf.identity(value), axis=0)
