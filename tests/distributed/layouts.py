"""Runs `layout_job.py` on a layout of workers and devices, and reads what it left.

`python tests/distributed/layouts.py [overrides]` prints the largest difference of each layout.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import layout_job
import numpy as np
import tensorflow as tf

from mtrec.distributed.row_files import RowFiles

HERE = Path(__file__).parent
LAYOUTS = ((1, 2), (1, 4), (2, 1), (2, 2))
# TensorFlow first, as jobs import it: without the libraries that Keras would import along.
_START = (
    "import runpy, sys; from mtrec.libraries import import_tensorflow; import_tensorflow(); "
    "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def command(script, *arguments):
    """What runs a script beside this file."""
    return [sys.executable, "-c", _START, str(HERE / script), *map(str, arguments)]


def train(directory, *, workers, devices, overrides=()):
    """Trains on `workers` processes of `devices` each; returns variables and metrics by name."""
    (found,) = train_all([(directory, overrides)], workers=workers, devices=devices)
    return found


def train_all(jobs, *, workers, devices):
    """`train` for each directory and its overrides, one after the other in the same processes."""
    jobs = [(str(directory), list(overrides)) for directory, overrides in jobs]
    if workers == devices == 1:
        # One device is no strategy that another in this process could disturb.
        for directory, overrides in jobs:
            layout_job.train(directory, devices, overrides)
    else:
        run("layout_job.py", json.dumps(jobs), devices, workers=workers)
    return [left_in(Path(directory)) for directory, _ in jobs]


def run(script, *arguments, workers):
    """Runs a script in `workers` processes that know of each other."""
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    with ExitStack() as stack:
        printed = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in addresses]
        processes = [
            subprocess.Popen(
                command(script, *arguments),
                env=environment(addresses, rank),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for rank, file in enumerate(printed)
        ]
        ends = time.monotonic() + 900
        # Where one ends with an error, the others would wait for it in vain.
        while None in (codes := [p.poll() for p in processes]) and time.monotonic() < ends:
            if any(codes):
                break
            time.sleep(0.1)
        for process in processes:
            process.kill()
            process.wait()
        for file in printed:
            file.seek(0)
        assert codes == [0] * workers, [file.read() for file in printed]


def bytes_on_each_device(devices, *jobs):
    """What `memory_job.py` prints for the overrides of each job."""
    job = command("memory_job.py", devices, json.dumps(jobs))
    printed = subprocess.run(job, env=environment([], 0), capture_output=True, check=True)
    return json.loads(printed.stdout)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("localhost", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment(addresses, rank):
    task = {"type": "worker", "index": rank}
    config = {"cluster": {"worker": addresses}, "task": task} if len(addresses) > 1 else {}
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)]),
        "TF_CONFIG": json.dumps(config),
        "CUDA_VISIBLE_DEVICES": "",
    }


def left_in(directory):
    """Every variable of the latest checkpoint, and the metrics of every epoch."""
    latest = sorted((directory / "checkpoints").glob("step-*"))[-1]
    found = saved_in(latest)
    state = json.loads((latest / "state.json").read_text())["state"]
    for metrics in state["history"]:
        del metrics["train/seconds"]
        for name, value in metrics.items():
            found[f"epoch {metrics['epoch']:g}: {name}"] = np.asarray(value)
    return found


def saved_in(path):
    """Every variable of a checkpoint, by its name there."""
    reader = tf.train.load_checkpoint(str(path / "weights"))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    found = {name: reader.get_tensor(name) for name in names}
    for first in path.glob("weights.*.00000-of-*.npy"):
        name = first.name.rsplit(".", 2)[0]
        files = RowFiles(path, name)
        found[name] = files[np.arange(files.shape[0])]
    return found


def largest_difference(one, other):
    assert one.keys() == other.keys()
    differences = {
        name: float(np.max(np.abs(value - other[name]), initial=0)) for name, value in one.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return differences[worst], worst


def print_differences(overrides):
    """Prints how far each layout ends from one process with one device."""
    with tempfile.TemporaryDirectory() as folder:
        one = train(Path(folder) / "1x1", workers=1, devices=1, overrides=overrides)
        for workers, devices in LAYOUTS:
            layout = f"{workers}x{devices}"
            directory = Path(folder) / layout
            found = train(directory, workers=workers, devices=devices, overrides=overrides)
            difference, name = largest_difference(one, found)
            print(f"{layout} {difference:.1e} {name}", flush=True)


if __name__ == "__main__":
    print_differences(sys.argv[1:])
