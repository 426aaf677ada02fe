"""CPU seconds from command to first step: `python tests/distributed/first_step.py [overrides]`.

All processes count that descend from the command, those that Ray starts on this machine included:
they are told by a variable of their environment. The first step has been taken when its checkpoint
is there.
"""

import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

DEFAULTS = ("cluster=ray_local", "cluster.num_workers=2")
FIRST_STEP = ("train.steps_per_call=1", "train.checkpoint_every=1", "train.max_steps=2")
MARK = "MTREC_FIRST_STEP"


def processes(mark):
    """The living processes that carry the mark."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                yield process


def cpu_seconds(mark):
    """What they, and the children they waited for, have used."""
    total = 0.0
    for process in processes(mark):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def measure(overrides):
    """CPU seconds used when the first checkpoint of a main job appears."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "mtrec.launch", f"hydra.run.dir={run}", *FIRST_STEP]
        store = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        job = subprocess.Popen(
            [*command, store, *overrides],
            env=os.environ | {MARK: mark},
            stdout=subprocess.DEVNULL,
        )
        while not (run / "checkpoints" / "step-00000001").exists():
            if job.poll() is not None:
                sys.exit(f"the job ended with status {job.returncode} before its first step")
            time.sleep(0.05)
        seconds = cpu_seconds(mark)
        job.wait()
        return seconds


if __name__ == "__main__":
    print(f"{measure([*DEFAULTS, *sys.argv[1:]]):.1f} CPU s")
