"""SIGINT and SIGTERM at many moments of every stage: `python tests/jobs/signals.py [moments]`.

Each job is forked off a process that has imported what a job imports, and finds a store of MLflow
that is made; the stages that import, or make the store, are tried without. What was stopped must
say so in a sentence, with the exit status of its signal and within five seconds, and must leave
MLflow's run KILLED, or else have finished; the last of each stage is then gone on with, to its end.
"""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path

from mtrec import launch
from mtrec.jobs import terminal
from mtrec.libraries import import_tensorflow

JOB = (
    "data=synthetic",
    "data.num_users=150",
    "data.num_items=80",
    "data.num_interactions=3000",
    "train.epochs=3",
    # Less to trace.
    "train.steps_per_call=1",
    "train.telemetry_every=null",
)

# How often a moment is tried, each time at half the time.
_TRIES = 6
# Of which a process is the first to import what they import.
_IMPORTING = ("TensorFlow's import", "check", "import")
_STORE = "MLflow"


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
    return os.waitstatus_to_exitcode(status), text, took, _stages(text)


def _stages(text):
    found = re.findall(r"^([^\n:]+?)(?:, \d+ times)?: ([\d.]+) s,", text, re.M)
    return {name: float(seconds) for name, seconds in found if name != "total"}


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
            if after:
                timers[0].start()
            else:
                send()

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
        traceback.print_exception(error)
        status = 99
    Path("modules").write_text("\n".join(sys.modules))
    sys.stdout.flush()
    os._exit(status)


def _begun(directory, *overrides, after, number):
    """The same of a process of its own, which gets the signal so long after it was made."""
    call = [sys.executable, "-m", "mtrec.launch", *JOB, "hydra.run.dir=run", *overrides]
    with open(directory / "text", "w") as file:
        job = subprocess.Popen(call, cwd=directory, stdout=file, stderr=file)
    time.sleep(after)
    sent = time.time()
    job.send_signal(number)
    status = job.wait()
    return status, (directory / "text").read_text(), time.time() - sent


def _import_all(directory):
    """Imports what the job there did, as far as that can be had by name."""
    import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (directory / "modules").read_text().splitlines():
            with suppress(Exception):
                import_module(name)


def _new_store(directory):
    """A store of MLflow with its tables, and no run."""
    pid = os.fork()
    if pid == 0:
        from mtrec.tracking.mlflow_client import connect

        connect(f"sqlite:///{directory / 'mlflow.db'}")
        os._exit(0)
    os.waitpid(pid, 0)
    return directory / "mlflow.db"


def statuses(directory):
    """Statuses of the MLflow runs there."""
    store = directory / "mlflow.db"
    if not store.exists():
        return []
    with closing(sqlite3.connect(store)) as opened:
        with suppress(sqlite3.OperationalError):  # a store that was not yet made
            return [status for (status,) in opened.execute("select status from runs")]
        return []


class Moments:
    """The moments of a stage, one after the other; what was found is kept in `table`."""

    def __init__(self, place, overrides, moments):
        self.place, self.overrides, self.moments = place, overrides, moments
        self.table, self.missed, self.wrong = [], 0, 0

    def of(self, stage, seconds, *, store=None):
        """Tries all moments of a stage that takes so long."""
        found = [self.one(stage, seconds, m, store=store) for m in range(self.moments)]
        good, longest = sum(good for good, _ in found), max(took for _, took in found)
        self.wrong += self.moments - good
        self.table.append(f"| {stage} | {seconds:.1f} | {good} of {self.moments} | {longest:.2f} |")

    def one(self, stage, seconds, moment, *, store=None):
        """Tries one moment; returns whether all was well, and the seconds from signal to end."""
        number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
        directory = self.place / f"{stage}-{moment}".replace(" ", "_")
        after = seconds * (moment + (stage == "start") / 2) / self.moments
        for left in reversed(range(_TRIES)):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            if store:
                shutil.copy(store, directory / "mlflow.db")
            status, text, took = self._once(directory, stage, after, number)
            if took is not None or status != 0:
                break
            # The stage was shorter this time.
            self.missed, after = self.missed + 1, after / 2 if left > 1 else 0
        found = self._verdict(directory, stage, status, text, took, number)
        last, resumed = (text.strip().splitlines() or [""])[-1], ""
        if found and moment == self.moments - 1:
            again, text, *_ = forked(directory, *self.overrides)
            found = again == 0 and statuses(directory) == ["FINISHED"]
            resumed = f", again: {again} {statuses(directory)}"
        if not found:
            print(text[-3000:])
        verdict = "ok" if found else "WRONG"
        print(f"{verdict} {stage} {after:.2f} s: {status}, {took} s, {last}{resumed}", flush=True)
        shutil.rmtree(directory)
        return found, took or 0.0

    def _once(self, directory, stage, after, number):
        if stage == "start":
            return _begun(directory, *self.overrides, after=after, number=number)
        return forked(directory, *self.overrides, stage=stage, after=after, number=number)[:3]

    def _verdict(self, directory, stage, status, text, took, number):
        last, killed = (text.strip().splitlines() or [""])[-1], statuses(directory)
        stopped = (
            status == 128 + number
            and last.startswith(f"error: {signal.Signals(number).name}: ")
            and set(killed) <= {"KILLED"}
        )
        # Nothing is left to stop there.
        finished = stage == "MLflow's end" and (status, killed) == (0, ["FINISHED"])
        in_time = took is not None and took <= 5
        return (stopped or finished) and in_time and "Traceback" not in text


def main(moments, overrides):
    """Goes through all stages; returns how many moments failed."""
    with tempfile.TemporaryDirectory() as name:
        tried = Moments(Path(name), overrides, moments)
        whole = Path(name) / "whole"
        whole.mkdir()
        status, text, _, cold = forked(whole, *overrides)
        assert status == 0, text
        start = time.time()
        composed = [sys.executable, "-m", "mtrec.launch", "--cfg", "job"]
        subprocess.run(composed, check=True, stdout=subprocess.DEVNULL)
        tried.of("start", time.time() - start)
        for stage in _IMPORTING:
            tried.of(stage, cold[stage])
        # As a job has it before it imports MLflow.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        _import_all(whole)
        shutil.rmtree(whole)
        whole.mkdir()
        status, text, _, warm = forked(whole, *overrides)
        assert status == 0, text
        print(*(f"{n} {s:.1f} s" for n, s in warm.items()), sep="; ")
        store = _new_store(Path(name))
        for stage, seconds in warm.items():
            if stage not in ("start", *_IMPORTING):
                tried.of(stage, seconds, store=None if stage == _STORE else store)
        print("| stage | seconds | good | longest s to the end |", "|---|---|---|---|", sep="\n")
        print(*tried.table, sep="\n")
        print(f"{tried.wrong} wrong; {tried.missed} moments were missed and tried again earlier")
        return tried.wrong


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    sys.exit(main(count, sys.argv[2:]) > 0)
