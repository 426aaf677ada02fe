"""Some steps of a job here, and what the job would take elsewhere by them: `mtrec.jobs.plan`."""

import io
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.config import ClusterConfig, Config
from mtrec.data.batches import Batches
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split
from mtrec.distributed.precision import precision
from mtrec.distributed.strategy import make_strategy
from mtrec.distributed.tables import tables_of
from mtrec.jobs import build, footprint
from mtrec.jobs.load import load
from mtrec.jobs.plan import Plan
from mtrec.model.recommender import Recommender
from mtrec.tracking import mlflow_client
from mtrec.training import evaluate
from mtrec.training.ahead import made_ahead
from mtrec.training.packed import Packed, pack
from mtrec.training.step import Optimizers, Step
from mtrec.training.streaming_log_q import StreamingLogQ

# Calls of the step: the first compile it, and the median of the others counts.
_FIRST, _TIMED = 2, 9
# The smaller batch is so small a part of the whole.
_PART = 4
# Users that are validated, in blocks of fewer.
_USERS = 256


@dataclass(frozen=True)
class _Growth:
    """From the log that is here to the one to plan for, which has as many rows for a user.

    Attributes:
        by_users: How often there will be what there is for each user or row.
        lengths: How long what is as long as the rows, users or items are many will be.
    """

    by_users: float
    lengths: Mapping[int, int]

    @classmethod
    def of_data(
        cls, dataset: Dataset, fit: np.ndarray, *, rows: int | None, items: int | None
    ) -> "_Growth":
        """To so many interactions and items; null for as many as there are."""
        here = len(dataset.interactions["user"])
        by_users = (rows or here) / here
        lengths = {here: rows or here, len(fit): round(by_users * len(fit))}
        for count, there in (
            (dataset.num_users, round(by_users * dataset.num_users)),
            (dataset.num_items, items or dataset.num_items),
        ):
            # With the unknown one, and as offsets. Where both are as many, the more count.
            for more in range(3):
                lengths[count + more] = max(there + more, lengths.get(count + more, 0))
        return cls(by_users, lengths)

    def of(self, length: int) -> int:
        """How long what is so long here will be."""
        return self.lengths.get(length, length)


@dataclass(frozen=True)
class _Held:
    """Bytes of a table or of a slot.

    Attributes:
        here: In this process.
        there: On each device of the job.
        sharded: Whether its rows will be divided among the replicas.
        is_table: Or else a slot.
    """

    here: int
    there: int
    sharded: bool
    is_table: bool


@dataclass(frozen=True)
class Line:
    """Some of what grows with the batch and what does not, found with each of some batches.

    Attributes:
        found: What was found, by the size of the batch.
    """

    found: Mapping[int, float]

    def on(self, replicas: int) -> float:
        """The same on one of so many replicas that share the largest batch."""
        part, whole = min(self.found), max(self.found)
        if replicas == 1 or part == whole:
            return self.found[whole]
        slope = max(self.found[whole] - self.found[part], 0.0) / (whole - part)
        slope = min(slope, self.found[whole] / whole)  # nothing takes less than nothing
        return self.found[whole] - slope * (whole - whole / replicas)


@dataclass(frozen=True)
class Sample:
    """Some steps of a job here, on one device.

    Attributes:
        config: The config.
        dataset: Its data.
        fit: The rows that it trains on.
        model, optimizers, batches: What trains.
        seconds: Of a step.
        peak: The most anonymous memory of this process, in bytes.
        update: Seconds of a step's update of tables.
    """

    config: Config
    dataset: Dataset
    fit: np.ndarray
    model: Recommender
    optimizers: Optimizers
    batches: Batches
    seconds: Line
    peak: Line
    update: float

    @classmethod
    def taken(cls, config: Config) -> "Sample":
        """Takes the steps, where replicas will share a batch those of a part of it as well.

        Args:
            config: The config, of which the data is read.

        Raises:
            UserError: If the data cannot be had, or the config does not fit it.
        """
        replicas, whole = _replicas(config.cluster), config.train.global_batch
        part = max(whole // _PART // replicas, 1) * replicas
        strategy = make_strategy(1, use_gpu=config.cluster.use_gpu)
        dataset, parts = load(config.data)
        dataset = build.data(config, dataset)
        at_once = config.train.encode_at_once
        seconds: dict[int, float] = {}
        peaks: dict[int, float] = {}
        with peak_of_memory() as peak, strategy.scope(), precision(config.train.precision):
            model = build.model(config, dataset, parts.fit)
            for batch in [whole] if replicas == 1 else [part, whole]:
                how = replace(config, train=replace(config.train, global_batch=batch))
                batches = build.batches(how, dataset, parts.fit, model.heads, 1)
                if not seconds:
                    optimizers = build.optimizers(config, batches.steps_per_epoch)
                    balancer = build.balancer(config, batches.steps_per_epoch)
                    log_q = StreamingLogQ.of(batches)
                    step = Step(
                        model, balancer, optimizers, strategy, log_q=log_q, encode_at_once=at_once
                    )
                calls_of = 1 if at_once else config.train.steps_per_call
                seconds[batch] = _seconds(step, batches, calls_of)
                if not peaks:
                    _look(config, dataset, parts, step, batches)
                peaks[batch] = peak()
            update = _update(model, optimizers, batches) if replicas > 1 else 0.0
        return cls(
            config,
            dataset,
            parts.fit,
            model,
            optimizers,
            batches,
            seconds=Line(seconds),
            peak=Line(peaks),
            update=update,
        )

    def plan(self, *, rows: int | None, items: int | None, network_gbit: float) -> Plan:
        """What the job would take.

        Args:
            rows: Interactions of the log to plan for, which has as many for a user as the data;
                null for those of the data.
            items: Its items; null for those of the data.
            network_gbit: What a replica sends in a second, in Gbit.
        """
        cluster, replicas = self.config.cluster, _replicas(self.config.cluster)
        growth = _Growth.of_data(self.dataset, self.fit, rows=rows, items=items)
        held = self._held(growth, replicas)
        there = sum(h.there for h in held)
        # Of what is as long as the log, so much more will be held.
        more = sum(
            (growth.of(len(array)) / len(array) - 1) * _bytes(array)
            for array in _arrays([self.dataset, self.batches, self.model])
            if len(array)
        )
        beside = self.peak.on(replicas) - sum(h.here for h in held) + more
        on_host = 0 if cluster.use_gpu else (cluster.devices_per_worker or 1) * there
        replicated = sum(h.there for h in held if not h.sharded) / there
        sent = self._sent(held, replicas) if replicas > 1 else 0.0
        queries = growth.by_users * self.batches.queries_per_epoch
        return Plan(
            replicas=replicas,
            rows=growth.of(len(self.dataset.interactions["user"])),
            users=growth.of(self.dataset.num_users),
            items=growth.of(self.dataset.num_items),
            tables=sum(h.there for h in held if h.is_table),
            slots=sum(h.there for h in held if not h.is_table),
            worker=round(beside + on_host),
            sent=sent,
            computing=self.seconds.on(replicas) + replicated * self.update * (1 - 1 / replicas),
            sending=8 * sent / (network_gbit * 1e9),
            steps=math.ceil(queries / self.config.train.global_batch),
        )

    def _held(self, growth: _Growth, replicas: int) -> list[_Held]:
        """What each table and then each slot takes."""
        largest = build.largest_replicated(self.config) * 2**20
        tables = {t.path.replace("/", "_"): t for t in tables_of(self.model)}
        slots = [v for v in self.optimizers.tables.variables if v.shape.rank]
        found = []
        for v in [*tables.values(), *slots]:
            is_table = v.path.replace("/", "_") in tables
            table = v if is_table else next(t for name, t in tables.items() if name in v.name)
            each, rows = 4 * math.prod(v.shape[1:]), growth.of(v.shape[0])
            sharded = replicas > 1 and 4 * growth.of(table.shape[0]) * table.shape[1] > largest
            there = each * (-(-rows // replicas) if sharded else rows)
            found.append(_Held(each * v.shape[0], there, sharded, is_table))
        return found

    def _sent(self, held: Iterable[_Held], replicas: int) -> float:
        """Bytes that a replica sends in a step; see `mtrec.jobs.footprint`."""
        heads, tables = self.model.heads, tables_of(self.model)
        batches = build.batches(self.config, self.dataset, self.fit, heads, replicas)
        batch = batches.step(1, 0, replicas=[0])[0]
        of_tables = (
            footprint.of_table(self.model, table, batch, replicas, sharded=h.sharded)
            for table, h in zip(tables, held, strict=False)
        )
        beside = footprint.beside_tables(self.model, replicas, batch)
        return sum(of_tables) + sum(sent.size for _, sent in beside)


def _replicas(cluster: ClusterConfig) -> int:
    return int(cluster.least_workers) * (cluster.devices_per_worker or 1)


def _look(config: Config, dataset: Dataset, parts: Split, step: Step, batches: Batches) -> None:
    """Does beside steps what takes memory: observes one, validates, and writes to MLflow."""
    if config.train.telemetry_every:
        step({0: pack(batches.step(1, 0))}, observe=True)
    few = evaluate.Sample(min(config.evaluate.users or _USERS, _USERS), config.seed)
    judge = evaluate.evaluator_of("val", dataset, parts, known=batches.known, sample=few)
    judge.metrics_together(step.model, step.strategy)
    if config.cluster.kind == "local":  # of several workers, none does
        # It says that it makes a store.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            mlflow_client.connect(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)


def _seconds(step: Step, batches: Batches, at_once: int) -> float:
    """Seconds of a step with its input, as training takes them; the median of some calls."""
    steps = batches.steps_per_epoch

    def make(call: int) -> dict[int, Packed]:
        places = (divmod(call * at_once + k, steps) for k in range(at_once))
        return {0: pack([batches.step(1 + e, k, replicas=[0])[0] for e, k in places])}

    ends = []
    with closing(made_ahead(make, range(_FIRST + _TIMED))) as calls:
        for _, packed in calls:
            step(packed)
            ends.append(time.perf_counter())
    return statistics.median(np.diff(ends)[_FIRST - 1 :]) / at_once


def _update(model: Recommender, optimizers: Optimizers, batches: Batches) -> float:
    """Seconds to update all tables by the gradients of a batch; the median of some updates."""
    rng, tables, batch = np.random.default_rng(0), tables_of(model), batches.step(1, 0)[0]
    gradients = []
    for table in tables:
        rows = rng.integers(table.shape[0], size=footprint.looked_up(model, table, batch))
        values = tf.fill([len(rows), table.shape[1]], 1e-6)
        gradients.append(tf.IndexedSlices(values, tf.constant(rows), tf.constant(table.shape)))
    update = tf.function(
        lambda: optimizers.tables.apply_gradients(zip(gradients, tables, strict=True)),
        autograph=False,
    )
    ends = []
    for _ in range(_FIRST + _TIMED):
        update()
        ends.append(time.perf_counter())
    return statistics.median(np.diff(ends)[_FIRST - 1 :])


def _arrays(roots: Iterable[Any]) -> Iterator[np.ndarray | tf.Tensor]:
    """The arrays that objects of mtrec hold in memory, each once."""
    seen, waiting = set(), list(roots)
    while waiting:
        one = waiting.pop()
        while isinstance(one, np.ndarray) and isinstance(one.base, np.ndarray):
            one = one.base
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray | tf.Tensor):
            # What files hold is the system's, which takes it back.
            if not isinstance(one, np.memmap) and len(one.shape):
                yield one
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif type(one).__module__.startswith("mtrec.") and hasattr(one, "__dict__"):
            waiting += vars(one).values()


@contextmanager
def peak_of_memory() -> Iterator[Callable[[], int]]:
    """Inside, tells the most anonymous memory of this process since it was last asked, in bytes."""
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.005):
            most = max(most, _anonymous())

    def tell() -> int:
        nonlocal most
        found, most = max(most, _anonymous()), 0
        return found

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield tell
    finally:
        over.set()
        watching.join()


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _bytes(array: np.ndarray | tf.Tensor) -> int:
    return int(np.prod(array.shape)) * tf.as_dtype(array.dtype).size
