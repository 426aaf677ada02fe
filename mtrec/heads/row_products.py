"""Sums and products of rows, whose gradients ask no shape at run time.

TensorFlow's own find out, each time that a step runs, along which axes a factor was repeated: some
ten kernels beside the product's two. Here that is known.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

Differentiable: TypeAlias = tuple[tf.Tensor, Callable[[Any], Any]]


@tf.custom_gradient
def product(one: tf.Tensor, other: tf.Tensor) -> Differentiable:
    """`one * other` of one shape."""

    def gradients(upstream: Any) -> tuple[tf.Tensor, tf.Tensor]:
        upstream = tf.convert_to_tensor(upstream)  # that of a gather is slices
        return upstream * other, upstream * one

    return one * other, gradients


@tf.custom_gradient
def dot(one: tf.Tensor, other: tf.Tensor) -> Differentiable:
    """The products of rows with rows: `[..., D], [..., D] -> [...]`."""

    def gradients(upstream: Any) -> tuple[tf.Tensor, tf.Tensor]:
        upstream = tf.convert_to_tensor(upstream)[..., tf.newaxis]
        return upstream * other, upstream * one

    return tf.reduce_sum(one * other, axis=-1), gradients


@tf.custom_gradient
def row_sum(values: tf.Tensor) -> Differentiable:
    """The sum of each row, `[..., D] -> [...]`, D being known when the step is traced."""
    ones = tf.ones(values.shape[-1:])

    def gradient(upstream: Any) -> tf.Tensor:
        return tf.convert_to_tensor(upstream)[..., tf.newaxis] * ones

    return tf.reduce_sum(values, axis=-1), gradient


@tf.custom_gradient
def weighted(values: tf.Tensor, weight: tf.Tensor) -> Differentiable:
    """`values * weight`, `[...]`, where weights are given, and may be repeated along axes."""

    def gradients(upstream: Any) -> tuple[tf.Tensor, None]:
        return tf.convert_to_tensor(upstream) * weight, None

    return values * weight, gradients


@tf.custom_gradient
def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> Differentiable:
    """`sum mask * values`, a scalar; what has a mask of 0, whatever it is, has no part in it."""
    given = mask > 0

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.where(given, upstream * mask, 0.0), None

    return tf.reduce_sum(tf.where(given, values * mask, 0.0)), gradients


@tf.custom_gradient
def unmoved_where(values: tf.Tensor, frozen: tf.Tensor) -> Differentiable:
    """The values `[N, D]`, without a gradient for the rows that are frozen, `[N, 1]`."""

    def gradients(upstream: Any) -> tuple[tf.Tensor, None]:
        return tf.where(frozen, 0.0, tf.convert_to_tensor(upstream)), None

    return tf.identity(values), gradients


@tf.custom_gradient
def squared_error(output: tf.Tensor, truth: tf.Tensor) -> Differentiable:
    """`(output - truth)^2`, `[N, E]`, of a truth `[N, 1]` that is given."""
    error = output - truth

    def gradients(upstream: Any) -> tuple[tf.Tensor, None]:
        return tf.convert_to_tensor(upstream) * (2.0 * error), None

    return tf.square(error), gradients


@tf.custom_gradient
def unit(vectors: tf.Tensor) -> Differentiable:
    """Vectors `[..., D]` scaled to length 1.

    A query that nothing is known of is a vector of zeros and stays one. Its gradient must not be
    divided by an epsilon: a single one of 1e6 spoils Adam's moments for the whole job.
    """
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    factor = tf.math.rsqrt(tf.where(squared > 0, squared, 1.0))
    scaled = vectors * factor

    def gradient(upstream: Any) -> tf.Tensor:
        upstream = tf.convert_to_tensor(upstream)
        along = tf.reduce_sum(upstream * scaled, axis=-1, keepdims=True)
        return factor * (upstream - scaled * along)

    return scaled, gradient
