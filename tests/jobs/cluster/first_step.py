"""CPU seconds from command to first step: `python tests/jobs/cluster/first_step.py [overrides]`.

All processes count that descend from the command, those that Ray starts on this machine included:
they are told by a variable of their environment, or by a parent that has it where they overwrote
their own. Each is listed. The first step has been taken when its checkpoint is there.
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
    """The living processes that carry the mark, and their descendants."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return found.values()


def cpu_seconds(mark):
    """What each of them, with the children it waited for, has used, and its command."""
    used = []
    for process in processes(mark):
        with suppress(psutil.Error):
            used.append((sum(process.cpu_times()[:4]), " ".join(process.cmdline())))
    return sorted(used, reverse=True)


def measure(overrides):
    """CPU seconds used by each process when the first checkpoint of a main job appears."""
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
        used = cpu_seconds(mark)
        job.wait()
        return used


if __name__ == "__main__":
    used = measure([*DEFAULTS, *sys.argv[1:]])
    for seconds, command in used:
        print(f"{seconds:6.1f} {command[:90]}")
    print(f"{sum(seconds for seconds, _ in used):6.1f} CPU s")
