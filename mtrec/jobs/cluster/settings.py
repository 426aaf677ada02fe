"""What Ray is told of the config, and what a cluster lacks for it; imports nothing of Ray."""

import os
import socket

from mtrec.config import ClusterConfig
from mtrec.errors import UserError

_CONNECT_SECONDS = 10
# After a worker hung, Ray Train asks it within 2 s, and sees every 4 s how long it has waited.
_NOTICING_SECONDS = 6
# An elastic job waits no longer for room that it was told of: a node may have gone since.
_PLACING_SECONDS = 15


def environment(cluster: ClusterConfig) -> dict[str, str]:
    """Ray Train's options, which it reads from the environment."""
    patience = max(cluster.health_timeout_s - _NOTICING_SECONDS, cluster.health_timeout_s / 2)
    placing = _PLACING_SECONDS if cluster.elastic else max(300, cluster.schedule_timeout_s)
    return {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(patience),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(placing),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # It only announces a preemption; each of Ray Train's helpers is two CPU seconds of start.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_LOG_TO_STDERR": "0",
    }


def workers(cluster: ClusterConfig) -> int | tuple[int, int]:
    """How many workers train, or between which numbers of them."""
    least, most = cluster.least_workers, cluster.most_workers
    return (least, most) if cluster.elastic else most


def resources(cluster: ClusterConfig) -> dict[str, float]:
    """What Ray reserves for each worker."""
    reserved: dict[str, float] = {"CPU": cluster.cpus_per_worker}
    if cluster.use_gpu:
        reserved["GPU"] = cluster.devices_per_worker or 1
    return reserved


def missing(cluster: ClusterConfig, there: dict[str, float]) -> str:
    """A sentence on what a cluster with the resources `there` lacks for the workers."""
    wanted = resources(cluster)
    short = [
        f"{there.get(name, 0):g} of {each * cluster.least_workers:g} {name}"
        for name, each in wanted.items()
        if there.get(name, 0) < each * cluster.least_workers
    ]
    each = ", ".join(f"{number:g} {name}" for name, number in wanted.items())
    return (
        f"The Ray cluster must have room for cluster.num_workers={cluster.num_workers} workers of "
        f"{each} each, and has {' and '.join(short) or 'no node with so much free'} after "
        f"{cluster.schedule_timeout_s:g} s. {_remedy(cluster, there)}"
    )


def _remedy(cluster: ClusterConfig, there: dict[str, float]) -> str:
    """What helps against what is short; where nothing is in all, a node's share is."""
    wanted = resources(cluster)
    short = {n for n in wanted if there.get(n, 0) < wanted[n] * cluster.least_workers} or set(
        wanted
    )
    if "GPU" in short and not there.get("GPU"):
        return (
            "Ray knows of no GPU: start nodes that have some (or `ray start --num-gpus`), or set "
            "cluster.use_gpu=false to train on CPUs."
        )
    lower = ["cluster.num_workers"]
    if "GPU" in short and (cluster.devices_per_worker or 1) > 1:
        lower.append("cluster.devices_per_worker")
    if "CPU" in short:
        lower.append("cluster.cpus_per_worker")
    return f"Add nodes, or lower {' or '.join(lower)}."


def check_machine(cluster: ClusterConfig) -> None:
    """Refuses more workers than this machine could start, where they are to be started on it.

    Raises:
        UserError: If there are more than four of them a core, or one asks for more cores than that.
    """
    cores = os.cpu_count() or 1
    most = 4 * cores
    if cluster.address == "local" and cluster.cpus_per_worker > cores:
        raise UserError(
            f"cluster.cpus_per_worker must be at most the {cores} cores of this machine; got "
            f"{cluster.cpus_per_worker:g}. Lower it, or use cluster=ray_address."
        )
    if cluster.address == "local" and cluster.most_workers > most:
        raise UserError(
            f"cluster.num_workers must be at most {most} on this machine, four a core, which Ray "
            f"starts all; got {cluster.num_workers}. Lower it, or use cluster=ray_address."
        )


def check_answers(address: str | None) -> None:
    """Asks for a connection: Ray itself waits for many minutes where nobody answers.

    Raises:
        UserError: If nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):  # Ray looks it up, or starts one
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"cluster.address must be that of a running Ray cluster; got {address}, where none "
            f"answers ({error}). Start one with `ray start --head`, or use cluster=ray_local."
        ) from error
