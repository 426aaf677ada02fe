"""`data.infer=true`: what `mtrec.data.infer` proposes, as a part of the config."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from mtrec.config import conf_directory
from mtrec.data.files import Files
from mtrec.data.infer import Proposal, propose
from mtrec.data.infer_labels import Label
from mtrec.errors import UserError
from mtrec.jobs.keys import in_keys
from mtrec.jobs.schema import experiment_of
from mtrec.jobs.unused import asked_for

# Rows of each file that are looked at.
MOST_ROWS = 1_000_000
# What the losses of all heads beside retrieval weigh together before anything is learnt: as much
# as the ratings of MovieLens do in task=joint.
_WEIGHT = 0.25
_OPTIONS = (
    *("user_key", "item_key", "rating", "labels", "negative", "timestamp", "timestamp_format"),
    *("user_columns", "item_columns", "title", "bag_columns", "bag_separator"),
    *("context", "request", "repeats"),
)
_HEADS = {"rating": "rating", "binary": "binary", "log": "amount"}
# Where users take items again: what learns that, as in experiment=ta_feng, and what answers by it.
_AGAIN = {"retrieval": "softmax", "repeat": "repeat"}
_AGAIN_WEIGHT, _ANSWER = 0.5, "again"


class Inferred(NamedTuple):
    """The config with what was found in the data, and that as the YAML of an experiment."""

    config: DictConfig
    yaml: str


def heeded(composed: DictConfig) -> tuple[DictConfig, str | None]:
    """The config of a command with what its `data.infer` asks for, and that as YAML.

    The YAML is printed; it is None without `data.infer`.
    """
    if composed.data.get("infer") is not True:  # anything but false is refused with the config
        return composed, None
    hydra = HydraConfig.get()
    experiment = experiment_of(hydra.runtime.choices)
    asked = asked_for(hydra.overrides.task, experiment)
    found = inferred(composed, asked=asked, task_chosen=bool(experiment) or "task" in asked)
    print(found.yaml)
    return found.config, found.yaml


def inferred(config: DictConfig, *, asked: Collection[str], task_chosen: bool) -> Inferred:
    """Looks at the files of `data=table`, and sets what was not asked for.

    Args:
        config: The composed config.
        asked: The keys that the command line or an experiment gives: they stay.
        task_chosen: Whether the heads are given; otherwise they are what the labels ask for.

    Raises:
        UserError: Something must be said that cannot be guessed.
    """
    data = config.data
    given = {n: _plain(data[n]) for n in _OPTIONS if f"data.{n}" in asked and n in data}
    if config.train.batch_of == "users" and "train.batch_of" in asked:
        given["context"] = []  # a user is no moment
    with in_keys({"data": _plain(data)}, "data"):
        tables = {
            name: Files.of(paths, option=name).whole(most_rows=MOST_ROWS).rows
            for name in ("interactions", "users", "items")
            if (paths := _plain(data[name])) is not None
        }
        log = tables.pop("interactions")
        found = propose(log, **{"users": None, "items": None, **tables}, given=given)
    chosen = {label.name: label for label in found.labels}
    if task_chosen:
        chosen = _chosen(config, found)
    vectors = {side: data[f"{side}_vectors"] for side in ("user", "item")}
    part = {"data": _without(_data(found, chosen, vectors), asked, "data.")}
    again = bool(found.options.get("repeats"))
    if again:
        part["data"]["split"] = _without({"kind": "temporal"}, asked, "data.split.")
    if again or part["data"].get("features", {}).get("query", {}).get("shared"):
        batch_of = "requests" if found.options["timestamp"] else "rows"
        part["train"] = _without({"batch_of": batch_of}, asked, "train.")
    heads: dict[str, str] = {}
    if not task_chosen:
        part["task"] = _without(_task(found), asked, "task.")
        heads = {name: _HEADS[label.head] for name, label in chosen.items()}
        heads |= {n: h for n, h in _AGAIN.items() if again and f"head@task.heads.{n}" not in asked}
    answer = _ANSWER if again and not task_chosen and not _given(asked, "answer") else None
    merged = config.copy()
    with open_dict(merged):
        if not task_chosen:
            _choose_heads(merged, heads, asked)
        if answer:
            merged.answer = _composed("answer", answer)
        merged.merge_with(part)
    return Inferred(merged, _yaml(part, config, found, heads, answer))


def _given(asked: Collection[str], group: str) -> bool:
    """Whether an option of a group, or which it is, was asked for."""
    return any(key.split(".")[0] == group for key in asked)


def _composed(group: str, option: str) -> Any:
    """The node of a group's option, with the options that it is made of."""
    with ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():  # as it is in a command
            folder = initialize_config_dir(str(conf_directory()), version_base="1.3")
            stack.enter_context(folder)
        config = compose(overrides=[f"+{group}={option}"])
    return OmegaConf.create(_plain(config[group]))


def _choose_heads(config: DictConfig, heads: Mapping[str, str], asked: Collection[str]) -> None:
    """Puts these heads, given by the names of their files, in the place of those not asked for."""
    for name in set(config.task.heads) - {"retrieval", *heads}:
        if f"head@task.heads.{name}" not in asked:
            del config.task.heads[name], config.task.weights[name]
    for name, file in heads.items():
        node, before = _composed("head", file), config.task.heads.get(name, {})
        if name == "retrieval":  # of another loss, but for what was asked for
            path = f"task.heads.{name}."
            given = {key.removeprefix(path) for key in asked if key.startswith(path)}
            before = OmegaConf.create({})
            for key in given:
                value = OmegaConf.select(config.task.heads[name], key)
                OmegaConf.update(before, key, value, force_add=True)
        config.task.heads[name] = OmegaConf.merge(node, before)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _chosen(config: DictConfig, found: Proposal) -> dict[str, Label]:
    """The label of each given head that learns one, by the head's name."""
    columns = {label.column: label for label in found.labels}
    if found.options["rating"]:
        columns["rating"] = columns[found.options["rating"]]
    chosen = {}
    for name, node in config.task.heads.items():
        label = node.get("label")
        if label is None or "negatives" in node or not config.task.weights.get(name):
            continue
        if label not in columns:
            raise UserError(
                f"task.heads.{name}.label must be a label of the interactions; got {label}, and "
                f"what looks like one is {', '.join(columns) or 'no column'}. Set "
                f"{'data.rating' if label == 'rating' else 'data.labels'}, or leave task out to "
                "have the heads inferred."
            )
        chosen[name] = columns[label]
    return chosen


def _data(
    found: Proposal, chosen: Mapping[str, Label], vectors: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The data group: options, and the features of the heads that learn a label."""
    columns = {label.column for label in chosen.values()} | {found.positive}
    options = {**found.options}
    options["labels"] = [name for name in found.options["labels"] if name in columns]
    query: dict[str, Any] = {}
    candidate: dict[str, Any] = {}
    if found.features["request"]:
        query["shared"] = found.features["request"]
    sides: dict[str, dict[str, Any]] = {
        side: {name: {"_target_": "mtrec.Vectors", "column": name} for name in vectors[side]}
        for side in ("user", "item")
    }
    for head, label in chosen.items():
        name = "rating" if label.column == found.options["rating"] else label.column
        rated = {"_target_": "mtrec.LabelledHistory", "label": name, "prior": 5.0}
        user_id = {"_target_": "mtrec.Categorical", "column": "${data.user_key}", "dropout": 0.0}
        item_id = {"_target_": "mtrec.Categorical", "column": "${data.item_key}"}
        query[head] = {"rated": rated} if label.head != "log" else {}
        query[head] |= {"user_id": user_id, **found.features["user"], **sides["user"]}
        candidate[head] = {"item_id": item_id, **found.features["item"], **sides["item"]}
    return {**options, "features": {"query": query, "candidate": candidate}}


def _task(found: Proposal) -> dict[str, Any]:
    """Labels and weights of the heads; a head costs its weight times its label's cost at first."""
    heads: dict[str, Any] = {}
    weights = {"retrieval": 1.0}
    if found.positive:
        heads["retrieval"] = {"label": found.positive, "at_least": 1.0}
    if found.options.get("repeats"):
        weights["repeat"] = _AGAIN_WEIGHT
    for label in found.labels:
        weights[label.name] = float(f"{_WEIGHT / len(found.labels) / label.cost:.2g}")
        heads[label.name] = _label_node(found, label)
        if label.column == found.positive and label.at_least is not None:
            heads["retrieval"]["at_least"] = label.at_least
    return {"heads": heads, "weights": weights}


def _label_node(found: Proposal, label: Label) -> dict[str, Any]:
    node = {"label": "rating" if label.column == found.options["rating"] else label.column}
    return node if label.at_least is None else {**node, "at_least": label.at_least}


def _without(part: Mapping[str, Any], asked: Collection[str], path: str) -> dict[str, Any]:
    """What of a part of the config was not asked for otherwise."""
    kept: dict[str, Any] = {}
    for name, value in part.items():
        key = f"{path}{name}"
        if key in asked or f"head@{key}" in asked:
            continue
        kept[name] = _without(value, asked, f"{key}.") if isinstance(value, dict) else value
    return kept


def _yaml(
    part: Mapping[str, Any],
    config: DictConfig,
    found: Proposal,
    heads: Mapping[str, str],
    answer: str | None,
) -> str:
    """The part as an experiment, which needs no inference any more."""
    given = {n: _plain(config.data[n]) for n in ("interactions", "users", "items")}
    files = {name: _absolute(paths) for name, paths in given.items() if paths}
    bases = {"override /data": "table"}
    bases |= {"override /task": "retrieval"} if "task" in part else {}
    bases |= {"override /answer": answer} if answer else {}
    chosen = {f"/head@task.heads.{n}": file for n, file in heads.items() if n != "retrieval"}
    if "retrieval" in heads:
        bases["override /head@task.heads.retrieval"] = heads["retrieval"]
    # Hydra wants those that override last.
    defaults = [*({group: option} for group, option in (chosen | bases).items()), "_self_"]
    whole = {"defaults": defaults, **part, "data": files | part["data"]}
    text = OmegaConf.to_yaml(OmegaConf.create(whole))
    unsure = "".join(f"#   {sentence}\n" for sentence in found.unsure)
    about = f"# Unsure:\n{unsure}" if unsure else ""
    return f"# @package _global_\n# Inferred from {config.data.interactions}.\n{about}{text}"


def _absolute(paths: str | list[str]) -> str | list[str]:
    """Paths that mean the same from any working directory; an address already does."""
    if isinstance(paths, list):
        return [str(_absolute(path)) for path in paths]
    return paths if "://" in paths else str(Path(paths).expanduser().absolute())
