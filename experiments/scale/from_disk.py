"""Trains on prepared columns, mapped from disk or read into memory, and tells what that took.

    python -m mtrec.prepare data=table data.cache_dir=cache data.interactions=log \\
        'data.labels=[clicked,seconds,price]'
    python experiments/scale/from_disk.py cache/log-*
    python experiments/scale/from_disk.py cache/log-* --in-memory

Softmax over the targets of batches of 1,024 users, whose histories pool the items' vectors. Each
user is trained on all rows but those of the last tenth of the time.
"""

import argparse
import hashlib
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import mtrec as mt
from mtrec.data.cache import read_columns
from mtrec.data.room import Room, parts
from mtrec.distributed.tables import tables_of

MIB = 1 << 20


def anonymous() -> int:
    """Anonymous memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon:"))


class Phases:
    """Prints the peak of anonymous memory, CPU and seconds of one phase after the other."""

    def __init__(self) -> None:
        self._most = 0
        self._last = time.process_time(), time.perf_counter()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, anonymous())
            time.sleep(0.005)

    def over(self, name: str) -> tuple[float, float]:
        """Ends a phase; CPU s and s that it took."""
        now = time.process_time(), time.perf_counter()
        cpu, wall = (new - old for new, old in zip(now, self._last, strict=True))
        most, self._most = max(self._most, anonymous()), 0
        print(f"{name:8} peak {most:6,} MiB, then {anonymous():6,}  {cpu:7.1f} CPU s {wall:7.1f} s")
        self._last = time.process_time(), time.perf_counter()
        return cpu, wall


def fitted(data: mt.Dataset) -> np.ndarray:
    """Numbers of the rows of the first nine tenths of the time, ascending."""
    times = np.asarray(data.interactions["timestamp"])
    spans = [(times[part].min(), times[part].max()) for part in parts(len(times))]
    first, last = min(low for low, _ in spans), max(high for _, high in spans)
    rows = Room(np.int64, like=times)
    for part in parts(len(times)):
        rows.append(part.start + np.flatnonzero(times[part] < first + 0.9 * (last - first)))
    return rows.array()


def main() -> None:
    """Trains, and prints what each phase took and a digest of the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("columns", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--in-memory", action="store_true")
    options = parser.parse_args()
    phases = Phases()
    print(f"{anonymous():,} MiB before anything is read")
    data = read_columns(options.columns)
    if data is None:
        parser.error(f"{options.columns} must hold prepared columns")
    if options.in_memory:
        columns = {name: np.array(column) for name, column in data.interactions.items()}
        data = replace(data, interactions=columns)
    phases.over("data")
    fit = fitted(data)
    print(f"{len(fit):,} of {len(data.interactions['user']):,} rows to fit")
    phases.over("split")
    negatives = mt.InBatch(
        uniform=0, past_batches=0, given=False, mined=0, local=False, log_q_rate=None
    )
    as_it_is = mt.SharedBottom(layers=[], activation="relu", initializer="identity")
    head = mt.Retrieval(
        dim=None, normalize=True, temperature=0.1, negatives=negatives,
        loss=mt.Softmax(log_q_correction="all", hardest=None, same_tower=False),
    )  # fmt: skip
    history = mt.History(candidate="item_id", pooling=mt.Sqrtn(), dropout=0.0)
    model = mt.Recommender(
        query=mt.Tower(
            features={"shared": {"history": history}}, dim=32, sharing=as_it_is, stddev=0.05
        ),
        candidate=mt.Tower(
            features={"shared": {"item_id": mt.Categorical(column="item_id")}},
            dim=32,
            sharing=as_it_is,
            stddev=0.05,
        ),
        heads={"retrieval": head},
    ).adapt(data, fit, seed=1)
    optimizers = mt.Optimizers(
        tables=mt.LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        dense=keras.optimizers.Adam(0.01),
    )
    optimizers.tables.build(tables_of(model))
    phases.over("model")
    weights = [*model.weights, *optimizers.tables.variables]
    held = sum(4 * int(np.prod(w.shape)) for w in weights)
    print(f"{held // MIB:,} MiB of them tables and slots")
    how = mt.Batching(batch_of="users", global_batch=1024, history_share=0.7, chronological=False)
    batches = mt.Batches(data, fit, how, negatives=negatives, num_replicas=1, seed=1)
    phases.over("batches")
    balancer = mt.Fixed()
    balancer.adapt({"retrieval": 1.0}, steps_per_epoch=batches.steps_per_epoch, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        mt.train(
            model, batches, balancer=balancer, strategy=tf.distribute.get_strategy(),
            optimizers=optimizers,
            schedule=mt.Schedule(
                epochs=1, max_steps=options.steps, encode_at_once=None, steps_per_call=4,
                telemetry_every=None, checkpoint_every=None, patience=None, select_by=None,
            ),
            validate=dict, checkpoints=Path(folder), on_epoch=print,
        )  # fmt: skip
    phases.over("training")
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(np.ascontiguousarray(weight).data)
    print(f"weights {digest.hexdigest()[:12]}")


if __name__ == "__main__":
    main()
