"""A worker stalls or fails alone in each of three places: what the job does, and how soon.

`python tests/jobs/cluster/stalls.py` prints a line for each of the six cases.
"""

import os
import re
import tempfile
import time
from itertools import product
from pathlib import Path

from jobs import Job
from tripping import TASK

HERE = Path(__file__).parent
PLACES = ("build", "epoch", "validation")
WAYS = ("stall", "fail")
HEALTH_TIMEOUT_S = 10
TWO_WORKERS = (
    "cluster=ray_local",
    "cluster.num_workers=2",
    f"cluster.health_timeout_s={HEALTH_TIMEOUT_S}",
    "train.epochs=3",
    TASK,
)


def tripping_job(cwd, place, how, *overrides, once=False):
    """A job of two workers, of which worker 1 trips; every time, or only once."""
    trip = {
        "TRIP": f"{place} {how}",
        "TRIPPED": str(cwd / "tripped"),
        "TRIP_ONCE": str(once),
        "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
    }
    return Job(cwd, *TWO_WORKERS, *overrides, environment=trip)


def tripped_at(cwd):
    """When worker 1 did, in seconds of `time.time`."""
    return float((cwd / "tripped").read_text())


def error(job):
    """The sentence that a job ended with."""
    return re.search(r"^error: .*(\n\S.*)*", job.text, re.MULTILINE)[0]


def main():
    """Prints the six times until the job has ended."""
    for place, how in product(PLACES, WAYS):
        with tempfile.TemporaryDirectory() as directory:
            job = tripping_job(Path(directory), place, how, "cluster.max_failures=0")
            status = job.end()
            seconds = time.time() - tripped_at(Path(directory))
            print(f"{place} {how}: status {status} after {seconds:.1f} s; {error(job)}", flush=True)


if __name__ == "__main__":
    main()
