"""Optimizers for embedding tables whose step costs O(rows the batch touched), never O(table).

Keras' own optimizers read and write the whole table on every step, and where an id is repeated in
a batch their sparse path accumulates Σg² instead of (Σg)². Here the gradient of a table is summed
by row first, so a step equals the one that the dense gradient would give.

All replicas' gradients are joined before `update_step`, which Keras calls once for each device's
copy of a table. The sum by row therefore already holds every replica's share. So does the gradient
of a sharded table as it comes: see `mtrec.distributed.sharded_tables`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import all_gather_together
from mtrec.distributed.tables import filled_with
from mtrec.errors import require

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices
LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


class TableOptimizer(keras.optimizers.Optimizer, ABC):
    """What optimizers for tables share: they keep and update a sharded table's rows where they are.

    Args:
        learning_rate: A float or a Keras schedule.
    """

    def __init__(self, *, learning_rate: LearningRate) -> None:
        super().__init__(learning_rate=learning_rate)

    @abstractmethod
    def update_step(
        self, gradient: Gradient, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates the touched rows of one device's copy or shard of a table."""

    def rate(self, learning_rate: tf.Tensor) -> tf.Tensor:
        """What `update_step` is given as the learning rate, once for all tables."""
        return learning_rate

    def subtract(self, variable: tf.Variable, rows: tf.Tensor, delta: tf.Tensor) -> None:
        """Takes `delta [n, ...]` from distinct rows of a table or shard, `[n]`."""
        # Where subtracted in place, each row waits for the one before to come from memory.
        self.assign(variable, tf.IndexedSlices(tf.gather(variable, rows) - delta, rows))

    def add_slot(
        self, table: keras.Variable, name: str, *, shape: Sequence[int], start: float
    ) -> keras.Variable:
        """Makes a slot `[rows, ...]` of a table, sharded as the table is."""
        name = f"{table.path.replace('/', '_')}_{name}"
        if isinstance(table, ShardedVariable):
            slot = ShardedVariable(shape, start=start, trainable=False, name=name)
            self._track_variable(slot)
            return slot
        with self._distribution_strategy.extended.colocate_vars_with(table.value):
            return self.add_variable(shape, filled_with(start), dtype=table.dtype, name=name)

    def _backend_update_step(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[keras.Variable], rate: Any
    ) -> None:
        pairs = list(zip(grads, trainable_variables, strict=True))
        rate = self.rate(rate)
        # Nobody else holds these rows: nothing is summed over replicas, nor does one wait.
        for gradient, table in pairs:
            if isinstance(table, ShardedVariable):
                self.update_step(gradient, table.value, rate)
        mirrored = [(g, v) for g, v in pairs if not isinstance(v, ShardedVariable)]
        if mirrored:
            super()._backend_update_step(*zip(*mirrored, strict=True), rate)

    def _all_reduce_sum_gradients(
        self, pairs: Sequence[tuple[Gradient, tf.Variable]]
    ) -> list[tuple[Gradient, tf.Variable]]:
        if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
            return list(pairs)
        slices = [gradient for gradient, _ in pairs]
        if not all(isinstance(s, tf.IndexedSlices) for s in slices):
            return list(super()._all_reduce_sum_gradients(pairs))
        # TensorFlow's way takes three collectives and a condition for each table. A row travels as
        # often as it is looked up: summed, gradients would be longer in one step than in the next,
        # and among several workers what is exchanged keeps its length within a call.
        rows = all_gather_together([tf.cast(s.indices, tf.int32) for s in slices])
        values = all_gather_together([s.values for s in slices])
        return [
            (tf.IndexedSlices(v, r, slices_of.dense_shape), table)
            for v, r, (slices_of, table) in zip(values, rows, pairs, strict=True)
        ]


class RowWiseAdagrad(TableOptimizer):
    """Adagrad with one accumulator a row: the sum over steps of the row's mean squared gradient.

    For a touched row with summed gradient g `[D]`: `a += mean(g²)`, then
    `row -= learning_rate * g / (√a + epsilon)`. It keeps one number where Adagrad keeps D.
    Formula: `EXACT_ROWWISE_ADAGRAD` of FBGEMM, TorchRec's usual optimizer for tables.

    Args:
        learning_rate: A float or a Keras schedule.
        initial_accumulator: Value that every row's accumulator starts from.
        epsilon: Added to the root, so that a row with no history divides by more than zero.
    """

    def __init__(
        self, *, learning_rate: LearningRate, initial_accumulator: float, epsilon: float
    ) -> None:
        super().__init__(learning_rate=learning_rate)
        require("`initial_accumulator`", initial_accumulator, least=0)
        self.initial_accumulator = initial_accumulator
        require("`epsilon`", epsilon, least=0)
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates an accumulator `[rows]` for each table `[rows, D]`."""
        if self.built:
            return
        super().build(variables)
        self._accumulators = [
            self.add_slot(
                table, "accumulator", shape=table.shape[:1], start=self.initial_accumulator
            )
            for table in variables
        ]

    def update_step(
        self, gradient: Gradient, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """See `TableOptimizer`."""
        rows, gradients = sum_by_row(gradient)
        accumulator = self._accumulators[self._get_variable_index(variable)]
        width_axes = list(range(1, variable.shape.rank))
        sums = tf.gather(accumulator.value, rows) + tf.reduce_mean(gradients**2, width_axes)
        rates = tf.cast(learning_rate, variable.dtype) / (tf.sqrt(sums) + self.epsilon)
        rates = tf.reshape(rates, [-1] + [1] * len(width_axes))
        self.assign(accumulator, tf.IndexedSlices(sums, rows))
        self.subtract(variable, rows, rates * gradients)


class LazyAdam(TableOptimizer):
    """Adam whose moments move only in the rows that a batch touched.

    A row that is touched on every step moves as under `keras.optimizers.Adam`. A row that is not
    keeps its moments and its values; the bias correction counts all steps nevertheless. Formula:
    Kingma and Ba 2015 (arXiv:1412.6980), section 2, with the corrections folded into the learning
    rate; lazy as in `LazyAdam` of TensorFlow Addons.

    Args:
        learning_rate: A float or a Keras schedule.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
    """

    def __init__(
        self, *, learning_rate: LearningRate, beta_1: float, beta_2: float, epsilon: float
    ) -> None:
        super().__init__(learning_rate=learning_rate)
        for name, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            require(f"`{name}`", beta, least=0, below=1)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        require("`epsilon`", epsilon, least=0)
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates both moments, of each table's own shape."""
        if self.built:
            return
        super().build(variables)
        self._first, self._second = (
            [self.add_slot(table, name, shape=table.shape, start=0.0) for table in variables]
            for name in ("first", "second")
        )

    def rate(self, learning_rate: tf.Tensor) -> tf.Tensor:
        """The learning rate with the corrections of both moments."""
        # In float32, 1 - 0.999 has five digits left.
        step = tf.cast(self.iterations + 1, tf.float64)
        correction = tf.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        return tf.cast(tf.cast(learning_rate, tf.float64) * correction, tf.float32)

    def update_step(
        self, gradient: Gradient, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """See `TableOptimizer`."""
        rows, gradients = sum_by_row(gradient)
        index = self._get_variable_index(variable)
        first = self._decayed(self._first[index], rows, gradients, self.beta_1)
        second = self._decayed(self._second[index], rows, gradients**2, self.beta_2)
        delta = learning_rate * first / (tf.sqrt(second) + self.epsilon)
        self.subtract(variable, rows, delta)

    def _decayed(
        self, moment: keras.Variable, rows: tf.Tensor, values: tf.Tensor, beta: float
    ) -> tf.Tensor:
        moved = beta * tf.gather(moment.value, rows) + (1.0 - beta) * values
        self.assign(moment, tf.IndexedSlices(moved, rows))
        return moved


class Adam(keras.optimizers.Adam):
    """Keras' Adam for dense weights, in one kernel a weight.

    The corrections of both moments are made once for all weights. A weight moves as under Keras'
    own, but for the rounding of float32.
    """

    def _backend_update_step(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[keras.Variable], rate: Any
    ) -> None:
        step = tf.cast(self.iterations + 1, tf.float32)
        first, second = (1 - beta**step for beta in (self.beta_1, self.beta_2))
        super()._backend_update_step(grads, trainable_variables, rate * tf.sqrt(second) / first)

    def update_step(
        self, gradient: Gradient, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Moves one weight by a learning rate that holds the corrections."""
        index = self._get_variable_index(variable)
        first, second = (of[index].value.handle for of in (self._momentums, self._velocities))
        how = {
            # The rate has the corrections.
            "beta1_power": 0.0,
            "beta2_power": 0.0,
            "lr": learning_rate,
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "epsilon": self.epsilon,
            "grad": tf.convert_to_tensor(gradient),
        }
        if self.amsgrad:
            highest = self._velocity_hats[index].value.handle
            tf.raw_ops.ResourceApplyAdamWithAmsgrad(
                var=variable.handle, m=first, v=second, vhat=highest, **how
            )
        else:
            tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=first, v=second, **how)


def sum_by_row(gradient: Gradient) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the touched rows `[n]`, each once, and their summed gradients `[n, D]`.

    A row whose gradient is exactly zero is not touched: padding and masked examples look up rows
    too, and must not make a row drift. Sparse and dense gradients thus give the same update.
    """
    if isinstance(gradient, tf.IndexedSlices):
        rows, position = tf.unique(gradient.indices, tf.int64)
        sums = tf.cond(
            tf.size(rows) == tf.size(gradient.indices),
            lambda: gradient.values,  # rows that come once are the sum as they are
            lambda: tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows)),
        )
    else:
        rows, sums = tf.range(tf.shape(gradient)[0]), gradient
    touched = tf.where(tf.reduce_any(tf.not_equal(sums, 0), list(range(1, sums.shape.rank))))[:, 0]
    return tf.gather(rows, touched), tf.gather(sums, touched)
