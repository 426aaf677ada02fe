"""The start-up report: what trains where, how large it is, and what travels between replicas."""

import math
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from mtrec.data.inputs import Batch
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.strategy import local_replicas, num_workers, worker_number
from mtrec.distributed.tables import TABLE, tables_of
from mtrec.distributed.traffic import Sent, gathered, summed
from mtrec.model.bags import EncodedBags
from mtrec.model.experts import SHARED
from mtrec.model.recommender import Recommender
from mtrec.training.step import Optimizers


def describe(
    model: Recommender, optimizers: Optimizers, strategy: tf.distribute.Strategy, batch: Batch
) -> str:
    """Some lines on strategy, replicas, batch, parameters, memory and traffic.

    Traffic is what one replica sends in a step like that of `batch`, padding included; see
    `mtrec.distributed.traffic`. Heads say what theirs is. Tables, for each row that the replica
    looks up: replicated `(R - 1) (4 D + 4)` bytes, its gradient and id, gathered. Sharded
    `(R - 1) (12 D + 4)`: id and gradient likewise, and `8 D` to sum the embeddings that everybody
    looked up.

    Args:
        model: The model, adapted.
        optimizers: Both optimizers, that of the tables built.
        strategy: Where the replicas are.
        batch: A replica's part of a batch. What is mined joins after the first epoch.
    """
    replicas, workers = strategy.num_replicas_in_sync, num_workers(strategy)
    name = "MultiWorkerMirroredStrategy" if workers > 1 else type(strategy).__name__
    tables, slots = tables_of(model), [v for v in optimizers.tables.variables if v.shape.rank]
    own = len(batch.query.users)
    lines = [
        f"{name if replicas > 1 else 'one device'}: {_count(replicas, 'replica')} in "
        f"{_count(workers, 'worker')}, global batch {own * replicas:,}, {own:,} a replica",
        f"parameters: {sum(math.prod(v.shape) for v in tables):,} in "
        f"{_count(len(tables), 'table')}, {_dense(model):,} dense",
        f"on each device: {_size(_held(tables))} of tables, "
        f"{_size(_held(slots))} of their optimizer's slots",
    ]
    for table in tables:
        rows, width = table.shape
        line = f"  {_name(table)}: {rows:,} rows x {width} = {rows * width:,}"
        if replicas > 1:
            placement = "sharded" if isinstance(table, ShardedVariable) else "replicated"
            each = (
                _size(of_table(model, table, batch, replicas, sharded=s)) for s in (False, True)
            )
            line += ", {}; a step sends {} replicated, {} sharded".format(placement, *each)
        lines.append(line)
    if replicas > 1:
        dense, *others = beside_tables(model, replicas, batch)
        lines += [f"each replica sends in a step, beside tables: {_told(dense)}"]
        lines += [f"  {_told(sent)}" for sent in others]
    return "\n".join(lines)


def of_table(
    model: Recommender, table: keras.Variable, batch: Batch, replicas: int, *, sharded: bool
) -> float:
    """Bytes that a replica sends in a step for a table; see `describe`."""
    numbers = (3 if sharded else 1) * table.shape[1] + 1
    return gathered(looked_up(model, table, batch) * numbers, replicas)


def placement(strategy: tf.distribute.Strategy, precision: str) -> str:
    """A line on this worker: the device of each of its replicas.

    Args:
        strategy: Where the replicas are.
        precision: Of the training's matrix products; see `mtrec.distributed.precision`.
    """
    # The default strategy names none: it leaves the choice to TensorFlow, as this does.
    alone = strategy.num_replicas_in_sync == 1
    names = [tf.constant(0.0).device] if alone else strategy.extended.worker_devices
    found = [tf.DeviceSpec.from_string(name) for name in names]
    places = [
        f"replica {replica} on {_device(device)}"
        for replica, device in zip(local_replicas(strategy), found, strict=True)
    ]
    on_gpu = any(device.device_type == "GPU" for device in found)
    kind = "float32" if precision == "tf32" and not on_gpu else precision
    return f"worker {worker_number(strategy)}: {', '.join(places)}; matrix products in {kind}"


def _device(device: tf.DeviceSpec) -> str:
    name = f"{device.device_type}:{device.device_index}"
    if device.device_type != "GPU":
        return name
    details = tf.config.experimental.get_device_details(
        tf.config.get_visible_devices("GPU")[device.device_index]
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = f", CUDA_VISIBLE_DEVICES={visible}" if visible else ""
    return f"{name} ({details.get('device_name', 'unnamed')}{chosen})"


def beside_tables(
    model: Recommender, replicas: int, batch: Batch
) -> Iterator[tuple[str | None, Sent]]:
    """What a replica sends in a step beside tables, and for what: None for all dense weights."""
    yield None, Sent(summed(_dense(model), replicas), "dense gradients")
    for name, head in model.heads.items():
        width = head.dim or model.query.output_dim
        for sent in head.sends(batch, width=width, replicas=replicas):
            yield name, sent
    asked = (head.negatives for head in model.heads.values() if head.negatives is not None)
    if any(negatives.log_q_rate is not None for negatives in asked):
        pool = len(batch.pool.items)
        yield "log Q", Sent(gathered(pool, replicas), f"{pool:,} item ids gathered by all")


def _told(what: tuple[str | None, Sent]) -> str:
    name, sent = what
    return f"{name + ': ' if name else ''}{_size(sent.size)} of {sent.what}"


def looked_up(model: Recommender, table: keras.Variable, batch: Batch) -> int:
    """Rows that a replica looks up in a table.

    Tables that belong to heads are looked up once for a training row.
    """
    of_features = _of_features(model, batch)
    return of_features.get(_name(table), len(batch.rows.item))


def _of_features(model: Recommender, batch: Batch) -> dict[str, int]:
    """Rows that a replica looks up in the table of each feature, by the table's name."""
    with_pool = {SHARED: False} | {n: h.negatives is not None for n, h in model.heads.items()}
    with_pool[SHARED] = any(with_pool.values())
    viewed = {n: 2 * len(batch.views.items) for n, h in model.heads.items() if h.views}
    found = {}
    for tower in (model.query, model.candidate):
        for path, encoded in tower.encoded.items():
            rows = len(batch.query.users)
            if tower is model.candidate:
                scope = path.split("/")[1]
                rows = len(batch.items) + with_pool[scope] * len(batch.pool.items)
                rows += sum(viewed.values()) if scope == SHARED else viewed.get(scope, 0)
            for history in model.query.histories.get(SHARED, {}).values():
                if path == f"candidate/{SHARED}/{history.candidate}":
                    rows += len(batch.items)
            found[path.replace("/", "_")] = math.ceil(rows * _values_a_row(encoded))
    for head, group in model.query.labelled.items():
        found |= {f"query_{head}_{name}": len(batch.items) for name in group}
    return found


def _values_a_row(encoded: tf.Tensor | EncodedBags) -> float:
    if isinstance(encoded, EncodedBags):
        return len(encoded.values) / (len(encoded.offsets) - 1)
    return math.prod(encoded.shape[1:])


def _held(variables: list[keras.Variable]) -> int:
    """Bytes of float32 that one device holds."""
    shapes = (v.shard_shape if isinstance(v, ShardedVariable) else v.shape for v in variables)
    return sum(4 * math.prod(shape) for shape in shapes)


def _dense(model: Recommender) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables if v.name != TABLE)


def _name(table: keras.Variable) -> str:
    return str(table.path.rsplit("/", 1)[0])


def _size(count: float) -> str:
    return f"{count / 2**10:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
