"""In what training multiplies matrices; weights, tables, scores and losses are float32 throughout.

TF32 keeps 10 of the 23 bits of a factor's mantissa, bfloat16 7: several times as fast on GPUs, and
neither equal to the CPU's results nor to those of another number of replicas to 1e-5.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

# What dense layers multiply in within a training step, and whether one is being traced.
_of_steps: tf.DType = tf.float32
_in_step = False


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Multiplies matrices in `float32`, `tf32` or `bfloat16` until the end.

    `tf32` is for all products on GPUs, CPUs having no such thing; `bfloat16` besides for the dense
    layers of training steps, on CPUs too. What is judged and served then has layers in float32.
    """
    global _of_steps
    before = tf.config.experimental.tensor_float_32_execution_enabled(), _of_steps
    tf.config.experimental.enable_tensor_float_32_execution(name != "float32")
    _of_steps = tf.bfloat16 if name == "bfloat16" else tf.float32
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before[0])
        _of_steps = before[1]


@contextmanager
def training_step() -> Iterator[None]:
    """Marks what is traced, until the end, as of a training step."""
    global _in_step
    _in_step = True
    try:
        yield
    finally:
        _in_step = False


class Dense(keras.layers.Dense):
    """Keras' dense layer, `[..., D] -> [..., U]`, which multiplies in the training's precision."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See the class."""
        if not _in_step or _of_steps == tf.float32:
            return super().call(inputs)
        factors = tf.cast(inputs, _of_steps), tf.cast(self.kernel.value, _of_steps)
        outputs = tf.cast(tf.matmul(*factors), tf.float32)
        if self.bias is not None:
            outputs = tf.nn.bias_add(outputs, self.bias.value)
        return self.activation(outputs)
