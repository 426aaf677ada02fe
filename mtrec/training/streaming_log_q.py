"""Log Q from the stream of pools itself, where training counts are unknown or drift."""

import keras
import tensorflow as tf

from mtrec.data.batches import Batches
from mtrec.data.inputs import Batch
from mtrec.distributed.strategy import all_gather
from mtrec.distributed.weights import unnumbered


class StreamingLogQ(keras.layers.Layer):
    """Estimates each item's probability of being in the pool from the steps between its pools.

    For each item in the pool of step t, A being the last step before whose pool held it:
    `B = (1 - rate) B + rate (t - A)`, then `A = t`; Q is `1 / B` (Yi et al., RecSys 2019,
    algorithm 2). They hash items into the two arrays. Here every item has a row, and so an estimate
    of its own.

    Steps count from 1, every A starts at 0, and every B at one over the share of the catalogue that
    the first pool held, as if all items were equally likely. A loss only reads items of the pool,
    after the pool has moved them, so that even an item's first estimate holds a gap.

    Both arrays depend on the pool of all replicas alone, are the same on every replica (12 bytes an
    item), and are part of the checkpoints.

    Args:
        num_items: Items in the catalogue.
        rate: Share of the newest gap in the mean, above 0 and at most 1.
        start: What every B starts at, in steps.
    """

    def __init__(self, num_items: int, *, rate: float, start: float) -> None:
        super().__init__(name=unnumbered(self))
        self.rate = rate
        self._last, self._gap = (
            self.add_weight(
                shape=(num_items + 1,),
                initializer=keras.initializers.Constant(value),
                dtype=dtype,
                trainable=False,
                aggregation="only_first_replica",
                name=name,
            )
            for name, value, dtype in (("last", 0, "int64"), ("gap", start, "float32"))
        )
        self.built = True

    @classmethod
    def of(cls, batches: Batches) -> "StreamingLogQ | None":
        """The estimator that the negatives of `batches` ask for, or None."""
        rate = batches.negatives.log_q_rate if batches.negatives else None
        if rate is None:
            return None
        first = sum(int((part.pool.items > 0).sum()) for part in batches.step(1, 0))
        return cls(batches.num_items, rate=rate, start=batches.num_items / max(first, 1))

    def estimate(self, batch: Batch, step: tf.Tensor) -> Batch:
        """The batch with log Q, from its pool and those before; moves the state.

        Args:
            batch: A replica's slice of a batch.
            step: Number of the step, from 0.
        """
        pool = all_gather(batch.pool.items)
        pool = tf.boolean_mask(pool, pool > 0)
        now = tf.cast(step, tf.int64) + 1
        newest = tf.cast(now - tf.gather(self._last.value, pool), tf.float32)
        gap = (1.0 - self.rate) * tf.gather(self._gap.value, pool) + self.rate * newest
        self._gap.value.scatter_update(tf.IndexedSlices(gap, pool))
        self._last.value.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(pool), now), pool))
        of_rows, of_own = (
            self._log_q(tf.gather(batch.items, part.item)) for part in (batch.rows, batch.own)
        )
        return batch._replace(
            rows=batch.rows._replace(log_q=of_rows),
            own=batch.own._replace(log_q=of_own),
            pool=batch.pool._replace(log_q=self._log_q(batch.pool.items)),
        )

    def _log_q(self, items: tf.Tensor) -> tf.Tensor:
        return tf.where(items > 0, -tf.math.log(tf.gather(self._gap.value, items)), 0.0)
