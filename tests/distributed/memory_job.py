"""Bytes of tables and slots on each device: `python memory_job.py <devices> <jobs>`.

`<jobs>` is a JSON list of overrides. It allocates what training allocates, takes no step, and
prints a JSON list for each job, a number a device.
"""

import json
import sys

from small_config import config_of

from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import make_strategy
from mtrec.distributed.tables import tables_of
from mtrec.jobs import build
from mtrec.jobs.load import load

JOB = (
    "data=synthetic",
    "data.num_users=2000",
    "data.num_items=1000",
    "data.num_interactions=10000",
)


def bytes_on_each_device(strategy, config):
    """Bytes that each device of this process holds, measured on the buffers."""
    dataset, parts = load(config.data)
    with strategy.scope():
        tables = tables_of(build.model(config, dataset, parts.fit))
        optimizer = build.optimizers(config, 1).tables
        optimizer.build(tables)
    held = [0] * strategy.num_replicas_in_sync
    for variable in [*tables, *optimizer.variables]:
        copies = (
            variable.shards.values()
            if isinstance(variable, ShardedVariable)
            else strategy.experimental_local_results(variable.value)
        )
        for place, mine in enumerate(copies):
            held[place] += mine.numpy().nbytes
    return held


if __name__ == "__main__":
    devices, jobs = int(sys.argv[1]), json.loads(sys.argv[2])
    strategy = make_strategy(devices, use_gpu=False)
    found = [bytes_on_each_device(strategy, config_of(*JOB, *overrides)) for overrides in jobs]
    print(json.dumps(found))
