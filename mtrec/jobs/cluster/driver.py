"""The only door to Ray: workers of a Ray cluster train, and this process follows them.

It imports no TensorFlow, so that Ray's own processes stay small. Checkpoints are the run
directory's (`mtrec.training.checkpoint`), not Ray's: when workers die, Ray starts the group again,
and training goes on from the latest whole checkpoint by itself.
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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtrec.config import ClusterConfig, Config
from mtrec.data.progress import followed_by
from mtrec.distributed import devices
from mtrec.distributed.heartbeat import Heart
from mtrec.errors import PreemptedError, UserError, user_error
from mtrec.jobs.cluster import nodes, settings
from mtrec.jobs.cluster.letters import Correspondent, Delivery
from mtrec.jobs.cluster.mailbox import Mailbox
from mtrec.libraries import import_tensorflow, quiet_libraries
from mtrec.tracking.run_dir import CONFIG

if TYPE_CHECKING:
    from mtrec.data.dataset import Dataset
    from mtrec.data.split import Split
    from mtrec.jobs.worker import Listener
    from mtrec.training.loop import Metrics

RAY_DIRECTORY = "ray"
_POLL_SECONDS = 0.2
_PULSE_SECONDS = 1
_ANSWER_SECONDS = 120

ray.cloudpickle.register_pickle_by_value(nodes)


def train(
    config: Config, dataset: "Dataset", parts: "Split", directory: Path, listener: "Listener"
) -> list["Metrics"]:
    """`mtrec.jobs.worker.train` on the workers of a Ray cluster.

    Raises:
        UserError: If the cluster has no room for the workers, a node does not fit (see `check`),
            training raised one, or workers died `cluster.max_failures` times.
        PreemptedError: If the listener said stop.
    """
    with _connected(config.cluster):
        with _room(config.cluster):
            # The one node of a cluster of our own is this machine.
            if config.cluster.address != "local":
                _check_nodes(config.cluster, directory)
        # On this node: elsewhere it would die with a node whose workers can be replaced.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        post_office = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here)
        mailbox = post_office.remote(config.cluster.health_timeout_s)
        with _relayed(mailbox, listener):
            outcome = _fit(config, ray.put((dataset, parts)), directory, mailbox)
    return _history(outcome)


def check(cluster: ClusterConfig, directory: Path) -> list[nodes.About]:
    """Checks a cluster as a job does before it trains, and returns what its nodes have.

    Raises:
        UserError: If it has no room for the workers, or a node that can hold one does not share
            `directory`, has other versions than this machine, is not reached by another, or does
            not answer.
    """
    with _connected(cluster), _room(cluster):
        return _check_nodes(cluster, directory)


def _history(outcome: dict[str, Any]) -> list["Metrics"]:
    if "preempted" in outcome:
        raise PreemptedError(outcome["preempted"])
    history: list[Metrics] = outcome["history"]
    return history


@contextmanager
def _connected(cluster: ClusterConfig) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster at an address, until the end."""
    for name, value in settings.environment(cluster).items():
        os.environ.setdefault(name, value)
    local = cluster.address == "local"
    # Ray takes over the handlers of signals, with which a job is asked to save and stop.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    settings.check_answers(cluster.address)
    try:
        ray.init(
            address=cluster.address,
            num_cpus=math.ceil(cluster.most_workers * cluster.cpus_per_worker) if local else None,
            include_dashboard=False if local else None,
            logging_config=ray.LoggingConfig(log_level="ERROR"),
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"Ray must start or be joined with cluster.address={cluster.address}; got: "
            f"{' '.join(str(error).split())} Start a cluster with the same versions, or use "
            "cluster=ray_local."
        ) from error
    except BaseException:
        ray.shutdown()
        raise
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
    # A map would travel as bytes, of which each worker makes a copy of its own.
    ray.util.register_serializer(np.memmap, serializer=np.asarray, deserializer=np.asarray)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _room(cluster: ClusterConfig) -> Iterator[None]:
    """Waits until the cluster has room for the least workers, and keeps it until the end."""
    # A placement group tells an autoscaler what is wanted, and whether it fits node by node.
    group = placement_group([settings.resources(cluster)] * cluster.least_workers)
    try:
        if not group.wait(cluster.schedule_timeout_s):
            raise UserError(settings.missing(cluster, ray.cluster_resources()))
        yield
    finally:
        remove_placement_group(group)


def _check_nodes(cluster: ClusterConfig, directory: Path) -> list[nodes.About]:
    """What the nodes have that can hold a worker.

    Raises:
        UserError: If one does not share `directory`, has other versions than this machine, is not
            reached by another, or does not answer.
    """
    token = str(time.time_ns())
    live = [
        node
        for node in ray.nodes()
        if node["Alive"] and _can_hold(node, settings.resources(cluster))
    ]
    files = [directory / f".node-{node['NodeID']}" for node in live]
    probes = [_probe(node) for node in live]
    try:
        found = _answers([p.about.remote(f, token) for p, f in zip(probes, files, strict=True)])
        wrong = list(nodes.misfits(found, files, token, nodes.versions()))
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    for sentences in _answers([p.unreached.remote(found) for p in probes]):
        wrong += sentences
    if wrong:
        raise UserError(" ".join(wrong))
    return found


def _can_hold(node: dict[str, Any], wanted: dict[str, float]) -> bool:
    return all(node["Resources"].get(name, 0) >= number for name, number in wanted.items())


def _probe(node: dict[str, Any]) -> Any:
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    probe = ray.remote(nodes.Probe).options(num_cpus=0, scheduling_strategy=place)
    return probe.remote(node["NodeManagerAddress"])


def _answers(calls: list[Any]) -> list[Any]:
    try:
        answers: list[Any] = ray.get(calls, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Every node must answer within {_ANSWER_SECONDS} s; got: {str(error).strip()}. Check "
            "`ray status` and the logs there."
        ) from error
    return answers


def _fit(config: Config, data: Any, directory: Path, mailbox: Any) -> dict[str, Any]:
    cluster = config.cluster
    # A name of its own each time: what Ray would resume is nothing that training needs.
    name = f"{os.getpid()}-{time.time_ns()}"
    trainer = _Trainer(
        _loop,
        train_loop_config={
            "config": config,
            "data": data,
            "directory": directory.resolve(),
            "mailbox": mailbox,
            "versions": nodes.versions(),
        },
        backend_config=_TfConfig(),
        scaling_config=ScalingConfig(
            num_workers=settings.workers(cluster),  # type: ignore[arg-type]  # Ray annotates another
            elastic_resize_monitor_interval_s=cluster.resize_check_s,  # type: ignore[call-arg]
            use_gpu=cluster.use_gpu,
            resources_per_worker=settings.resources(cluster),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(directory.resolve() / RAY_DIRECTORY),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            callbacks=[_EndAtUserError()],  # type: ignore[list-item]  # Ray annotates another
        ),
    )
    try:
        result: Any = trainer.fit()  # Ray annotates another class
        outcome: dict[str, Any] = result.return_value
    except TrainingFailedError as error:
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, UserError):
            raise error.controller_failure from error
        raise UserError(
            f"Workers failed more than cluster.max_failures={cluster.max_failures} times, the last "
            f"time with: {ray.get(mailbox.stalled.remote()) or str(error).strip()}"
        ) from error
    finally:
        shutil.rmtree(directory / RAY_DIRECTORY, ignore_errors=True)
    return outcome


def _loop(job: dict[str, Any]) -> dict[str, Any]:
    """Trains in one worker. Returns once all are done; what one raises ends the others."""
    # This node may be another one than was there when the job began.
    if wrong := list(nodes.misfits_here(job["directory"] / CONFIG, job["versions"])):
        raise UserError(" ".join(wrong))
    quiet_libraries()
    cluster = job["config"].cluster
    # Ray leaves a worker for which it reserves no GPU all of the node's.
    os.environ.update(devices.environment(cluster.devices_per_worker if cluster.use_gpu else 0))
    import_tensorflow()
    from mtrec.jobs import worker

    dataset, parts = ray.get(job["data"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    listener = _correspondent(job["mailbox"], rank)
    listener.say(f"worker {rank} on {socket.gethostname()}, process {os.getpid()}")
    with _watched(job["mailbox"], rank, workers), followed_by(listener):
        try:
            history = worker.train(job["config"], dataset, parts, job["directory"], listener)
        except PreemptedError as error:
            # Raised by all, while the chief may still be saving.
            return {"preempted": str(error)}
        except Exception as error:
            # What an exception was raised from does not travel with it.
            if mistake := user_error(error):
                raise mistake from None
            raise
    return {"history": history}


@contextmanager
def _watched(mailbox: Any, rank: int, workers: int) -> Iterator[None]:
    """Ends this process once its training, within, has stalled: Ray only asks whether it answers.

    A thread that does not go on cannot be ended alone.
    """
    heart = Heart(threading.get_ident())

    def watch() -> None:
        if ray.get(mailbox.is_to_end.remote(rank, heart.pulse())):
            os._exit(1)

    ray.get(mailbox.enter.remote(rank, workers))
    try:
        with _every(_PULSE_SECONDS, watch):
            yield
    finally:
        ray.get(mailbox.leave.remote(rank))


@contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Acts now and then, in a thread, until the end."""
    finished = threading.Event()

    def acting() -> None:
        while not finished.wait(seconds):
            act()

    thread = threading.Thread(target=acting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


class _EndAtUserError(UserCallback):
    """Ends the job with what the user can put right, where Ray would begin anew."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the first `UserError` of a worker."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error


class _Trainer(DataParallelTrainer):
    """What Ray's `TensorflowTrainer` extends, without two of the helpers that it starts.

    `TensorflowTrainer` itself would import TensorFlow here. A helper costs two CPU seconds of
    start: one would deal out Ray datasets, of which there are none; the other removes the workers'
    placement group if their controller dies, which Ray does as well once this process ends. Where
    another version of Ray names them otherwise, they start.
    """

    def _create_default_callbacks(self) -> list[Any]:
        left_out = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in left_out]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves SIGINT to the job, which saves."""


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


def _correspondent(mailbox: Any, rank: int) -> Correspondent:
    return Correspondent(
        lambda kind, content: ray.get(mailbox.put.remote(kind, content)),
        lambda: bool(ray.get(mailbox.should_stop.remote())),
        chief=rank == 0,
    )


@contextmanager
def _relayed(mailbox: Any, listener: "Listener") -> Iterator[None]:
    """Hands letters to the listener, and its wish to stop to the workers, from a thread."""
    deliver = Delivery(listener)

    def relay() -> None:
        deliver(ray.get(mailbox.take.remote()))
        if listener.should_stop():
            mailbox.stop.remote()

    try:
        with _every(_POLL_SECONDS, relay):
            yield
    finally:
        deliver(ray.get(mailbox.take.remote()))
        deliver.close()
