"""The training step.

The objective is `sum_t w_t * (sum_i m_ti l_ti) / (sum_i m_ti)`, both inner sums over the *global*
batch: each replica divides its sum by everybody's count, and the optimizers sum the gradients. It
does not change when the same global batch is spread over more replicas.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.inputs import Batch
from mtrec.distributed.precision import training_step
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import all_sum
from mtrec.distributed.tables import TABLE, tables_of
from mtrec.errors import UserError
from mtrec.heads.head import Examples
from mtrec.heads.row_products import masked_sum, unmoved_where
from mtrec.model.recommender import Recommender
from mtrec.training.balance import Balancer
from mtrec.training.gradient_balance import gram_matrix, weighted_sum
from mtrec.training.gradient_cache import Encoded, GradientCache, encode
from mtrec.training.packed import Packed, unpack
from mtrec.training.streaming_log_q import StreamingLogQ
from mtrec.training.telemetry import as_metrics, moved_by, touched_rows

# What a step finds of each task; see `Taken`.
_PER_TASK = ("losses", "weights", "rows")


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for embedding tables, one for dense weights."""

    tables: keras.optimizers.Optimizer
    dense: keras.optimizers.Optimizer


@dataclass(frozen=True)
class Taken:
    """What K steps found.

    Attributes:
        losses: Each task's mean loss over the global batch, `[K, T]`; 0 where it has no rows.
        weights: The weight each task had, `[K, T]`: the configured one times the balancer's factor.
        rows: The rows each task had in the global batch, `[K, T]`.
        telemetry: Metrics of a step that was observed; see `mtrec.training.telemetry`.
    """

    losses: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    telemetry: dict[str, float]


class Step:
    """The training step: some batches in, every task's mean loss out, all weights moved.

    Args:
        model: The model, adapted.
        balancer: Chooses how much each task counts.
        optimizers: They move the weights.
        strategy: Where the replicas are. Model, balancer and optimizers belong to its scope.
        log_q: Estimates log Q, where the batches do not have it; made in the same scope.
        encode_at_once: See `mtrec.training.gradient_cache.GradientCache`; null for the whole batch.

    Raises:
        UserError: If the optimizer of tables clips gradients. That of dense weights may: it clips
            the gradient of the global batch.
    """

    def __init__(
        self,
        model: Recommender,
        balancer: Balancer,
        optimizers: Optimizers,
        strategy: tf.distribute.Strategy,
        *,
        log_q: StreamingLogQ | None = None,
        encode_at_once: int | None = None,
    ) -> None:
        option = _clipping(optimizers.tables)
        if option:
            raise UserError(
                f"`tables` must not clip gradients: got {option}="
                f"{getattr(optimizers.tables, option)}, which would clip each replica's rows by "
                f"themselves. Clip those of dense weights, with `dense.{option}`."
            )
        self.model = model
        self.balancer = balancer
        self.optimizers = optimizers
        self.strategy = strategy
        self.log_q = log_q
        self.cache = GradientCache(model, at_once=encode_at_once) if encode_at_once else None
        self.tables = tables_of(model)
        self.dense = [v for v in model.trainable_variables if v.name != TABLE]
        with strategy.scope():
            optimizers.tables.build(self.tables)
            optimizers.dense.build(self.dense)
        # Of a sharded table, a replica has the whole batch's gradient, but of its own rows alone.
        self._sharded = [isinstance(v, ShardedVariable) for v in self.tables + self.dense]
        self._clock = (optimizers.tables if self.tables else optimizers.dense).iterations
        # TensorFlow 2.20 takes a way through a loop's next iteration for one within this, and then
        # drops what orders the read of a variable before its write; see
        # tests/training/test_step_order.py.
        tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
        self._compiled: dict[bool, Callable[[Any, Any], dict[str, tf.Tensor]]] = {}

    def __call__(self, replicas: Mapping[int, Packed], *, observe: bool = False) -> Taken:
        """Takes K steps.

        Args:
            replicas: For each replica of this process, its K batches.
            observe: Whether to look at gradients and updates, in a call of one step.
        """
        if observe not in self._compiled:
            self._compiled[observe] = self._traced_once(observe, replicas)
        found = self._compiled[observe](*self._distributed(replicas))
        telemetry = as_metrics(found, list(self.model.heads), self.tables) if observe else {}
        per_task = {name: found[name].numpy() for name in _PER_TASK}
        return Taken(**per_task, telemetry=telemetry)

    def _distributed(self, replicas: Mapping[int, Packed]) -> tuple[Any, Any]:
        numbers, sizes = (
            self.strategy.experimental_distribute_values_from_function(
                lambda context, field=field: tf.constant(
                    getattr(replicas[context.replica_id_in_sync_group], field)
                )
            )
            for field in ("numbers", "sizes")
        )
        return numbers, sizes

    def _traced_once(
        self, observe: bool, replicas: Mapping[int, Packed]
    ) -> Callable[[Any, Any], dict[str, tf.Tensor]]:
        """Compiles for batches of any size: tracing is most of a short job's time."""
        like = next(iter(replicas.values())).like
        larger = {
            r: packed._replace(numbers=np.zeros(np.add(packed.numbers.shape, 1), np.float32))
            for r, packed in replicas.items()
        }
        specs, others = (
            [tf.nest.map_structure(tf.type_spec_from_value, v) for v in self._distributed(values)]
            for values in (replicas, larger)
        )
        any_size = [
            spec.most_specific_common_supertype([other])
            for spec, other in zip(specs, others, strict=True)
        ]
        function = self._observed if observe else self._many
        return tf.function(
            lambda numbers, sizes: function(numbers, sizes, like),
            autograph=False,
            input_signature=any_size,
        )

    def _many(self, numbers: Any, sizes: Any, like: Batch) -> dict[str, tf.Tensor]:
        count = tf.shape(self._local(numbers))[0]

        def body(k: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            result = self.strategy.run(self._step, args=(numbers, sizes, k, like))
            return k + 1, found.write(k, [self._local(result[name]) for name in _PER_TASK])

        found = tf.TensorArray(tf.float32, size=count)
        _, found = tf.while_loop(lambda k, _: k < count, body, (0, found))
        return dict(zip(_PER_TASK, tf.unstack(found.stack(), axis=1), strict=True))  # each [K, T]

    def _observed(self, numbers: Any, sizes: Any, like: Batch) -> dict[str, tf.Tensor]:
        found = self.strategy.run(self._step, args=(numbers, sizes, 0, like, True))
        one = {name: self._local(value) for name, value in found.items()}
        return one | {name: one[name][tf.newaxis] for name in _PER_TASK}

    def _local(self, value: Any) -> tf.Tensor:
        return self.strategy.experimental_local_results(value)[0]

    def _encoded(self, tape: tf.GradientTape, batch: Batch) -> Encoded:
        if not self.cache:
            return encode(self.model, batch)
        with tape.stop_recording():
            encoded = self.cache.encode(batch)
        tape.watch(encoded)
        return encoded

    def _gradients(
        self,
        tape: tf.GradientTape,
        targets: Sequence[tf.Tensor],
        batch: Batch,
        encoded: Encoded,
    ) -> list[list[Any]]:
        """The gradient of each target with respect to every table and dense weight."""
        variables = [v.value for v in self.tables + self.dense]
        if not self.cache:
            return [tape.gradient(target, variables) for target in targets]
        found = [tape.gradient(target, (variables, encoded)) for target in targets]
        return self.cache.gradients(batch, variables, found)

    def losses(self, batch: Batch, encoded: Encoded) -> tuple[list[tf.Tensor], tf.Tensor]:
        """This replica's share of every task's mean loss over the global batch, and its rows."""
        query, item, pool = (encoded[side] for side in ("query", "item", "pool"))
        frozen = batch.pool.frozen[:, tf.newaxis] > 0
        pool = {name: unmoved_where(vectors, frozen) for name, vectors in pool.items()}
        sums, counts = [], []
        for name, head in self.model.heads.items():
            examples = Examples(query=query[name], item=item[name], pool=pool[name], batch=batch)
            if head.views:
                views = self.model.views(name, batch.views.items, batch.views.draw)
                losses, mask = head.losses(replace(examples, views=views))
            else:
                losses, mask = head.losses(examples)
                if head.sampling_rate < 1:
                    mask = tf.where(batch.rows.draw < head.sampling_rate, mask, 0.0)
            sums.append(masked_sum(losses, mask))
            counts.append(tf.reduce_sum(mask))
        totals = all_sum(tf.stack(counts))
        return [
            tf.math.divide_no_nan(total, count)
            for total, count in zip(sums, tf.unstack(totals), strict=True)
        ], totals

    def _step(
        self, numbers: tf.Tensor, sizes: tf.Tensor, k: tf.Tensor, like: Batch, observe: bool = False
    ) -> dict[str, tf.Tensor]:
        with training_step():
            return self._taken(unpack(numbers[k], sizes, like), observe)

    def _taken(self, batch: Batch, observe: bool) -> dict[str, tf.Tensor]:
        if self.log_q:
            batch = self.log_q.estimate(batch, self._clock.value)
        balancer, configured = self.balancer, self.balancer.configured
        apart = balancer.of_gradients or observe
        with tf.GradientTape(persistent=apart) as tape:
            # Tapes do not see a sharded table by themselves.
            tape.watch([v.value for v in self.tables + self.dense])
            encoded = self._encoded(tape, batch)
            shares, rows = self.losses(batch, encoded)
            losses = all_sum(tf.stop_gradient(tf.stack(shares)))
            parts = _times(configured, shares)
            if not balancer.of_gradients:
                factors = balancer.factors(configured * losses, None, self._clock.value)
                objective = tf.add_n(_times(tf.stop_gradient(factors), parts))
        if apart:
            tasks = self._gradients(tape, parts, batch, encoded)
            gram = gram_matrix(tasks, self._sharded)
        if balancer.of_gradients:
            factors = balancer.factors(configured * losses, gram, self._clock.value)
            gradients = [weighted_sum(each, factors) for each in zip(*tasks, strict=True)]
        else:
            (gradients,) = self._gradients(tape, [objective], batch, encoded)
        found = {"losses": losses, "weights": configured * factors, "rows": rows}
        if not observe:
            self._apply(gradients)
            return found
        touched = [
            touched_rows(g, sharded=s)
            for g, s in zip(gradients[: len(self.tables)], self._sharded, strict=False)
        ]
        before = [tf.gather(v.value, r) for v, r in zip(self.tables, touched, strict=True)]
        self._apply(gradients)
        after = [tf.gather(v.value, r) for v, r in zip(self.tables, touched, strict=True)]
        return found | {"gram": gram, "updates": moved_by(before, after, self._sharded)}

    def _apply(self, gradients: Sequence[Any]) -> None:
        """Moves all weights by this replica's share of the gradients."""
        pairs = list(zip(gradients, self.tables + self.dense, strict=True))
        for optimizer, part in (
            (self.optimizers.tables, pairs[: len(self.tables)]),
            (self.optimizers.dense, pairs[len(self.tables) :]),
        ):
            moved = [(g, v) for g, v in part if g is not None]
            if moved:  # a model may have no dense weight
                optimizer.apply_gradients(self._clipped(optimizer, moved))

    def _clipped(
        self, optimizer: keras.optimizers.Optimizer, moved: list[tuple[Any, keras.Variable]]
    ) -> list[tuple[Any, keras.Variable]]:
        """This replica's share of the gradients, their sum over replicas being clipped.

        Keras clips each replica's share by itself. A share of what is clipped is short enough for
        it to leave alone.
        """
        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1 or not _clipping(optimizer):
            return moved
        gradients, variables = zip(*moved, strict=True)
        clipped = optimizer._clip_gradients([all_sum(g) for g in gradients])
        return [(g / replicas, v) for g, v in zip(clipped, variables, strict=True)]


def _clipping(optimizer: keras.optimizers.Optimizer) -> str | None:
    """The option by which the optimizer clips gradients, if it does."""
    options = ("clipnorm", "global_clipnorm", "clipvalue")
    return next((name for name in options if getattr(optimizer, name)), None)


def _times(factors: tf.Tensor, losses: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [f * loss for f, loss in zip(tf.unstack(factors), losses, strict=True)]
