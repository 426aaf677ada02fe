"""Options that were asked for, of which nothing that was chosen takes notice.

An option of a `_target_` that its constructor lacks is refused by Hydra. What is left are nodes in
which one field decides which of the others are read.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from mtrec.config import Config
from mtrec.data.split import options_of
from mtrec.errors import UserError


class _Decided(NamedTuple):
    """By which field a node is decided, and the names of its fields that are read then."""

    by: str
    read: Callable[[Mapping[str, Any]], set[str]]


def _of_split(split: Mapping[str, Any]) -> set[str]:
    # A share of the ratings is drawn with the seed, whatever the kind.
    drawn = {"seed"} if split["rating_share"] < 1 else set()
    return {"kind", "rating_share", *options_of(split["kind"]), *drawn}


def _of_cluster(cluster: Mapping[str, Any]) -> set[str]:
    if cluster["kind"] == "local":
        return {"kind", "num_workers", "devices_per_worker", "use_gpu"}
    elastic = isinstance(cluster["num_workers"], list)
    return set(cluster) - (set() if elastic else {"resize_check_s"})


def _of_model(model: Mapping[str, Any]) -> set[str]:
    return set(model) - (set() if model["table_placement"] == "auto" else {"shard_above_mib"})


def _of_train(train: Mapping[str, Any]) -> set[str]:
    # What came before a request is strictly earlier anyhow.
    return set(train) - ({"chronological"} if train["batch_of"] == "requests" else set())


def _needing(by: str, unread: str) -> _Decided:
    """That `unread` is not read where `by` is null or empty."""
    return _Decided(by, lambda node: set(node) - (set() if node[by] else {unread}))


# By key, or by what the node makes.
_NODES = {
    "data.split": (_Decided("kind", _of_split),),
    "cluster": (_Decided("kind", _of_cluster),),
    "model": (_Decided("table_placement", _of_model),),
    "train": (_Decided("batch_of", _of_train),),
    "mtrec.Retrieval": (_needing("label", "at_least"),),
    "mtrec.Arrange": (_needing("at_most", "of"),),
    "mtrec.load_table": (
        _needing("rating", "rating_scale"),
        _needing("timestamp", "timestamp_format"),
        _needing("bag_columns", "bag_separator"),
    ),
}


# What answers with a head that ranks items.
_ANSWERING = ("index", "answer")


def _may_rank(config: Config) -> bool:
    """Whether a head may rank, which of mtrec's own those with negatives do, and others may."""
    nodes = [config.task.heads[name] for name in config.task.active()]
    return any("negatives" in n or not n["_target_"].startswith("mtrec.") for n in nodes)


def _fields(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, dict) else vars(node) if is_dataclass(node) else {}


def refuse_unused(
    config: Config, overrides: Sequence[str], experiment: Mapping[str, Any] | None = None
) -> None:
    """Raises for the first option that somebody gives and the job would not read.

    Args:
        config: The composed config.
        overrides: The command line's, such as `data.split.fold=2`.
        experiment: What the chosen experiment gives. Where the command line decides otherwise, its
            options may stay unread.

    Raises:
        UserError: Naming the option and what decides that it is not read.
    """
    given = {key: line for key, line in _given(overrides) if not line.startswith("~")}
    for key, line in given.items():
        _refuse(config, key, line, decided_elsewhere=())
    for key, value in _leaves(experiment or {}):
        _refuse(config, key, f"{key}={value} of the experiment", decided_elsewhere=given)


def asked_for(overrides: Sequence[str], experiment: Mapping[str, Any]) -> set[str]:
    """The keys that the command line or the chosen experiment decides, deleted ones among them."""
    return {key for key, _ in _given(overrides)} | {key for key, _ in _leaves(experiment)}


def _given(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and text of each override; the key of a group in a package is `group@package`."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        package = f"@{override.package}" if override.package else ""
        yield f"{override.key_or_group}{package}", str(override.input_line)


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _refuse(config: Config, key: str, line: str, *, decided_elsewhere: Collection[str]) -> None:
    """Raises if the option `key` is not read, unless what decides that is given elsewhere."""
    node: Any = config
    path = key.split(".")
    if path[0] in _ANSWERING and not _may_rank(config):
        if any(given.startswith("task") for given in decided_elsewhere):
            return
        raise UserError(
            f"{path[0]} must be left out where no head retrieves, which takes no notice of it; got "
            f"{line}. Leave it out, or set task=joint or task=retrieval."
        )
    for depth, name in enumerate(path):
        where, fields = ".".join(path[:depth]), _fields(node)
        for decided in _NODES.get(where, _NODES.get(fields.get("_target_", ""), ())):
            if name not in fields or name in decided.read(fields):
                continue
            if f"{where}.{decided.by}" in decided_elsewhere:
                return
            value = fields[decided.by]
            raise UserError(
                f"{where}.{name} must be left out with {where}.{decided.by}="
                f"{'null' if value is None else value}, which takes no notice of it; got {line}. "
                f"Leave it out, or change {where}.{decided.by}."
            )
        node = fields.get(name)
