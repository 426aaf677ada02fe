"""Cross layers: products of a pair's factors of bounded degree, each with a weight of its own."""

from collections.abc import Callable

import keras
import tensorflow as tf

from mtrec.distributed.weights import seed_for, unnumbered


class Cross(keras.layers.Layer):
    """Cross layers over `x_0 = [p, q]`, and a linear unit that makes a number of the last.

    `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`, with W_l a whole matrix (DCN v2; Wang et al., WWW 2021,
    arXiv:2008.13535). `keras_rs.layers.FeatureCross` computes the same. Each member of a head has
    weights of its own and reads its own factors.

    Args:
        depth: Number of cross layers.
        dim: Width of a member's p and q.
        members: Number of members E.
        name: Name of the weights.
        seed: Seed of all initial weights.
    """

    def __init__(self, *, depth: int, dim: int, members: int, name: str, seed: int) -> None:
        super().__init__(name=unnumbered(self))
        self.members = members
        width = 2 * dim

        def weight(name: str, *shape: int, starts: Callable[..., tf.Tensor]) -> keras.Variable:
            return self.add_weight(shape=(members, *shape), initializer=starts, name=name)

        def glorot(name: str) -> Callable[..., tf.Tensor]:
            seeds = [seed_for(seed, f"{name}_{member}") for member in range(members)]
            alone = [keras.initializers.GlorotUniform(seed=each) for each in seeds]
            return lambda shape, dtype: tf.stack([start(shape[1:], dtype) for start in alone])

        self.kernels, self.biases = [], []
        for layer in range(depth):
            kernel, bias = f"{name}_cross_{layer}_kernel", f"{name}_cross_{layer}_bias"
            self.kernels.append(weight(kernel, width, width, starts=glorot(kernel)))
            self.biases.append(weight(bias, width, starts=keras.initializers.Zeros()))
        unit = f"{name}_cross_unit"
        self.unit = weight(unit, width, 1, starts=glorot(unit))
        self.built = True

    def call(self, p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        """Each member's number `[N, E]` for pairs `[N, E * dim]`."""
        first = tf.concat([self._by_member(p), self._by_member(q)], axis=-1)  # [E, N, 2 * dim]
        crossed = first
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            crossed += first * (crossed @ kernel.value + bias.value[:, tf.newaxis])
        return tf.transpose((crossed @ self.unit.value)[..., 0])

    def _by_member(self, factors: tf.Tensor) -> tf.Tensor:
        parts = tf.reshape(factors, [tf.shape(factors)[0], self.members, -1])
        return tf.transpose(parts, [1, 0, 2])
