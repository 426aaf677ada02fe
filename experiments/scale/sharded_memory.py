"""Peak memory of each of several workers that share one table, and of who reads it afterwards.

`python experiments/scale/sharded_memory.py --rows 2_000_000 --dim 64 --workers 4`

Each worker makes its rows, trains with lazy Adam on all replicas' ids, saves, validates from
files and reads the checkpoint back. Then one process reads every row, as an index does, and writes
a SavedModel of the table. Anonymous memory, beyond what the process held before the table was made,
is set against the whole: the table and both moments.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class Peak:
    """The most anonymous memory that this process held since the last look, in bytes."""

    def __init__(self):
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.005)

    def taken(self):
        found, self.most = max(self.most, anonymous()), 0
        return found


def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell RssAnon")


def work(rows, dim, directory):
    """What one worker does; prints the peak of each phase."""
    import tensorflow as tf

    from mtrec.distributed.sharded_tables import make_table, readable, sharded_above
    from mtrec.distributed.strategy import local_replicas, make_strategy
    from mtrec.distributed.tables import NormalRows, tables_of
    from mtrec.training.checkpoint import Checkpoints
    from mtrec.training.optimizers import LazyAdam

    strategy = make_strategy(1, use_gpu=False)
    own = local_replicas(strategy)[0]
    optimizer = LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8)

    @tf.function
    def step(ids):
        def replica(ids):
            with tf.GradientTape() as tape:
                tape.watch([v.value for v in tables])
                loss = tf.reduce_sum(tf.square(table(ids) - 1.0))
            (gradient,) = tape.gradient(loss, [v.value for v in tables])
            optimizer.apply_gradients([(gradient, tables[0])])

        strategy.run(replica, args=(ids,))

    def batch(number):
        ids = np.random.default_rng([number, own]).integers(1, rows, 4096, np.int32)
        return strategy.experimental_distribute_values_from_function(lambda _: tf.constant(ids))

    # TensorFlow's own threads and buffers, before the table is there.
    with strategy.scope():
        strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([])))
    peak, found = Peak(), {}
    before = anonymous()

    @contextmanager
    def phase(name):
        peak.taken()
        yield
        found[name] = peak.taken() - before

    known = np.arange(rows) > 0
    with phase("make"), strategy.scope(), sharded_above(0):
        table = make_table(NormalRows(known, dim=dim, stddev=0.1, seed=1), name="user")
        tables = tables_of(table)
        optimizer.build(tables)
    with phase("train"):
        for number in range(50):
            step(batch(number))
    checkpoints = Checkpoints(
        directory, {"model": table.weights, "tables": optimizer.variables}, strategy
    )
    with phase("save"):
        checkpoints.save(50, {})
    with phase("validate"), readable(tables, directory / ".tables"):
        for number in range(20):
            table(tf.constant(np.random.default_rng(number).integers(1, rows, 8192, np.int32)))
    with phase("read back"):
        checkpoints.restore(50)
    print(json.dumps(found))


def serve(rows, dim, directory):
    """Reads every row out of the checkpoint, some at a time; then writes a SavedModel."""
    import tensorflow as tf

    from mtrec.distributed.sharded_tables import left_on_disk, make_table, mapped, sharded_above
    from mtrec.distributed.tables import NormalRows
    from mtrec.training.checkpoint import Checkpoints

    peak, before = Peak(), anonymous()
    with left_on_disk(), sharded_above(0):
        known = np.arange(rows) > 0
        table = make_table(NormalRows(known, dim=dim, stddev=0.1, seed=1), name="user")
    saved = Checkpoints(directory, {"model": table.weights})
    saved.select(50)
    from mtrec.training.checkpoint import read_selected

    read_selected(directory, model=table.weights)
    total = 0.0
    for start in range(0, rows, 65_536):
        ids = np.arange(start, min(start + 65_536, rows), dtype=np.int32)
        total += float(tf.reduce_sum(table(tf.constant(ids))))
    found = {"index": peak.taken() - before}
    with mapped(table.weights, directory):
        root = tf.Module()
        root.table = table.embeddings.value
        root.look_up = tf.function(table.call, [tf.TensorSpec([None], tf.int32)], autograph=False)
        tf.saved_model.save(root, str(directory / "model"))
    print(json.dumps(found | {"export": peak.taken() - before}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--as", dest="role", default="")
    parser.add_argument("--directory", type=Path)
    asked = parser.parse_args()
    if asked.role:
        {"worker": work, "serve": serve}[asked.role](asked.rows, asked.dim, asked.directory)
        return
    whole = 3 * 4 * asked.rows * asked.dim
    print(f"whole: {whole / 2**20:,.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        given = ["--rows", asked.rows, "--dim", asked.dim, "--directory", folder]
        command = [sys.executable, __file__, *map(str, given), "--as"]
        addresses = [f"localhost:{29_000 + os.getpid() % 1000 + w}" for w in range(asked.workers)]
        workers = [
            subprocess.Popen(
                [*command, "worker"],
                stdout=subprocess.PIPE,
                env=os.environ
                | {
                    "TF_CONFIG": json.dumps(
                        {
                            "cluster": {"worker": addresses},
                            "task": {"type": "worker", "index": number},
                        }
                    )
                },
            )
            for number in range(asked.workers)
        ]
        found = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
        for name in found[0]:
            most = max(each[name] for each in found)
            print(f"{name}: {most / 2**20:,.0f} MiB, {most / whole:.2f} of the whole")
        printed = subprocess.run([*command, "serve"], stdout=subprocess.PIPE, check=True).stdout
        for name, most in json.loads(printed.splitlines()[-1]).items():
            print(f"{name}: {most / 2**20:,.0f} MiB, {most / whole:.2f} of the whole")


if __name__ == "__main__":
    main()
