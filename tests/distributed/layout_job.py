"""Trains 20 steps of the joint task: `python layout_job.py <jobs> <devices>`.

`<jobs>` is a JSON list of run directories and overrides, one job after the other. Workers are told
of each other by `TF_CONFIG`. A process of its own for each layout: strategies of different size in
one process abort each other's collectives.
"""

import functools
import json
import sys
from pathlib import Path

from silent import Silent
from small_config import config_of

from mtrec.jobs import worker
from mtrec.jobs.load import load
from mtrec.tracking import run_dir

JOB = (
    "data=synthetic",
    "data.num_users=100",
    "data.num_items=60",
    "data.num_interactions=2000",
    # Every second row has no rating, by chance, so that replicas count differently.
    "data.rating_share=0.5",
    # Seven batches an epoch, the last one short.
    "train.global_batch=16",
    "train.epochs=20",
    "train.max_steps=20",
)


def train(directory, devices, overrides):
    """Trains in this process."""
    config = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    run_dir.save_config(config, Path(directory))
    worker.train(config, *load(config.data), Path(directory), Silent())


if __name__ == "__main__":
    jobs, devices = json.loads(sys.argv[1]), sys.argv[2]
    # Made before any other operation, and so for all.
    worker.make_strategy = functools.cache(worker.make_strategy)
    for directory, overrides in jobs:
        train(directory, devices, overrides)
