"""SIGINT and SIGTERM at many moments of every stage: `python tests/jobs/signals.py [moments]`.

Each job is forked off a process that has imported the heavy libraries. What was stopped must say so
in a sentence, with the exit status of its signal and within five seconds, and must leave MLflow's
run KILLED, or else have finished; the last of each stage is then gone on with, to its end.
"""

import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from mtrec import launch
from mtrec.jobs import terminal
from mtrec.libraries import import_tensorflow

JOB = (
    "data=synthetic",
    "data.num_users=400",
    "data.num_items=300",
    "data.num_interactions=20000",
    "train.epochs=4",
)

# How often a moment is tried, each time at half the time.
_TRIES = 6


def forked(directory, *overrides, stage=None, after=0.0, number=0):
    """Runs a job; returns status, text, seconds from signal to end, and those of each stage.

    A signal is sent so long after its stage began, unless the stage is over by then.
    """
    (directory / "text").write_text("")
    pid = os.fork()
    if pid == 0:
        _job(directory, overrides, stage, after, number)
    _, status = os.waitpid(pid, 0)
    ended = time.time()
    sent = directory / "sent"
    took = ended - float(sent.read_text()) if sent.exists() else None
    sent.unlink(missing_ok=True)
    text = (directory / "text").read_text()
    stages = {
        name: float(seconds) for name, seconds in re.findall(r"^([^\n:]+): ([\d.]+) s,", text, re.M)
    }
    return os.waitstatus_to_exitcode(status), text, took, stages


def _job(directory, overrides, stage, after, number):
    os.chdir(directory)
    file = os.open(directory / "text", os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    begin, end = terminal.Terminal.begin, terminal.Terminal.end
    timers = []

    def send():
        Path("sent").write_text(str(time.time()))
        os.kill(os.getpid(), number)

    def begun(self, its):
        begin(self, its)
        if its.name == stage and not timers:
            timers.append(threading.Timer(after, send))
            timers[0].daemon = True
            timers[0].start()

    def over(self, peak):
        # A moment that the stage has not reached is missed.
        if timers and self._open[-1].stage.name == stage:
            timers[0].cancel()
        end(self, peak)

    terminal.Terminal.begin, terminal.Terminal.end = begun, over
    sys.argv = ["mtrec.launch", *JOB, "hydra.run.dir=run", *overrides]
    status = 0
    try:
        launch.main()
    except SystemExit as error:
        status = error.code or 0
    except BaseException as error:
        import traceback

        traceback.print_exception(error)
        status = 99
    sys.stdout.flush()
    os._exit(status)


def statuses(directory):
    """Statuses of the MLflow runs there."""
    store = directory / "mlflow.db"
    if not store.exists():
        return []
    with closing(sqlite3.connect(store)) as opened:
        return [status for (status,) in opened.execute("select status from runs")]


def main(moments, overrides):
    """Goes through all stages; returns how many moments failed."""
    import_tensorflow()
    import mlflow  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    wrong = missed = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        status, text, _, stages = forked(whole, *overrides)
        assert status == 0, text
        names = [re.sub(r", \d+ times", "", stage) for stage in stages]
        print(*(f"{n} {s:.1f} s" for n, s in stages.items()), sep="; ")
        for stage, seconds in zip(names, stages.values(), strict=True):
            if stage in ("start", "total"):
                continue
            for moment in range(moments):
                directory = Path(name) / f"{stage}-{moment}".replace(" ", "_")
                number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
                after, took = seconds * moment / moments, None
                for _ in range(_TRIES):
                    shutil.rmtree(directory, ignore_errors=True)
                    directory.mkdir()
                    found = forked(directory, *overrides, stage=stage, after=after, number=number)
                    status, text, took, _ = found
                    if took is not None or status != 0:
                        break
                    # The stage was shorter this time.
                    missed, after = missed + 1, after / 2
                last = text.strip().splitlines()[-1]
                killed = statuses(directory)
                stopped = (
                    status == 128 + number
                    and last.startswith(f"error: {signal.Signals(number).name}: ")
                    and set(killed) <= {"KILLED"}
                )
                # Nothing is left to stop there.
                finished = stage == "MLflow's end" and (status, killed) == (0, ["FINISHED"])
                good = stopped or finished
                good = good and took is not None and took <= 5 and "Traceback" not in text
                resumed = ""
                if good and moment == moments - 1:
                    again, text, _, _ = forked(directory, *overrides)
                    good = again == 0 and statuses(directory) == ["FINISHED"]
                    resumed = f", again: {again} {statuses(directory)}"
                wrong += not good
                verdict = "ok" if good else "WRONG"
                when = f"{verdict} {stage} {after:.1f} s"
                print(f"{when}: {status}, {took} s, {killed}, {last}{resumed}", flush=True)
                if not good:
                    print(text[-3000:])
    print(f"{wrong} wrong; {missed} moments were missed and tried again earlier")
    return wrong


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    sys.exit(main(count, sys.argv[2:]) > 0)
