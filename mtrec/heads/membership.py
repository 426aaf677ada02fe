"""Which values are among others, in TensorFlow ops."""

import tensorflow as tf


def is_in(values: tf.Tensor, members: tf.Tensor) -> tf.Tensor:
    """Whether each of `values` is one of `members` `[M]`, none of which is negative."""
    members = tf.sort(tf.concat([members, [-1]], axis=0))
    flat = tf.reshape(values, [-1])
    place = tf.searchsorted(members, flat, side="right") - 1
    return tf.reshape(tf.gather(members, place) == flat, tf.shape(values))
