"""Experts over a tower's sums, the gates that weigh them, and who sees which.

Shapes: `B` rows, `D` width of the input, `W` width of an expert's output, `K` experts of a gate.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mtrec.distributed.precision import Dense
from mtrec.distributed.weights import seed_for

# The group of experts that belongs to no head, and the scope of features that every head has.
SHARED = "shared"


class Expert(keras.layers.Layer):
    """Dense layers one after the other, `[B, D] -> [B, W]`; without any, the input itself.

    Args:
        name: Name that the layers' names begin with.
        dim: Width D of the input.
        layers: Widths of the layers; the last one is linear.
        activation: Activation between them.
        initializer: Initializer of their kernels.
        seed: Seed of the model's initial weights.
    """

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        layers: Sequence[int],
        activation: str,
        initializer: str,
        seed: int,
    ) -> None:
        super().__init__(name=f"{name}_expert")
        self.stack = []
        for position, units in enumerate(layers):
            between = activation if position < len(layers) - 1 else None
            layer = dense(units, f"{name}_layer_{position}", between, initializer, seed)
            layer.build((None, dim))
            self.stack.append(layer)
            dim = units
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """`[B, D] -> [B, W]`."""
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


class Gate(keras.layers.Layer):
    """Weighs experts anew for every row: `softmax(x W)`, `[B, D] x [D, K] -> [B, K]`.

    Each expert's column of W starts from a seed of its own, so that an expert more changes no
    other column.

    Args:
        name: Name of the gate.
        dim: Width D of the input.
        experts: Names of the experts that it weighs.
        seed: Seed of the model's initial weights.
    """

    def __init__(self, *, name: str, dim: int, experts: Sequence[str], seed: int) -> None:
        super().__init__(name=name)
        columns = [
            np.random.default_rng(seed_for(seed, f"{name}/{expert}")).standard_normal(dim)
            for expert in experts
        ]
        values = np.stack(columns, axis=1) / np.sqrt(dim)
        self.experts = list(experts)
        self.kernel = self.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype: tf.constant(values, dtype),
            name="kernel",
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """`[B, D] -> [B, K]`; each row sums to 1."""
        return tf.nn.softmax(tf.matmul(inputs, self.kernel.value))


class Mixture(keras.layers.Layer):
    """Groups of experts, and readers whose gates average the groups that they see.

    A group is `shared` or belongs to a head. A head that sees another head's group reads it
    without passing a gradient on.

    Args:
        name: Name that all names of weights begin with.
        experts: Number of experts in each group.
        readers: The groups that each reader sees; a reader is a head or `shared`.
        dim: Width D of all inputs.
        make_expert: Makes an expert of a name, a width of input and a seed.
        seed: Seed of the model's initial weights.
    """

    def __init__(
        self,
        *,
        name: str,
        experts: Mapping[str, int],
        readers: Mapping[str, Sequence[str]],
        dim: int,
        make_expert: Callable[[str, int, int], Expert],
        seed: int,
    ) -> None:
        super().__init__(name=f"{name}_mixture")
        self.readers = {reader: list(groups) for reader, groups in readers.items()}
        names = {group: [f"{group}_{k}" for k in range(n)] for group, n in experts.items()}
        self.experts = {
            group: {expert: make_expert(f"{name}_{expert}", dim, seed) for expert in members}
            for group, members in names.items()
        }
        self.gates = {
            reader: Gate(
                name=f"{name}_gate_{reader}",
                dim=dim,
                experts=[expert for group in groups for expert in names[group]],
                seed=seed,
            )
            for reader, groups in readers.items()
        }
        self.built = True

    def call(
        self, inputs: Mapping[str, tf.Tensor], asked: Mapping[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], dict[str, dict[str, tf.Tensor]]]:
        """Averages `[B, W]` for each reader, and the weights `[B]` of each expert in them.

        Args:
            inputs: What each group's experts read, `[B, D]`.
            asked: What each reader's gate reads, `[B, D]`.
        """
        outputs = {
            group: [expert(inputs[group]) for expert in members.values()]
            for group, members in self.experts.items()
        }
        mixed, gates = {}, {}
        for reader, groups in self.readers.items():
            seen = [
                tf.stop_gradient(output) if _foreign(group, reader) else output
                for group in groups
                for output in outputs[group]
            ]
            weights = self.gates[reader](asked[reader])
            # [B, K, 1] x [B, K, W]
            mixed[reader] = tf.reduce_sum(weights[..., tf.newaxis] * tf.stack(seen, axis=1), axis=1)
            gates[reader] = dict(
                zip(self.gates[reader].experts, tf.unstack(weights, axis=1), strict=True)
            )
        return mixed, gates


def _foreign(group: str, reader: str) -> bool:
    return SHARED not in (group, reader) and group != reader


def dense(
    units: int,
    name: str,
    activation: str | None,
    initializer: str | Callable[..., tf.Tensor],
    seed: int,
    *,
    use_bias: bool = True,
) -> keras.layers.Dense:
    """A dense layer whose initial kernel, if drawn, depends on the seed and its name alone."""
    kernel = keras.initializers.get(initializer)
    if hasattr(kernel, "seed"):
        kernel = type(kernel)(seed=seed_for(seed, name))
    return Dense(
        units, activation=activation, kernel_initializer=kernel, use_bias=use_bias, name=name
    )
