"""From a config to the objects it describes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from hydra.utils import get_object, instantiate

from mtrec.config import Config
from mtrec.data.batches import Batches
from mtrec.data.dataset import Dataset
from mtrec.data.negatives import Negatives
from mtrec.data.requests import CONTEXT
from mtrec.data.room import of_rows
from mtrec.distributed.sharded_tables import sharded_above
from mtrec.distributed.strategy import gpus
from mtrec.errors import UserError
from mtrec.heads.head import Head
from mtrec.heads.retrieval import with_taken
from mtrec.jobs.keys import in_keys, told_in_keys
from mtrec.jobs.typed import typed
from mtrec.model.recommender import Recommender
from mtrec.model.tower import Tower
from mtrec.serving.answers.pipeline import Answer
from mtrec.serving.index import IndexBuilder
from mtrec.training.balance import Balancer
from mtrec.training.optimizers import TableOptimizer
from mtrec.training.step import Optimizers


def data(config: Config, dataset: Dataset) -> Dataset:
    """The data, which says by which rows users have items, and how they are asked about."""
    read = (
        f.get("column", "")
        for group in config.data["features"]["query"].values()
        for f in group.values()
    )
    return replace(
        with_taken(dataset, _heads(config)),
        repeats=config.data.get("repeats", False),
        by_request=config.train.batch_of == "requests"
        or any(str(column).startswith(CONTEXT) for column in read),
    )


def _heads(config: Config) -> dict[str, Head]:
    """The heads; those of weight 0 are left out."""
    nodes = config.task.heads
    _require_classes("task.heads", nodes)
    return {n: _made(config, f"task.heads.{n}", nodes[n]) for n in config.task.active()}


def _require_classes(key: str, nodes: Mapping[str, Any]) -> None:
    """Refuses nodes that name no class: nothing would be made of their options."""
    for name, node in nodes.items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(
                f"{key}.{name} must name its class in {key}.{name}._target_; got {node}. Add it, "
                "or leave that out."
            )


def _made(config: Config, key: str, node: Mapping[str, Any], **given: Any) -> Any:
    """What the node of a key describes; what is wrong with it is told by keys."""
    with in_keys(config, key):
        return instantiate(typed(key, node), **given)


@told_in_keys("")
def check(config: Config) -> None:
    """Makes what needs no data, so that it refuses before data is read what it would after.

    Raises:
        UserError: If the constructor of a part does, or two parts do not fit.
    """
    if config.cluster.use_gpu and config.cluster.kind == "local":
        gpus(config.cluster.devices_per_worker)
    heads = _heads(config)
    selected = config.train.select_by
    if selected is not None and selected.split("/")[:-1] not in [["val", name] for name in heads]:
        raise UserError(
            f"train.select_by must be val/<head>/<metric> of a head that is trained, "
            f"{' or '.join(heads)}, or null; got {selected}. Correct it."
        )
    Recommender(**{side: _tower(config, side) for side in ("query", "candidate")}, heads=heads)
    largest_replicated(config)
    _shared_negatives(config, heads)
    _made(config, "balance", config.balance)
    optimizers(config, 1)
    index_builder(config)
    answer(config)


@told_in_keys("model")
def model(config: Config, dataset: Dataset, fit: np.ndarray) -> Recommender:
    """The model with fresh weights, fitted to the training rows; heads of weight 0 are left out."""
    heads = _heads(config)
    towers = {side: _tower(config, side) for side in ("query", "candidate")}
    recommender = Recommender(**towers, heads=heads)
    with sharded_above(largest_replicated(config)):
        return recommender.adapt(dataset, fit, seed=config.seed)


def _tower(config: Config, side: str) -> Tower:
    for group, nodes in config.data["features"][side].items():
        if nodes is None:
            key = f"data.features.{side}.{group}"
            raise UserError(f"{key} must name features; got null. Write ~{key} to do without.")
        _require_classes(f"data.features.{side}.{group}", nodes)
    features = _made(config, f"data.features.{side}", config.data["features"][side])
    sharing = _made(config, f"model.sharing.{side}", config.model.sharing[side])
    make = _made(config, f"model.{side}", getattr(config.model, side), _partial_=True)
    with in_keys(config, f"model.{side}"):
        return make(features=features, sharing=sharing)


def largest_replicated(config: Config) -> float:
    """The size in MiB above which a table is sharded."""
    how, target = config.model.table_placement, config.optimizer["tables"]["_target_"]
    optimizer = get_object(target)
    able = isinstance(optimizer, type) and issubclass(optimizer, TableOptimizer)
    if how == "sharded" and not able:
        raise UserError(
            "optimizer.tables must be a mtrec.training.optimizers.TableOptimizer with "
            f"model.table_placement=sharded; got {target}. Set optimizer=lazy_adam or "
            "model.table_placement=replicated."
        )
    if how == "sharded":
        return 0.0
    return config.model.shard_above_mib if how == "auto" and able else math.inf


@told_in_keys("train")
def batches(
    config: Config, dataset: Dataset, fit: np.ndarray, heads: Mapping[str, Head], num_replicas: int
) -> Batches:
    """The batches of the training rows.

    Raises:
        UserError: If two heads ask for different candidate pools, if an estimate of log Q is asked
            for that no loss reads, or the order of time where there is none.
    """
    ordered = config.train.chronological or config.train.batch_of == "requests"
    if ordered and np.ptp(of_rows(dataset.interactions["timestamp"], fit)) == 0:
        raise UserError(
            "train.chronological must be false, and train.batch_of users or rows, where all "
            "interactions have one time: nothing would ever be shown. Set "
            "train.chronological=false, or name a column in data.timestamp."
        )
    return Batches(
        dataset,
        fit,
        config.train,
        negatives=_shared_negatives(config, heads),
        num_replicas=num_replicas,
        seed=config.seed,
        # Heads share the items, as many as the one that asks for most.
        views=max(head.views for head in heads.values()),
        before=any(head.before for head in heads.values()),
    )


def _shared_negatives(config: Config, heads: Mapping[str, Head]) -> Negatives | None:
    """What fills the one pool that all heads which score against one share."""
    # A head of one's own may make its negatives itself.
    asked = {
        name: config.task.heads[name].get("negatives", head.negatives)
        for name, head in heads.items()
        if head.negatives is not None
    }
    if any(node != next(iter(asked.values())) for node in asked.values()):
        raise UserError(
            f"The heads {', '.join(asked)} must have the same negatives, because they share one "
            "pool. Write task.heads.<head>.negatives alike."
        )
    scoring = [heads[name] for name in asked]
    negatives = scoring[0].negatives if scoring else None
    rate = negatives.log_q_rate if negatives else None
    if rate is not None and not any(head.corrected for head in scoring):
        raise UserError(
            f"negatives.log_q_rate must be null where no loss is corrected for log Q; got {rate}. "
            f"Set log_q_correction of {', '.join(asked)}, or negatives.log_q_rate=null."
        )
    return negatives


@told_in_keys("balance")
def balancer(config: Config, steps_per_epoch: int) -> Balancer:
    """The balancer, over the tasks that have a weight."""
    weights = {name: config.task.weights[name] for name in config.task.active()}
    made: Balancer = _made(config, "balance", config.balance)
    made.adapt(weights, steps_per_epoch=steps_per_epoch, seed=config.seed)
    return made


def optimizers(config: Config, steps_per_epoch: int) -> Optimizers:
    """Both optimizers, their learning rates falling to 0 along a half cosine over the job."""
    steps = config.train.epochs * steps_per_epoch
    steps = min(steps, config.train.max_steps or steps)

    def make(which: str) -> keras.optimizers.Optimizer:
        node = config.optimizer[which]
        rate = keras.optimizers.schedules.CosineDecay(node["learning_rate"], steps)
        return _made(config, f"optimizer.{which}", node, learning_rate=rate)

    return Optimizers(tables=make("tables"), dense=make("dense"))


def index_builder(config: Config) -> IndexBuilder:
    """What builds the serving index."""
    return _made(config, "index", config.index)


def answer(config: Config) -> Answer:
    """What makes an answer."""
    _require_classes("answer.candidates", config.answer.get("candidates", {}))
    made: Answer = _made(config, "answer", config.answer, _convert_="all")
    return made
