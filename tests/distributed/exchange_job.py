"""What workers tell each other: `python exchange_job.py <directory> <devices>`.

Each worker writes what it was told to `worker-<number>.npz`.
"""

import sys
from pathlib import Path

import numpy as np

from mtrec.distributed import strategy as exchange
from mtrec.distributed.strategy import from_chief, from_workers, make_strategy, worker_number
from mtrec.errors import UserError


def said_by(worker):
    """Arrays of every kind, of a size that depends on the worker; the second has none."""
    if worker == 1:
        return {}
    rng = np.random.default_rng(worker)
    return {
        "head/floats": rng.normal(size=40_000 + worker).astype(np.float32),
        "head/odd": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
        "head/large": np.array([2**24 + 1, -(2**31)], np.int32),
        "head/table": rng.integers(0, 2**60, size=(3, 7 + worker)),
        "head/none": np.zeros((0, 10), np.int32),
        "head/bytes": rng.integers(0, 255, size=3 + worker).astype(np.uint8),
    }


def error_of(make):
    """What a worker is told when `make` raises on one of them."""
    try:
        make()
    except UserError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    directory, devices = sys.argv[1:]
    strategy = make_strategy(int(devices), use_gpu=False)
    mine = worker_number(strategy)
    exchange.PAIRS_AT_ONCE = 10_001

    def fail_on(worker):
        if mine == worker:
            raise UserError(f"worker {worker} cannot, né")
        return {}

    found = {
        f"{worker}/{name}": values
        for worker, said in enumerate(from_workers(strategy, lambda: said_by(mine)))
        for name, values in said.items()
    }
    found["number"] = np.array(from_chief(strategy, lambda: {"number": mine})["number"])
    found["error of 1"] = np.array(error_of(lambda: from_workers(strategy, lambda: fail_on(1))))
    found["error of 0"] = np.array(error_of(lambda: from_chief(strategy, lambda: fail_on(0))))
    np.savez(Path(directory) / f"worker-{mine}.npz", **found)
