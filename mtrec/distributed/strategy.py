"""Where training runs: the strategy, and what its replicas and workers tell each other."""

import functools
import io
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.framework import config

from mtrec.distributed import heartbeat
from mtrec.errors import PreemptedError, UserError, user_error

T = TypeVar("T")
# Pairs of bytes that travel at once, in a number each.
PAIRS_AT_ONCE = 2**22


def make_strategy(devices: int | None, *, use_gpu: bool) -> tf.distribute.Strategy:
    """The strategy over this process' devices, and over all workers' where `TF_CONFIG` names some.

    Make it before any other TensorFlow operation runs.

    Args:
        devices: Devices of each worker; null for all its visible GPUs, or for the CPU as one.
        use_gpu: Whether they are GPUs, or as many logical devices of the CPU.

    Raises:
        UserError: If TensorFlow sees no GPU or fewer than asked for, or has GPUs at work that
            were not.
    """
    names = gpus(devices) if use_gpu else _cpus(devices or 1)
    workers = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])
    if len(workers) > 1:
        return _several_workers(names)
    # With one device the default strategy does the same without a mirror's overhead.
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()


def gpus(devices: int | None) -> list[str]:
    """Names of so many GPUs of this process, all for None.

    Raises:
        UserError: If TensorFlow sees fewer.
    """
    # The environment says which are visible and how they give memory: `distributed.devices`.
    there = len(tf.config.get_visible_devices("GPU"))
    if not there:
        raise UserError(
            "`use_gpu`=true needs a GPU, and TensorFlow sees none on "
            f"{socket.gethostname()}. Where `nvidia-smi` shows one, CUDA's libraries are missing "
            "(pip install 'mtrec[gpu]') or CUDA_VISIBLE_DEVICES hides it; otherwise set "
            "`use_gpu`=false."
        )
    if devices and devices > there:
        raise UserError(
            f"`devices_per_worker` must be at most the {there} GPUs that TensorFlow sees on "
            f"{socket.gethostname()}; got {devices}. Lower it, or add workers on other machines."
        )
    return [f"GPU:{i}" for i in range(devices or there)]


def _cpus(devices: int) -> list[str]:
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise UserError(
            "`use_gpu`=false must be said before TensorFlow starts GPUs, which it has in "
            "this process. Run the job in another process, or set CUDA_VISIBLE_DEVICES= there."
        ) from error
    if devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, logical)
    return [f"CPU:{i}" for i in range(devices)]


def _several_workers(names: list[str]) -> tf.distribute.Strategy:
    if names[0].startswith("GPU") or len(names) == 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow takes one CPU device a worker, however many logical ones there are.
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended

    class LogicalCpus(extended):  # type: ignore[misc, valid-type]
        def _initialize_local_devices(
            self, cluster_resolver: Any, worker_device: str
        ) -> tuple[tuple[str, ...], str]:
            return tuple(f"{worker_device}/device:{name}" for name in names), "CPU"

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    options = tf.distribute.experimental.CommunicationOptions()
    strategy = tf.distribute.MultiWorkerMirroredStrategy.__new__(
        tf.distribute.MultiWorkerMirroredStrategy
    )
    tf.distribute.Strategy.__init__(
        strategy,
        LogicalCpus(strategy, cluster_resolver=resolver, communication_options=options),
    )
    return strategy


@contextmanager
def determinism(*, deterministic: bool) -> Iterator[None]:
    """Has GPUs add in one order where `deterministic`, until the end; CPUs do in any case.

    The same job on the same devices then ends with the same weights, to the bit. An operation that
    a GPU has in no such order raises.
    """
    before = config.is_op_determinism_enabled()
    if deterministic:
        config.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Number of processes that train together."""
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict().get("worker", [0])) if resolver else 1


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Number of this process among those that train together, from 0."""
    return int(strategy.cluster_resolver.task_id) if num_workers(strategy) > 1 else 0


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that saves and reports."""
    return worker_number(strategy) == 0


def local_replicas(strategy: tf.distribute.Strategy) -> list[int]:
    """Numbers of this process' replicas among all."""
    mine = strategy.num_replicas_in_sync // num_workers(strategy)
    first = mine * worker_number(strategy)
    return list(range(first, first + mine))


def local_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """The device of each of this process' replicas."""
    # The default strategy names none: it leaves the choice to TensorFlow.
    if strategy.num_replicas_in_sync == 1:
        return [""]
    return list(strategy.extended.worker_devices)


def own_replica() -> int:
    """Number of the replica whose step is being traced."""
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return int(tf.get_static_value(number) if tf.is_tensor(number) else number)


def all_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of every replica's `value`, the same on all; its gradient is summed as well."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def all_gather(value: tf.Tensor) -> tf.Tensor:
    """Every replica's `value`, joined along the first axis; gradients return to their replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # One tensor a call: a call with mixed types fails.
    return context.all_gather(tf.identity(value), axis=0)


def all_gather_together(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """`all_gather` of several tensors of one type by one exchange.

    Args:
        values: Tensors `[n, ...]`, each with an n of its own, but the same on all replicas, as
            padded batches give.
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    if replicas == 1:
        return list(values)
    flat = [tf.reshape(value, [-1]) for value in values]
    joined = tf.reshape(all_gather(tf.concat(flat, 0)), [replicas, -1])
    parts = tf.split(joined, [tf.size(value) for value in flat], axis=1)
    return [tf.reshape(p, [-1, *v.shape[1:]]) for p, v in zip(parts, values, strict=True)]


def from_chief(strategy: tf.distribute.Strategy, make: Callable[[], T]) -> T:
    """What `make` returns on the chief, on every worker; the others wait for it.

    Args:
        strategy: The strategy; all its workers must call this at the same place.
        make: Called on the chief alone; returns something that JSON can carry.

    Raises:
        UserError: On every worker, if `make` raises it.
    """
    if num_workers(strategy) == 1:
        return make()
    mine = _outcome(lambda: json.dumps(make()).encode()) if is_chief(strategy) else b""
    return cast(T, json.loads(_value(_of_all(strategy, mine)[0])))


def from_workers(
    strategy: tf.distribute.Strategy, make: Callable[[], dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """What `make` returns on each worker, in the order of their numbers, on every worker.

    Args:
        strategy: The strategy; all its workers must call this at the same place.
        make: Called on every worker; returns arrays by name, of any shapes and types.

    Raises:
        UserError: On every worker, if `make` raises it on one.
        PreemptedError: Likewise.
    """
    if num_workers(strategy) == 1:
        return [make()]
    mine = _outcome(lambda: _packed(make()))
    return [_unpacked(_value(outcome)) for outcome in _of_all(strategy, mine)]


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _outcome(make: Callable[[], bytes]) -> bytes:
    try:
        return b"+" + make()
    except PreemptedError as error:
        return b"!" + str(error).encode()
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        return b"-" + str(mistake).encode()


def _value(outcome: bytes) -> bytes:
    if outcome.startswith(b"-"):
        raise UserError(outcome[1:].decode())
    if outcome.startswith(b"!"):
        raise PreemptedError(outcome[1:].decode())
    return outcome[1:]


def _of_all(strategy: tf.distribute.Strategy, content: bytes) -> list[bytes]:
    """The `content` of each worker, in the order of their numbers, on every worker."""
    mine = worker_number(strategy)
    lengths = np.zeros((num_workers(strategy), 2))
    lengths[mine] = divmod(len(content), 2**16)
    lengths = _sum_over_workers(strategy, lengths.ravel()).reshape(lengths.shape)
    lengths = lengths.astype(np.int64) @ [2**16, 1]
    ends = np.cumsum(lengths + lengths % 2)
    starts = ends - lengths - lengths % 2
    joined = np.zeros(ends[-1], np.uint8)
    joined[starts[mine] :][: len(content)] = np.frombuffer(content, np.uint8)
    pairs = joined.view(np.uint16)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        pairs[part] = _sum_over_workers(strategy, pairs[part])
    return [
        joined[start:][:length].tobytes() for start, length in zip(starts, lengths, strict=True)
    ]


def _sum_over_workers(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """Sum of the workers' arrays of whole numbers below 2^24, which float32 holds exactly."""
    first, value = local_replicas(strategy)[0], value.astype(np.float32)
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            value if context.replica_id_in_sync_group == first else np.zeros_like(value)
        )
    )
    total = _summing(strategy)(shares)
    heartbeat.beat()
    return np.asarray(strategy.experimental_local_results(total)[0])


@functools.cache
def _summing(strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    return cast(
        Callable[[Any], Any],
        tf.function(lambda shares: strategy.run(all_sum, args=(shares,)), reduce_retracing=True),
    )
