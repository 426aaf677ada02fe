"""What `python -m mtrec.doctor plan=true` says, beside what jobs take, at three sizes.

    python experiments/scale/plan.py --output plan

Each plan is made from a sample of an eighth of the users, of as many items; the job trains on all
rows. Its peak of anonymous memory is up to the end of its first epoch, and its step time the
difference of two jobs that take different numbers of steps, which leaves out what they begin with.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
SIZES = (1_250_000, 4_000_000, 10_000_000)  # rows: of a tenth as many users, a hundredth of items
FEW, MANY = 20, 100  # steps
JOB = [
    "task=joint",
    "head@task.heads.retrieval=softmax",
    "train.epochs=1",
    "train.telemetry_every=null",  # what is observed is compiled apart
    "train.global_batch=1024",
    "evaluate.users=100",
    "evaluate.final_users=100",
    "data=table",
    "data.labels=[clicked,seconds]",
]


def anonymous(pid):
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1]) * 1024


def log_of(folder, rows, users, items):
    size = ["--rows", rows, "--users", users, "--items", items]
    command = [sys.executable, HERE / "make_log.py", *size, "--output", folder]
    subprocess.run(list(map(str, command)), check=True)
    return f"data.interactions={folder}"


def trained(log, directory, steps):
    """Peak of memory until the epoch's end, and the seconds of its steps."""
    words = [*JOB, log, f"train.max_steps={steps}", f"hydra.run.dir={directory}"]
    words += [f"tracking.uri=sqlite:///{directory}.db"]
    job = subprocess.Popen(
        [sys.executable, "-m", "mtrec.launch", *words], stdout=subprocess.PIPE, text=True
    )
    most, over = 0, threading.Event()

    def watch():
        nonlocal most
        while not over.wait(0.01):
            most = max(most, anonymous(job.pid))

    threading.Thread(target=watch, daemon=True).start()
    for line in job.stdout:
        if line.startswith("epoch"):
            over.set()
    assert job.wait() == 0
    state = json.loads(next(directory.glob("checkpoints/step-*/state.json")).read_text())
    return most, state["state"]["history"][0]["train/seconds"]


def planned(log, rows, items):
    words = ["plan=true", f"rows={rows}", f"items={items}", *JOB, log]
    done = subprocess.run(
        [sys.executable, "-m", "mtrec.doctor", *words], capture_output=True, text=True, check=True
    )
    print(done.stdout)
    worker = re.search(r"each worker: ([\d,.]+) MiB", done.stdout)[1].replace(",", "")
    step = re.search(r"a step: ([\d,.]+) ms", done.stdout)[1].replace(",", "")
    return float(worker), float(step)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    folder = parser.parse_args().output.resolve()
    os.environ["MTREC_CACHE"] = str(folder / "cache")
    for rows in SIZES:
        whole = log_of(folder / f"log-{rows}", rows, rows // 10, rows // 100)
        sample = log_of(folder / f"sample-{rows}", rows // 8, rows // 80, rows // 100)
        _, few = trained(whole, folder / f"few-{rows}", FEW)
        memory, step = planned(sample, rows, rows // 100)
        peak, many = trained(whole, folder / f"many-{rows}", MANY)
        peak, took = peak / 2**20, 1000 * (many - few) / (MANY - FEW)
        print(
            f"{rows:,} rows: memory {memory:,.0f} planned, {peak:,.0f} MiB taken: "
            f"{memory / peak:.2f}; a step {step:.1f}, {took:.1f} ms: {step / took:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
