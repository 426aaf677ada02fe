"""Telemetry: what a training step looks like from inside, in a few numbers.

`gradient/<head>/norm` is the length of a task's gradient, at its configured weight, with respect to
the parameters that tasks share; `gradient/<head>/<other>/cosine` how far two tasks agree there: -1
for opposed, 1 for equal directions. `update/<table>/norm` is how far a step moved a table's rows.
An observed step moves the weights as any other does, up to rounding.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import keras
import numpy as np
import tensorflow as tf

from mtrec.distributed.strategy import all_gather, all_sum


def touched_rows(gradient: tf.Tensor | tf.IndexedSlices | None, *, sharded: bool) -> tf.Tensor:
    """Rows of a table that the batch touches, `[n]`, each once; of this replica's if sharded."""
    if gradient is None:
        return tf.zeros([0], tf.int32)
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.range(tf.shape(gradient)[0])
    return tf.unique(gradient.indices if sharded else all_gather(gradient.indices))[0]


def moved_by(
    before: Sequence[tf.Tensor], after: Sequence[tf.Tensor], sharded: Sequence[bool]
) -> tf.Tensor:
    """How far the rows `[n, D]` of each table moved: roots of summed squares, one a table."""
    squares = tf.stack(
        [tf.reduce_sum(tf.square(new - old)) for new, old in zip(after, before, strict=True)]
    )
    apart = tf.constant(sharded[: len(before)])
    return tf.sqrt(tf.where(apart, all_sum(squares), squares))


def as_metrics(
    found: Mapping[str, tf.Tensor], heads: Sequence[str], tables: Sequence[keras.Variable]
) -> dict[str, float]:
    """The metrics of one step.

    Args:
        found: Under `gram` the inner products of the tasks' gradients, `[T, T]`; under `updates`
            the update norm of each table.
        heads: Names of the tasks.
        tables: The tables.
    """
    gram = found["gram"].numpy().astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(gram), 0.0))
    metrics = {f"gradient/{h}/norm": float(n) for h, n in zip(heads, lengths, strict=True)}
    for i, j in combinations(range(len(heads)), 2):
        both = lengths[i] * lengths[j]
        cosine = np.clip(gram[i, j] / both, -1.0, 1.0) if both else 0.0
        metrics[f"gradient/{heads[i]}/{heads[j]}/cosine"] = float(cosine)
    for table, norm in zip(tables, found["updates"].numpy(), strict=True):
        metrics[f"update/{table.path.rsplit('/', 1)[0]}/norm"] = float(norm)
    return metrics
