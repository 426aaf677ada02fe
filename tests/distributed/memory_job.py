"""Bytes of tables and slots on each device: `python memory_job.py <devices> [overrides]`.

It allocates what training allocates, takes no step, and prints a JSON list, a number a device.
"""

import json
import sys

from small_config import config_of

from mtrec import build
from mtrec.data.load import load
from mtrec.strategy import make_strategy
from mtrec.tables import tables_of

JOB = (
    "data=synthetic",
    "data.num_users=2000",
    "data.num_items=1000",
    "data.num_interactions=10000",
)


def bytes_on_each_device(config):
    """Bytes that each device of this process holds, measured on the buffers."""
    strategy = make_strategy(config.cluster.devices_per_worker, use_gpu=False)
    dataset, parts = load(config.data)
    with strategy.scope():
        tables = tables_of(build.model(config, dataset, parts.fit))
        optimizer = build.optimizers(config, 1).tables
        optimizer.build(tables)
    held = [0] * config.cluster.devices_per_worker
    for variable in [*tables, *optimizer.variables]:
        for place, mine in enumerate(strategy.experimental_local_results(variable.value)):
            held[place] += mine.numpy().nbytes
    return held


if __name__ == "__main__":
    devices, *overrides = sys.argv[1:]
    wanted = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    print(json.dumps(bytes_on_each_device(wanted)))
