"""CPU seconds that a worker spends on input, with 1, 2 and 4 workers that share a global batch.

    python experiments/scale/input_cpu.py

Batches of 4,096 users, of 1 M rows of 100,000 users and 50,000 items, in-batch negatives.
"""

import time

import numpy as np

from mtrec.data.batches import Batches
from mtrec.data.batching import Batching
from mtrec.data.dataset import Dataset
from mtrec.data.negatives import InBatch

ROWS, USERS, ITEMS, STEPS = 1_000_000, 100_000, 50_000, 15


def made_up() -> Dataset:
    """Rows sorted by user; items by a power law."""
    rng = np.random.default_rng(0)
    columns = {
        "user": np.sort(rng.integers(1, USERS + 1, ROWS)).astype(np.int32),
        "item": (1 + ITEMS * rng.random(ROWS) ** 3).astype(np.int32),
        "timestamp": np.arange(ROWS),
        "rating": rng.random(ROWS).astype(np.float32),
        "clicked": rng.random(ROWS).astype(np.float32),
    }
    users, items = (np.array(["", *map(str, range(n))]) for n in (USERS, ITEMS))
    return Dataset(
        name="made_up",
        users={"user": users},
        items={"item": items},
        interactions=columns,
        user_key="user",
        item_key="item",
        title="item",
        rating_scale=(0.0, 1.0),
        source="",
        digest="",
    )


def main() -> None:
    """Prints CPU ms a step for each number of workers."""
    data = made_up()
    for workers in (1, 2, 4):
        batches = Batches(
            data,
            np.arange(ROWS),
            Batching(batch_of="users", global_batch=4096, history_share=0.7, chronological=False),
            negatives=InBatch(
                uniform=0, past_batches=0, given=False, mined=0, local=False, log_q_rate=None
            ),
            num_replicas=workers,
            seed=1,
        )
        batches.step(1, 0, replicas=[0])
        began = time.process_time()
        for step in range(1, STEPS + 1):
            batches.step(1, step, replicas=[0])
        print(f"{workers} workers: {1000 * (time.process_time() - began) / STEPS:.1f} ms")


if __name__ == "__main__":
    main()
