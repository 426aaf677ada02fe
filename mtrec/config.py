"""The typed schema of `conf/`, with the checks that need more than one field.

Values live in the YAML files; a field here has a type and no default. Nodes that name a `_target_`
are plug points: the signature of what they name is their schema.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from difflib import get_close_matches
from functools import reduce
from inspect import Parameter
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrec.data.batching import Batching
from mtrec.data.schedule import Schedule
from mtrec.data.split import KINDS, keep_ratings, split
from mtrec.errors import UserError, require, said


@dataclass
class TaskConfig:
    """Which heads are trained and what each weighs."""

    heads: dict[str, Any]
    weights: dict[str, float]
    select_by: str

    def __post_init__(self) -> None:
        if set(self.weights) != set(self.heads):
            raise UserError(
                f"task.weights must name the heads {sorted(self.heads)}; "
                f"got {sorted(self.weights)}."
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise UserError(
                    f"task.weights.{name} must be a finite number of at least 0; got {weight}."
                )
        if not any(self.weights.values()):
            raise UserError("task.weights must not all be 0: there would be nothing to train.")

    def active(self) -> list[str]:
        """The heads with a weight above 0; the others cost nothing."""
        return [name for name, weight in self.weights.items() if weight > 0]


@dataclass
class ModelConfig:
    """The two towers, what their heads share, and where their tables are.

    Attributes:
        table_placement: `replicated` keeps embedding tables and their optimizer's slots on every
            replica, `sharded` divides their rows among the replicas, `auto` shards the large ones.
        shard_above_mib: The size above which `auto` shards a table, in MiB without its slots.
        query, candidate: See `mtrec.model.tower.Tower`.
        sharing: What the heads share in the tower of either name; see `mtrec.model.sharing`.
        pooling: How a history's items become one vector; see `mtrec.model.pooling`.
    """

    table_placement: str
    shard_above_mib: float
    query: dict[str, Any]
    candidate: dict[str, Any]
    sharing: Any
    pooling: Any

    def __post_init__(self) -> None:
        for group in ("sharing", "pooling"):
            chosen = getattr(self, group)
            if not isinstance(chosen, dict):
                raise UserError(
                    f"model.{group} must be chosen as a group; got {chosen}. "
                    f"Write model/{group}={chosen}."
                )
        require("model.shard_above_mib", self.shard_above_mib, least=0)
        rule = "model.table_placement must be replicated, sharded or auto"
        if self.table_placement not in ("replicated", "sharded", "auto"):
            raise UserError(f"{rule}; got {self.table_placement}.")


@dataclass
class TrainConfig(Schedule, Batching):
    """How training goes: a schedule, and what batches are made of."""

    precision: str
    deterministic: bool
    resume: str

    def __post_init__(self) -> None:
        try:
            Schedule.__post_init__(self)
            Batching.__post_init__(self)
        except UserError as error:
            raise UserError(re.sub(r"`(\w+)`", r"train.\1", str(error))) from error
        if self.precision not in ("float32", "tf32", "bfloat16"):
            raise UserError(
                f"train.precision must be float32, tf32 or bfloat16; got {self.precision}."
            )


@dataclass
class EvaluateConfig:
    """How many held-out users are judged, drawn by the seed; null for all of them.

    Attributes:
        users: In validation after each epoch.
        final_users: Of each part at the end.
    """

    users: int | None
    final_users: int | None

    def __post_init__(self) -> None:
        for name, users in vars(self).items():
            if users is not None and users < 1:
                raise UserError(f"evaluate.{name} must be at least 1, or null; got {users}.")


@dataclass
class ClusterConfig:
    """Where training runs; see `mtrec.distributed.strategy`, for `kind: ray` `mtrec.jobs.cluster`.

    Attributes:
        kind: `local` for this process, `ray` for workers of a Ray cluster.
        address: Address of a running Ray cluster; `local` starts one on this machine.
        num_workers: Processes that train together; of an elastic job `[least, most]` of them, as
            many as there is room for.
        devices_per_worker: GPUs of each, or logical CPU devices; null for one, or in this process
            for all GPUs there are.
        use_gpu: Whether to train on GPUs, and on nothing else; without, they are hidden. Ray
            reserves them for each worker.
        cpus_per_worker: CPUs that Ray reserves for each worker.
        schedule_timeout_s: Seconds to wait for the cluster to have room for the (least) workers.
        resize_check_s: Seconds between looks of an elastic job at whether there is room for more.
        health_timeout_s: Seconds without an answer or without progress after which a worker is
            given up, to be replaced; see `mtrec.distributed.heartbeat`.
        max_failures: Times that workers may die before the job gives up.
    """

    kind: str
    address: str | None
    num_workers: Any
    devices_per_worker: int | None
    use_gpu: bool
    cpus_per_worker: float
    schedule_timeout_s: float
    resize_check_s: float
    health_timeout_s: float
    max_failures: int

    def __post_init__(self) -> None:
        if self.kind not in ("local", "ray"):
            raise UserError(f"cluster.kind must be local or ray; got {self.kind}.")
        between = self.num_workers if isinstance(self.num_workers, list) else [self.num_workers] * 2
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in between)
        if not (whole and len(between) == 2 and 1 <= between[0] <= between[1]):
            raise UserError(
                "cluster.num_workers must be at least 1, one number or the least and the most of "
                f"them; got {self.num_workers}. Set cluster.num_workers=2, or [1,4]."
            )
        self.least_workers, self.most_workers = between
        self.elastic = self.least_workers < self.most_workers
        require("cluster.schedule_timeout_s", self.schedule_timeout_s, least=0)
        require("cluster.resize_check_s", self.resize_check_s, above=0)
        require("cluster.health_timeout_s", self.health_timeout_s, above=0)
        require("cluster.cpus_per_worker", self.cpus_per_worker, above=0)
        require("cluster.max_failures", self.max_failures, least=0)
        named = re.fullmatch(
            r"local|auto|(ray://)?[^\s:/]+:\d+|(ray://)?\[.+\]:\d+", self.address or ""
        )
        if self.kind == "ray" and not named:
            raise UserError(
                "cluster.address must be host:port of a running Ray cluster, auto, or local to "
                f"start one here; got {self.address}. Set cluster.address=127.0.0.1:6379."
            )
        if self.kind == "local" and self.most_workers > 1:
            raise UserError(
                f"cluster.num_workers must be 1 with cluster=local; got {self.num_workers}. "
                f"Add cluster=ray_local for workers on this machine."
            )
        if self.devices_per_worker is not None:
            require("cluster.devices_per_worker", self.devices_per_worker, least=1)

    def check_batch(self, batch: int, replicas: int) -> None:
        """Refuses a batch that replicas could not share evenly, where their number is fixed.

        Raises:
            UserError: If `train.global_batch` does not divide by the number of replicas.
        """
        if batch % replicas and not self.elastic:
            raise UserError(
                f"train.global_batch must divide by the number of replicas ({replicas}); got "
                f"{batch}. Set train.global_batch={batch // replicas * replicas or replicas}."
            )


@dataclass
class StoreConfig:
    """Where MLflow keeps runs."""

    uri: str | None


@dataclass
class TrackingConfig(StoreConfig):
    """Where MLflow keeps the run, and what it is called there."""

    experiment: str
    run_name: str | None

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise UserError("tracking.experiment must be a name; got nothing. Give one.")


@dataclass
class Config:
    """The whole config of `python -m mtrec.launch`.

    Attributes:
        seed: The seed of everything that training draws.
        data: The `_target_` that loads it, that one's options, its split, both towers' features.
        task, model: See `TaskConfig` and `ModelConfig`.
        balance: A `mtrec.training.balance.Balancer`.
        optimizer: One for `tables`, one for `dense` weights.
        train: See `TrainConfig`.
        evaluate: See `EvaluateConfig`.
        cluster: See `ClusterConfig`.
        index: A `mtrec.serving.index.IndexBuilder`.
        answer: A `mtrec.serving.answers.pipeline.Answer`.
        tracking: See `TrackingConfig`.
    """

    seed: int
    data: dict[str, Any]
    task: TaskConfig
    model: ModelConfig
    balance: dict[str, Any]
    optimizer: dict[str, Any]
    train: TrainConfig
    evaluate: EvaluateConfig
    cluster: ClusterConfig
    index: dict[str, Any]
    answer: dict[str, Any]
    tracking: TrackingConfig

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # as NumPy takes it
            raise UserError(f"seed must be from 0 to {2**32 - 1}; got {self.seed}. Set seed=42.")
        if self.cluster.kind == "ray" or self.cluster.devices_per_worker is not None:
            replicas = self.cluster.most_workers * (self.cluster.devices_per_worker or 1)
            self.cluster.check_batch(self.train.global_batch, replicas)
        self.data = _typed_data(self.data)
        _check_repeats(self.data)
        for which in ("tables", "dense"):
            rate = self.optimizer[which]["learning_rate"]
            if not (isinstance(rate, int | float) and 0 < rate < float("inf")):
                raise UserError(
                    f"optimizer.{which}.learning_rate must be a finite number above 0; got {rate}. "
                    f"Set optimizer.{which}.learning_rate=0.01."
                )


@dataclass
class RecommendConfig:
    """The config of `python -m mtrec.recommend`."""

    run: str
    user_id: str
    k: int
    history: list[str] | None
    features: dict[str, Any]
    context: dict[str, Any]
    trusted: list[str]
    tracking: StoreConfig

    def __post_init__(self) -> None:
        if not self.user_id:
            raise UserError("user_id must be an id; got nothing. Write user_id=new for no user's.")
        require("k", self.k, least=1)


@dataclass
class TradeoffConfig:
    """What is traded, and how differences are tested; see `mtrec.reports.tradeoff`."""

    x: str
    y: str
    confidence: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            metric = getattr(self, name)
            if not re.fullmatch(r"test/[^/]+/[^/]+", metric):
                raise UserError(f"tradeoff.{name} must be test/<head>/<metric>; got {metric}.")
        require("tradeoff.confidence", self.confidence, above=0, below=1)
        require("tradeoff.resamples", self.resamples, least=1)


@dataclass
class CompareConfig:
    """The config of `python -m mtrec.compare`."""

    experiment: str
    baseline: str | None
    metrics: list[str]
    tradeoff: TradeoffConfig
    output: str
    tracking: StoreConfig

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise UserError("experiment must be a name; got nothing. Give one.")


def _typed_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data group, typed by the signatures of what loads and what splits it."""
    target = data.get("_target_")
    try:
        loader = get_object(str(target))
    except Exception as error:  # Hydra's, or whatever the user's own module raises
        raise UserError(
            f"data._target_ must name what returns a Dataset; got {target}: {said(error)}"
        ) from error
    only = Parameter.KEYWORD_ONLY
    nodes = [Parameter(n, only, annotation=dict) for n in ("split", "features")]
    nodes += [Parameter(n, only, annotation=bool, default=False) for n in ("infer", "repeats")]
    options = {name: value for name, value in data.items() if name != "_target_"}
    typed = _typed("data", options, parameters_of(loader) + nodes)
    takes = [p for f in (split, keep_ratings, *KINDS.values()) for p in parameters_of(f)]
    how = _typed("data.split", typed["split"], [p for p in takes if p.kind is only])
    return {"_target_": target, **typed, "split": how}


def _check_repeats(data: Mapping[str, Any]) -> None:
    kind = data["split"]["kind"]
    if data.get("repeats") and kind not in ("temporal", "leave_one_out"):
        raise UserError(
            "data.split.kind must be temporal or leave_one_out with data.repeats=true, or what "
            f"users take again would be known from later; got {kind}. Set data.split.kind=temporal."
        )


def parameters_of(function: Any) -> list[Parameter]:
    """What a function, or the constructor of a class, takes."""
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _typed(key: str, options: Mapping[str, Any], takes: list[Parameter]) -> dict[str, Any]:
    """Options by name, each as the parameter of that name takes it.

    Raises:
        UserError: If an option is no parameter, is of another type, or is lacking.
    """
    known = {parameter.name: parameter for parameter in takes}
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"Did you mean {key}.{near[0]}?" if near else "Leave it out."
            raise UserError(f"{key} must be given {', '.join(known)}; got {key}.{name}. {remedy}")
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in options:
            raise UserError(f"{key}.{name} must be given: pass +{key}.{name}=...")
    return {n: as_kind(known[n].annotation, value, f"{key}.{n}") for n, value in options.items()}


def as_kind(kind: Any, value: Any, key: str) -> Any:
    """A value as OmegaConf takes it for a field of that type, or a `UserError`: 1 may be a text."""
    if kind is Parameter.empty:
        return value
    kinds = set(get_args(kind)) if isinstance(kind, UnionType) else set()
    name = kind.__name__ if isinstance(kind, type) else kind
    if {str, list[str]} <= kinds:  # of which OmegaConf knows no union
        kind = list[str] if isinstance(value, list) else reduce(or_, kinds - {list[str]})
    node = OmegaConf.structured(make_dataclass("Node", [("value", kind)]))
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(node, {"value": value}))
    except OmegaConfBaseException as error:
        raise UserError(f"{key} must be of the type {name}; got {value!r}.") from error
    return typed.value


def conf_directory() -> Path:
    """The `conf/` that belongs to this package: in the wheel beside it, in a checkout above it."""
    inside = Path(__file__).resolve().parent / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"
