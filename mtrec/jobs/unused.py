"""Options that were asked for, of which nothing that was chosen takes notice.

An option of a `_target_` that its constructor lacks is refused by Hydra. What is left are nodes in
which one field decides which of the others are read.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from mtrec.config import ClusterConfig, Config, ModelConfig, SplitConfig
from mtrec.data.split import options_of
from mtrec.errors import UserError


class _Decided(NamedTuple):
    """By which field a node is decided, and the names of its fields that are read then."""

    by: str
    read: Callable[[Any], set[str]]


def _of_split(split: SplitConfig) -> set[str]:
    # A share of the ratings is drawn with the seed, whatever the kind.
    drawn = {"seed"} if split.rating_share < 1 else set()
    return {"kind", "rating_share", *options_of(split.kind), *drawn}


def _of_cluster(cluster: ClusterConfig) -> set[str]:
    if cluster.kind == "local":
        return {"kind", "num_workers", "devices_per_worker", "use_gpu"}
    return set(vars(cluster))


def _of_model(model: ModelConfig) -> set[str]:
    unread = set() if model.table_placement == "auto" else {"shard_above_mib"}
    return set(vars(model)) - unread


_NODES: dict[type, _Decided] = {
    SplitConfig: _Decided("kind", _of_split),
    ClusterConfig: _Decided("kind", _of_cluster),
    ModelConfig: _Decided("table_placement", _of_model),
}


def refuse_unused(config: Config, overrides: Sequence[str]) -> None:
    """Raises for the first option that the command line gives and the job would not read.

    Args:
        config: The composed config.
        overrides: The command line's, such as `data.split.fold=2`.

    Raises:
        UserError: Naming the option and what decides that it is not read.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_delete():
            continue
        node: Any = config
        path = override.key_or_group.split(".")
        for depth, name in enumerate(path):
            decided = _NODES.get(type(node))
            if decided and name in vars(node) and name not in decided.read(node):
                where = ".".join(path[:depth])
                raise UserError(
                    f"{where}.{name} must be left out with {where}.{decided.by}="
                    f"{getattr(node, decided.by)}, which takes no notice of it; got "
                    f"{override.input_line}. Leave it out, or change {where}.{decided.by}."
                )
            node = getattr(node, name, None)
