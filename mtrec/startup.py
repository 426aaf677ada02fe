"""The start-up report: what trains where, how large it is, and what travels between replicas."""

import numpy as np
import tensorflow as tf

from mtrec.model import Recommender
from mtrec.strategy import num_workers
from mtrec.tables import TABLE


def describe(model: Recommender, strategy: tf.distribute.Strategy, global_batch: int) -> str:
    """A few lines on strategy, replicas, batch, parameters, memory and traffic.

    Traffic is what one replica sends in a step, in bytes of float32 and int32. Dense gradients:
    `4 * 2 (R - 1) / R` a parameter, by ring all-reduce. Tables: `(R - 1) (4 D + 4)` for each of
    its looked-up rows, gathered by all. A Gramian counts among the dense ones.
    """
    replicas = strategy.num_replicas_in_sync
    tables = {v.path.rsplit("/", 1)[0]: v for v in model.trainable_variables if v.name == TABLE}
    dense = sum(int(np.prod(v.shape)) for v in model.trainable_variables if v.name != TABLE)
    memory = 4 * sum(int(np.prod(v.shape)) for v in tables.values())
    workers = num_workers(strategy)
    name = "MultiWorkerMirroredStrategy" if workers > 1 else type(strategy).__name__
    lines = [
        f"{name if replicas > 1 else 'one device'}: {_count(replicas, 'replica')} in "
        f"{_count(workers, 'worker')}, "
        f"global batch {global_batch:,}, {global_batch // replicas:,} a replica",
        f"parameters: {memory // 4:,} in {_count(len(tables), 'table')} "
        f"({memory / 2**20:.1f} MiB on each device), {dense:,} dense",
    ]
    lines += [
        f"  {name}: {v.shape[0]:,} rows x {v.shape[1]} = {int(np.prod(v.shape)):,}"
        for name, v in tables.items()
    ]
    if replicas > 1:
        ring = 8 * (replicas - 1) / replicas * dense
        widths = sorted({int(v.shape[1]) for v in tables.values()})
        rows = ", ".join(f"{(replicas - 1) * (4 * w + 4):,} (width {w})" for w in widths)
        lines.append(
            f"sent by each replica in a step: {ring / 2**10:,.0f} KiB of dense gradients, and for "
            f"each table row it looks up, in bytes: {rows}"
        )
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
