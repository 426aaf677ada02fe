"""`python -m mtrec.doctor`: whether a job would find here what it needs."""

import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from mtrec.command import command
from mtrec.config import ClusterConfig, DoctorConfig
from mtrec.errors import UserError

LIBRARIES = ("tensorflow", "keras", "ray", "mlflow", "scann", "numpy")
_DEVICES = (
    "import tensorflow as tf, scann\nprint(len(tf.config.list_physical_devices('GPU')), 'GPUs')"
)


@command("doctor")
def main(config: DoctorConfig) -> None:
    """Prints a line for each check; status 1 if any failed."""
    checks: dict[str, Callable[[], str]] = {
        "versions": versions,
        "scann, devices": scann_and_devices,
        "keras": keras_three,
        "port": free_port,
        "outputs": lambda: writable(Path(config.outputs)),
        "cache": lambda: writable(Path(config.cache)),
        "mlflow": lambda: store(config.tracking.uri),
    }
    if config.cluster.kind == "ray":
        checks["ray"] = lambda: cluster(config.cluster, Path(config.outputs))
    failed = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check()}", flush=True)
        except UserError as error:
            failed += 1
            print(f"failed  {name}: {error}", flush=True)
    sys.exit(1 if failed else 0)


def versions() -> str:
    """Python and the libraries are those that mtrec requires."""
    from packaging.requirements import Requirement

    metadata = importlib.metadata.metadata("mtrec")
    wanted = [Requirement(text) for text in importlib.metadata.requires("mtrec") or []]
    python = Requirement(f"python{metadata['Requires-Python']}")
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for requirement in [python, *(r for r in wanted if r.name in LIBRARIES and not r.marker)]:
        name = requirement.name
        try:
            found.setdefault(name, "")
            found[name] = found[name] or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
        if found[name] == "none" or found[name] not in requirement.specifier:
            raise UserError(
                f"{name} must be {requirement.specifier}; got {found[name]}. Install mtrec again."
            )
    return ", ".join(f"{name} {version}" for name, version in found.items())


def scann_and_devices() -> str:
    """ScaNN's operations load beside this TensorFlow, in a process that may abort."""
    done = subprocess.run([sys.executable, "-c", _DEVICES], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(
            f"ScaNN must load beside TensorFlow; got {last}. Install scann==1.4.2, tensorflow 2.20."
        )
    return f"loaded; {done.stdout.split(chr(10))[0]}, {os.cpu_count()} CPUs"


def keras_three() -> str:
    """Nothing in the environment makes Keras the legacy one, or gives it another backend."""
    for name, good in (("TF_USE_LEGACY_KERAS", ("", "0")), ("KERAS_BACKEND", ("", "tensorflow"))):
        value = os.environ.get(name, "")
        if value not in good:
            raise UserError(f"{name} must not be set to {value}. Unset it.")
    return "Keras 3 on TensorFlow"


def free_port() -> str:
    """A port of this host can be bound, and reached at the host's own address."""
    try:
        host = socket.gethostbyname(socket.gethostname())
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise UserError(f"A free port must be reachable ({error}). Check /etc/hosts.") from error
    return f"reached {host}:{port}"


def writable(directory: Path) -> str:
    """The directory, or what would hold it, can be written to."""
    there = directory.resolve()
    while not there.exists():
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"{there} must be writable ({error}). Choose another directory.") from error
    return f"{directory} is writable, {shutil.disk_usage(there).free / 2**30:.1f} GiB free"


def store(uri: str | None) -> str:
    """The MLflow store answers, or could be made."""
    from mtrec import store_uri, tracking

    uri = store_uri.resolve_uri(uri)
    file = store_uri.sqlite_file(uri)
    if file and not file.exists():
        writable(file.parent)
        return f"{file} will be created"
    try:
        tracking.connect(uri).search_experiments(max_results=1)
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise UserError(
            f"MLflow must answer at {store_uri.shown(uri)} ({reason}). "
            "Start it, or set tracking.uri."
        ) from error
    return f"{store_uri.shown(uri)} answers"


def cluster(config: ClusterConfig, directory: Path) -> str:
    """The Ray cluster answers, has room, and its nodes have our versions and storage."""
    from mtrec import distribute

    directory.mkdir(parents=True, exist_ok=True)
    with distribute._connected(config):
        distribute._check_room(config, directory.resolve())
    return f"room for {config.num_workers} workers"


if __name__ == "__main__":
    main()
