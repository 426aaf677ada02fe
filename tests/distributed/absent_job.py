"""Steps encoded in parts on some replicas, of which some have no row of a task; prints the losses.

python absent_job.py 2
"""

import json
import sys

from small_config import SMALL, config_of

from mtrec.distributed.strategy import make_strategy
from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.training.packed import pack
from mtrec.training.step import Step

STEPS = 4


def main(replicas: int) -> None:
    """Takes some steps of four users, of whom few have rated anything."""
    strategy = make_strategy(replicas, use_gpu=False)
    few = "data.split.rating_share=0.05", "train.global_batch=4", "balance=cagrad"
    config = config_of(*SMALL, *few)
    dataset, parts = load(config.data)
    with strategy.scope():
        model = build.model(config, dataset, parts.fit)
        batches = build.batches(config, dataset, parts.fit, model.heads, replicas)
        balancer = build.balancer(config, batches.steps_per_epoch)
        optimizers = build.optimizers(config, batches.steps_per_epoch)
    step = Step(model, balancer, optimizers, strategy, encode_at_once=2)
    taken = []
    for k in range(STEPS):
        slices = batches.step(1, k)
        taken.append(step({replica: pack([part]) for replica, part in enumerate(slices)}))
    found = {
        "losses": [t.losses[0].tolist() for t in taken],
        "rows": [t.rows[0].tolist() for t in taken],
    }
    print(json.dumps(found))


main(int(sys.argv[1]))
