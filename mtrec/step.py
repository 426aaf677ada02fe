"""The training step.

The objective is `sum_t w_t * (sum_i m_ti l_ti) / (sum_i m_ti)`, both inner sums over the *global*
batch: each replica divides its sum by everybody's count, and the optimizers sum the gradients. It
does not change when the same global batch is spread over more replicas.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.balance import Balancer
from mtrec.data.batches import Batch
from mtrec.heads.head import Examples
from mtrec.model import Recommender
from mtrec.strategy import all_sum
from mtrec.tables import TABLE, tables_of


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for embedding tables, one for dense weights."""

    tables: keras.optimizers.Optimizer
    dense: keras.optimizers.Optimizer


class Step:
    """The training step: some batches in, every task's mean loss out, all weights moved.

    Args:
        model: The model, adapted.
        balancer: Turns task losses into the objective.
        optimizers: They move the weights.
        strategy: Where the replicas are. Model, balancer and optimizers belong to its scope.
    """

    def __init__(
        self,
        model: Recommender,
        balancer: Balancer,
        optimizers: Optimizers,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.model = model
        self.balancer = balancer
        self.optimizers = optimizers
        self.strategy = strategy
        self.tables = tables_of(model)
        self.dense = [v for v in model.trainable_variables if v.name != TABLE]
        self.dense += balancer.trainable_variables
        with strategy.scope():
            optimizers.tables.build(self.tables)
            optimizers.dense.build(self.dense)
        self._run: Callable[[Mapping[str, Any]], tf.Tensor] | None = None

    def __call__(self, replicas: Mapping[int, Batch]) -> np.ndarray:
        """Takes K steps; returns each task's loss over the global batch, `[K, T]`.

        Args:
            replicas: For each replica of this process, its K batches stacked to arrays `[K, ...]`.
        """
        if self._run is None:
            self._run = self._traced_once(replicas)
        return self._run(self._distributed(replicas)).numpy()

    def _distributed(self, replicas: Mapping[int, Batch]) -> Mapping[str, Any]:
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: {
                name: tf.constant(value)
                for name, value in replicas[context.replica_id_in_sync_group].items()
            }
        )

    def _traced_once(self, replicas: Mapping[int, Batch]) -> Callable[[Mapping[str, Any]], Any]:
        """`_many`, compiled for batches of any size: tracing is most of a short job's time."""
        batches, larger = (
            {
                r: {n: np.zeros(np.add(v.shape, more), v.dtype) for n, v in batch.items()}
                for r, batch in replicas.items()
            }
            for more in (0, 1)
        )
        specs = [
            {name: tf.type_spec_from_value(value) for name, value in values.items()}
            for values in (self._distributed(batches), self._distributed(larger))
        ]
        any_size = {
            name: spec.most_specific_common_supertype([specs[1][name]])
            for name, spec in specs[0].items()
        }
        return tf.function(self._many, autograph=False, input_signature=[any_size])

    def _many(self, batches: Mapping[str, Any]) -> tf.Tensor:
        one = self.strategy.experimental_local_results(batches["query"])[0]
        count = tf.shape(one)[0]

        def body(k: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            result = self.strategy.run(self._step, args=(batches, k))
            return k + 1, losses.write(k, self.strategy.experimental_local_results(result)[0])

        losses = tf.TensorArray(tf.float32, size=count)
        _, losses = tf.while_loop(lambda k, _: k < count, body, (0, losses))
        return losses.stack()

    def losses(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """This replica's share of every task's mean loss over the global batch."""
        query = self.model.queries(
            batch["query"],
            tf.gather(batch["item"], batch["history_item"]),
            batch["history_query"],
        )
        item, pool = self.model.candidates(batch["item"]), self.model.candidates(batch["pool"])
        sums, counts = [], []
        for name, head in self.model.heads.items():
            examples = Examples(query=query[name], item=item[name], pool=pool[name], batch=batch)
            losses, mask = head.losses(examples)
            sums.append(tf.reduce_sum(tf.where(mask > 0, losses * mask, 0.0)))
            counts.append(tf.reduce_sum(mask))
        totals = all_sum(tf.stack(counts))
        return {
            name: tf.math.divide_no_nan(total, count)
            for name, total, count in zip(self.model.heads, sums, tf.unstack(totals), strict=True)
        }

    def _step(self, batches: Mapping[str, tf.Tensor], k: tf.Tensor) -> tf.Tensor:
        batch = {name: value[k] for name, value in batches.items()}
        variables = [v.value for v in self.tables + self.dense]
        with tf.GradientTape() as tape:
            tape.watch(variables)  # tapes do not see a sharded table by themselves
            losses = self.losses(batch)
            objective = self.balancer.combine(losses, self.strategy.num_replicas_in_sync)
        gradients = tape.gradient(objective, variables)
        pairs = list(zip(gradients, self.tables + self.dense, strict=True))
        for optimizer, part in (
            (self.optimizers.tables, pairs[: len(self.tables)]),
            (self.optimizers.dense, pairs[len(self.tables) :]),
        ):
            moved = [(g, v) for g, v in part if g is not None]
            if moved:  # a model may have no dense weight
                optimizer.apply_gradients(moved)
        return all_sum(tf.stack(list(losses.values())))
