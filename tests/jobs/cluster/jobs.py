"""Main jobs: as subprocesses that are followed line by line and killed, or run here; and traces."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

JOB = (
    "data=synthetic",
    "data.num_users=150",
    "data.num_items=80",
    "data.num_interactions=3000",
    "train.global_batch=30",
    "train.steps_per_call=2",
    "train.checkpoint_every=3",
)


class Job:
    """A running main job in the run directory `<cwd>/run`, unless overrides say otherwise."""

    def __init__(self, cwd, *overrides, environment=None):
        self.text = ""
        # Process of each worker; the driver is the process itself.
        self.pids = {}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "mtrec.launch", *JOB, "hydra.run.dir=run", *overrides],
            cwd=cwd,
            env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
            | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pids["driver"] = self.process.pid

    def follow(self, until=None):
        """Reads lines until one matches; without a pattern, to the end. Returns whether it came."""
        for line in self.process.stdout:
            self.text += line
            place = re.match(r"worker (\d+) on .*, process (\d+)", line)
            if place:
                self.pids[f"worker {place[1]}"] = int(place[2])
            if until and re.match(until, line):
                return True
        self.process.stdout.close()
        self.process.wait()
        return False

    def kill(self, who, number=signal.SIGKILL):
        os.kill(self.pids[who], number)

    def end(self):
        """Reads to the end; returns the exit status."""
        self.follow()
        return self.process.returncode


def ended(cwd, *overrides):
    """Exit status and text of a main job that this process runs, where nothing is to kill it."""
    from in_process import called

    done = called("launch", *JOB, "hydra.run.dir=run", *overrides, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def weights(run_dir):
    """SHA-256 of all variables, optimizers' included, in each checkpoint that is left."""
    return {
        path.parent.name: json.loads(path.read_text())["files"]
        for path in sorted((run_dir / "checkpoints").glob("step-*/state.json"))
    }


def mlflow_runs(cwd):
    """Statuses of the MLflow runs in the store of a directory."""
    with closing(sqlite3.connect(cwd / "mlflow.db")) as store:
        return [status for (status,) in store.execute("select status from runs")]


def logged(cwd):
    """How often each metric was logged at each step, system metrics aside."""
    with closing(sqlite3.connect(cwd / "mlflow.db")) as store:
        rows = store.execute("select key, step from metrics where key not like 'system/%'")
        return Counter(rows)
