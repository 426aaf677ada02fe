"""Trains 20 steps of the joint task: `python layout_job.py <directory> <devices> [seed=...]`.

Workers are told of each other by `TF_CONFIG`. A process of its own for each: strategies of
different size in one process abort each other's collectives.
"""

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


if __name__ == "__main__":
    directory, devices, *overrides = sys.argv[1:]
    config = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    run_dir.save_config(config, Path(directory))
    worker.train(config, *load(config.data), Path(directory), Silent())
