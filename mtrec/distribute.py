"""The only door to Ray: workers of a Ray cluster train, and this process follows them.

It imports no TensorFlow, so that Ray's own processes stay small. Checkpoints are the run
directory's (`mtrec.checkpoint`), not Ray's: when workers die, Ray starts the group again, and
training goes on from the latest whole checkpoint by itself.
"""

import json
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtrec.config import ClusterConfig, Config
from mtrec.errors import PreemptedError, UserError
from mtrec.libraries import import_tensorflow, quiet_libraries
from mtrec.mailbox import Mailbox

if TYPE_CHECKING:
    from mtrec.data.dataset import Dataset
    from mtrec.data.split import Split
    from mtrec.train import Metrics
    from mtrec.worker import Listener

RAY_DIRECTORY = "ray"
SAME_ON_ALL_NODES = ("tensorflow", "keras", "numpy", "ray", "mtrec")
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10


def train(
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, listener: "Listener"
) -> list["Metrics"]:
    """`mtrec.worker.train` on the workers of a Ray cluster.

    Raises:
        UserError: If the cluster has no room for the workers, a node does not fit (see
            `check_nodes`), training raised one, or workers died `cluster.max_failures` times.
        PreemptedError: If the listener said stop.
    """
    with _connected(config.cluster):
        _check_room(config.cluster, directory)
        # On this node: elsewhere it would die with a node whose workers can be replaced.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        with _relayed(mailbox, listener):
            outcome = _fit(config, ray.put((dataset, parts)), directory, mailbox)
    return _history(outcome)


def _history(outcome: dict[str, Any]) -> list["Metrics"]:
    if "error" in outcome:
        raise UserError(outcome["error"])
    if "preempted" in outcome:
        raise PreemptedError(outcome["preempted"])
    history: list[Metrics] = outcome["history"]
    return history


@contextmanager
def _connected(cluster: ClusterConfig) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster at an address, until the end."""
    _set_environment(cluster)
    local = cluster.address == "local"
    # Ray takes over the handler of SIGTERM, with which a job is asked to save and stop.
    handler = signal.getsignal(signal.SIGTERM)
    if not local:
        _check_answers(cluster.address)
    ray.init(
        address=cluster.address,
        num_cpus=math.ceil(cluster.num_workers * cluster.cpus_per_worker) if local else None,
        include_dashboard=False if local else None,
        logging_config=ray.LoggingConfig(log_level="ERROR"),
        log_to_driver=False,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Asks for a connection first: Ray waits for many minutes where nobody answers."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as `auto`, which Ray looks up
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"cluster.address must be that of a running Ray cluster; got {address}, where none "
            f"answers ({error}). Start one with `ray start --head`, or use cluster=ray_local."
        ) from error


def _set_environment(cluster: ClusterConfig) -> None:
    """Ray Train's options, which it reads from the environment; a user's own come first."""
    for name, value in {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(cluster.health_timeout_s),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(max(300, cluster.schedule_timeout_s)),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # It only announces a preemption; each of Ray Train's helpers is two CPU seconds of start.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_LOG_TO_STDERR": "0",
    }.items():
        os.environ.setdefault(name, value)


def resources(cluster: ClusterConfig) -> dict[str, float]:
    """What Ray reserves for each worker."""
    reserved: dict[str, float] = {"CPU": cluster.cpus_per_worker}
    if cluster.use_gpu:
        reserved["GPU"] = cluster.devices_per_worker or 1
    return reserved


def _check_room(cluster: ClusterConfig, directory: Path) -> None:
    """Waits until the cluster has room for all workers, and checks the nodes they would be on."""
    bundles = [resources(cluster)] * cluster.num_workers
    # A placement group tells an autoscaler what is wanted, and whether it fits node by node.
    group = placement_group(bundles)
    try:
        if not group.wait(cluster.schedule_timeout_s):
            raise UserError(_missing(cluster))
        if cluster.address != "local":
            check_nodes(group, cluster.num_workers, directory)
    finally:
        remove_placement_group(group)


def _missing(cluster: ClusterConfig) -> str:
    wanted, there = resources(cluster), ray.cluster_resources()
    missing = [
        f"{there.get(name, 0):g} of {each * cluster.num_workers:g} {name}"
        for name, each in wanted.items()
        if there.get(name, 0) < each * cluster.num_workers
    ]
    each = ", ".join(f"{number:g} {name}" for name, number in wanted.items())
    return (
        f"The Ray cluster must have room for cluster.num_workers={cluster.num_workers} workers of "
        f"{each} each, and has {' and '.join(missing) or 'no node with so much free'} after "
        f"{cluster.schedule_timeout_s:g} s. Add nodes, or lower cluster.num_workers or "
        "cluster.cpus_per_worker."
    )


def check_nodes(group: Any, num_workers: int, directory: Path) -> None:
    """Checks that every worker's node sees the run directory and has this machine's versions.

    Raises:
        UserError: Naming the node that does not, and what it has instead.
    """
    token = directory / ".shared"
    token.write_text(str(time.time_ns()))
    about = ray.remote(num_cpus=0)(_about_node)
    found = ray.get(
        [
            about.options(placement_group=group, placement_group_bundle_index=i).remote(token)
            for i in range(num_workers)
        ]
    )
    expected = _about_node(token)
    token.unlink()
    for node in found:
        if node["token"] != expected["token"]:
            raise UserError(
                f"hydra.run.dir must be on storage that all nodes share; {directory} is another "
                f"directory on {node['host']}. Set hydra.run.dir to a shared path."
            )
        if node["versions"] != expected["versions"]:
            raise UserError(
                f"All nodes must have the same versions; {node['host']} has {node['versions']}, "
                f"and {expected['host']} has {expected['versions']}. Install the same there."
            )


def _about_node(token: Path) -> dict[str, Any]:
    text = ""
    with suppress(OSError):
        text = token.read_text()
    return {
        "host": socket.gethostname(),
        "token": text,
        "versions": {name: version(name) for name in SAME_ON_ALL_NODES},
    }


def _fit(config: Config, data: Any, directory: Path, mailbox: Any) -> dict[str, Any]:
    cluster = config.cluster
    # A name of its own each time: what Ray would resume is nothing that training needs.
    name = f"{os.getpid()}-{time.time_ns()}"
    # What Ray's TensorflowTrainer extends; that one would import TensorFlow here.
    trainer = DataParallelTrainer(
        _loop,
        train_loop_config={
            "config": config,
            "data": data,
            "directory": directory.resolve(),
            "mailbox": mailbox,
        },
        backend_config=_TfConfig(),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker=resources(cluster),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(directory.resolve() / RAY_DIRECTORY),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        result: Any = trainer.fit()  # Ray annotates another class
        outcome: dict[str, Any] = result.return_value
    except TrainingFailedError as error:
        raise UserError(
            f"Workers failed more than cluster.max_failures={cluster.max_failures} times, the last "
            f"time with: {str(error).strip()}"
        ) from error
    shutil.rmtree(directory / RAY_DIRECTORY, ignore_errors=True)
    return outcome


def _loop(job: dict[str, Any]) -> dict[str, Any]:
    """Trains in one worker. What is not to be tried again is returned, everything else raised."""
    quiet_libraries()
    import_tensorflow()
    from mtrec import worker

    dataset, parts = ray.get(job["data"])
    listener = _Correspondent(job["mailbox"])
    rank = ray.train.get_context().get_world_rank()
    listener.say(f"worker {rank} on {socket.gethostname()}, process {os.getpid()}")
    try:
        history = worker.train(job["config"], dataset, parts, job["directory"], listener)
    except UserError as error:
        return {"error": str(error)}
    except PreemptedError as error:
        return {"preempted": str(error)}
    return {"history": history}


class _TfConfig(BackendConfig):
    """Ray's own TensorFlow backend, but for `TF_USE_LEGACY_KERAS`, which it sets."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _TfBackend


class _TfBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        for rank in range(len(worker_group)):
            worker_group.execute_single(rank, _set_tf_config, addresses, rank)


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{host}:{probe.getsockname()[1]}"


def _set_tf_config(addresses: list[str], rank: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    )


class _Correspondent:
    """The listener that the chief has: it writes to the mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def on_epoch(self, metrics: "Metrics") -> None:
        ray.get(self._mailbox.put.remote("epoch", metrics))

    def say(self, text: str) -> None:
        ray.get(self._mailbox.put.remote("line", text))

    def should_stop(self) -> bool:
        return bool(ray.get(self._mailbox.should_stop.remote()))


@contextmanager
def _relayed(mailbox: Any, listener: "Listener") -> Iterator[None]:
    """Hands letters to the listener, and its wish to stop to the workers, from a thread."""
    finished = threading.Event()

    def deliver() -> None:
        handlers: dict[str, Callable[[Any], None]] = {
            "epoch": listener.on_epoch,
            "line": listener.say,
        }
        for kind, content in ray.get(mailbox.take.remote()):
            handlers[kind](content)

    def relay() -> None:
        while not finished.wait(_POLL_SECONDS):
            deliver()
            if listener.should_stop():
                mailbox.stop.remote()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        deliver()
