"""`python -m mtrec.doctor`: whether a job would find here what it needs, and what it would take."""

import functools
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtrec.config import ClusterConfig
from mtrec.errors import UserError
from mtrec.jobs.cluster import nodes
from mtrec.jobs.command import command
from mtrec.jobs.doctor_config import DiskConfig, DoctorConfig

LIBRARIES = ("tensorflow", "keras", "ray", "mlflow", "scann", "numpy")
# Says a line of JSON for each thing that worked, as the next one may end the process.
_LOAD = """
import json
def tell(**facts): print(json.dumps(facts), flush=True)
import tensorflow as tf
tell(gpus=len(tf.config.list_physical_devices("GPU")))
try:
    import keras
    tell(keras=keras.__version__, backend=keras.config.backend())
except Exception as error:
    tell(keras_error=f"{type(error).__name__}: {error}")
import scann
tell(scann=True)
"""


@dataclass(frozen=True)
class Finding:
    """What a check found; one that fails raises `UserError` instead."""

    level: Literal["ok", "warning", "failed"]
    text: str


@command("doctor")
def main(config: DoctorConfig) -> None:
    """Prints a line for each check, status 1 if any failed; or what the job would take."""
    if config.plan:
        from mtrec.jobs.plan import plan

        print(plan(config))
        return
    checks: dict[str, Callable[[], Finding]] = {
        "versions": versions,
        "scann": scann,
        "keras": keras_three,
        "devices": lambda: devices(config.cluster),
        "port": free_port,
        "outputs": lambda: writable(Path(config.outputs), config.disk),
        "cache": lambda: writable(Path(config.cache), config.disk),
        "mlflow": lambda: store(config.tracking.uri),
    }
    if config.cluster.kind == "ray":
        checks["ray"] = lambda: cluster(config.cluster, Path(config.outputs))
    levels = set()
    for name, check in checks.items():
        try:
            finding = check()
        except UserError as error:
            finding = Finding("failed", str(error))
        levels.add(finding.level)
        print(f"{finding.level:<9}{name:<10}{finding.text}", flush=True)
    sys.exit(1 if "failed" in levels else 0)


def versions() -> Finding:
    """Python and the libraries are those that mtrec requires."""
    from packaging.requirements import Requirement

    metadata = importlib.metadata.metadata("mtrec")
    wanted = [Requirement(text) for text in importlib.metadata.requires("mtrec") or []]
    python = Requirement(f"python{metadata['Requires-Python']}")
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for requirement in [python, *(r for r in wanted if r.name in LIBRARIES and not r.marker)]:
        name = requirement.name
        try:
            found[name] = found.get(name) or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
        if found[name] == "none" or found[name] not in requirement.specifier:
            raise UserError(
                f"{name} must be {requirement.specifier}; got {found[name]}. Install mtrec again."
            )
    return Finding("ok", ", ".join(f"{name} {version}" for name, version in found.items()))


@functools.cache
def loaded() -> dict[str, Any]:
    """What a process finds that loads the libraries, which may end it: `_LOAD` and its `error`."""
    done = subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    facts = {"error": last}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    return facts


def scann() -> Finding:
    """ScaNN's operations load beside this TensorFlow."""
    if "scann" not in loaded():
        raise UserError(
            f"ScaNN must load beside TensorFlow; got {loaded()['error']}. "
            "Install scann==1.4.2 and tensorflow 2.20."
        )
    return Finding("ok", "loads beside TensorFlow")


def keras_three() -> Finding:
    """Keras is version 3 on TensorFlow, in the environment and once loaded."""
    for name, good in (("TF_USE_LEGACY_KERAS", ("", "0")), ("KERAS_BACKEND", ("", "tensorflow"))):
        value = os.environ.get(name, "")
        if value not in good:
            raise UserError(f"{name} must not be set to {value}. Unset it.")
    facts = loaded()
    if "keras" not in facts:
        raise UserError(
            f"Keras must load; got {facts.get('keras_error', facts['error'])}. Install mtrec "
            "again, with `backend` tensorflow in ~/.keras/keras.json."
        )
    if int(facts["keras"].split(".")[0]) < 3:
        raise UserError(f"Keras must be version 3; got {facts['keras']}. Install keras>=3.15.")
    if facts["backend"] != "tensorflow":
        raise UserError(
            f"Keras' backend must be tensorflow; got {facts['backend']}. Set `backend` in "
            "~/.keras/keras.json."
        )
    return Finding("ok", f"{facts['keras']} on TensorFlow")


def devices(cluster: ClusterConfig) -> Finding:
    """The CPUs, and the GPUs with their memory; a GPU that TensorFlow does not see is a warning.

    Raises:
        UserError: If this process is to train on GPUs, and TensorFlow sees too few.
    """
    wanted = (cluster.devices_per_worker or 1) if cluster.use_gpu else 0
    seen, there = loaded().get("gpus", 0), nodes.gpus()
    text = "; ".join([f"{os.cpu_count()} CPUs, {seen} GPUs", *there])
    if cluster.kind == "local" and seen < wanted:
        raise UserError(
            f"cluster.use_gpu=true needs {wanted} GPUs that TensorFlow sees; got {text}. Install "
            "mtrec[gpu], check CUDA_VISIBLE_DEVICES, or set cluster.use_gpu=false."
        )
    # Fewer than there are may be meant.
    if seen < len(there) and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return Finding("warning", f"{text}. TensorFlow does not see all: install mtrec[gpu].")
    return Finding("ok", text)


def free_port() -> Finding:
    """A port of this host can be bound, and reached at the host's own address."""
    try:
        host = socket.gethostbyname(socket.gethostname())
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise UserError(f"A free port must be reachable ({error}). Check /etc/hosts.") from error
    if host.startswith("127."):
        return Finding(
            "warning", f"{socket.gethostname()} is {host} here, where no other machine reaches it"
        )
    return Finding("ok", f"reached {host}:{port}")


def writable(directory: Path, disk: DiskConfig) -> Finding:
    """The directory, or what would hold it, can be written to and has space."""
    there = directory.resolve()
    while not there.exists():
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"{there} must be writable ({error}). Choose another directory.") from error
    free = shutil.disk_usage(there).free / 2**30
    if free < disk.fail_gib:
        raise UserError(
            f"{directory} must have disk.fail_gib={disk.fail_gib:g} GiB free; got {free:.1f}. "
            "Make room, or choose another directory."
        )
    text = f"{directory} is writable, {free:.1f} GiB free"
    if free < disk.warn_gib:
        return Finding("warning", f"{text}: less than disk.warn_gib={disk.warn_gib:g}")
    return Finding("ok", text)


def store(uri: str | None) -> Finding:
    """The MLflow store answers, or could be made."""
    from mtrec.tracking import mlflow_client, store

    uri = store.resolve_uri(uri)
    file = store.sqlite_file(uri)
    if file and not file.exists():
        if not os.access(file.parent, os.W_OK):
            raise UserError(f"{file} must be writable. Create its folder, or set tracking.uri.")
        return Finding("ok", f"{file} will be created")
    try:
        mlflow_client.connect(uri).search_experiments(max_results=1)
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise UserError(
            f"MLflow must answer at {store.shown(uri)} ({reason}). Start it, or set tracking.uri."
        ) from error
    return Finding("ok", f"{store.shown(uri)} answers")


def cluster(config: ClusterConfig, directory: Path) -> Finding:
    """The Ray cluster has room, and the nodes for workers share versions, storage and ports."""
    from mtrec.jobs.cluster import driver

    directory.mkdir(parents=True, exist_ok=True)
    found = driver.check(config, directory.resolve())
    hosts = [f"{node['host']} ({'; '.join(node['gpus']) or 'no GPU'})" for node in found]
    return Finding("ok", f"room for {config.least_workers} workers on {', '.join(hosts)}")


if __name__ == "__main__":
    main()
