"""A rating head for `task.heads.rating._target_` that stalls or fails on worker 1.

`TRIP` in the environment says where and how, such as `epoch stall`; `TRIP_ONCE` names a file that
is written then, so that the worker which replaces this one goes on.
"""

import json
import os
import time
from pathlib import Path

from mtrec.data.batches import Batches
from mtrec.errors import UserError
from mtrec.heads.rating import Rating

TASK = "task.heads.rating._target_=tripping.Tripping"
FAILURE = "worker 1 cannot go on here; take another one."


def trip(place):
    """Stalls or fails, where this is the worker and the place to."""
    where, how = os.environ["TRIP"].split()
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    if where != place or task.get("index") != 1:
        return
    tripped = Path(os.environ["TRIPPED"])
    if os.environ["TRIP_ONCE"] == "True" and tripped.exists():
        return
    tripped.write_text(str(time.time()))
    if how == "fail":
        raise UserError(FAILURE)
    stall()


def stall():
    """Sleeps for longer than any test waits."""
    time.sleep(3600)


class Tripping(Rating):
    """`Rating`, which trips when it is made, in the third step of epoch 2, or when it measures."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        trip("build")
        step = Batches.step

        def tripping(batches, epoch, number, **others):
            if (epoch, number) == (2, 3):
                trip("epoch")
            return step(batches, epoch, number, **others)

        if os.environ["TRIP"].startswith("epoch"):
            Batches.step = tripping

    def measure(self, *args, **kwargs):
        """Trips, or measures."""
        trip("validation")
        return super().measure(*args, **kwargs)
