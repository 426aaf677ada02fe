"""The options of a `_target_`, typed by the signature of what it names."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter
from types import GenericAlias, UnionType
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object

from mtrec.config import as_kind, parameters_of
from mtrec.errors import UserError

_PLAIN = (bool, int, float, str, type(None))


def typed(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """A node whose plain options are as the parameters of their names take them.

    Args:
        key: The node's.
        node: A `_target_` and its options, or nodes by name.

    Raises:
        UserError: If an option is no parameter, or of another type.
    """
    takes = _parameters(node.get("_target_"))
    _refuse_unknown(key, node, takes)
    kinds = {name: _kind(each) for name, each in takes.items()}
    return {n: _option(f"{key}.{n}", kinds.get(n, Parameter.empty), v) for n, v in node.items()}


def _parameters(target: Any) -> Mapping[str, Parameter]:
    try:
        return {each.name: each for each in parameters_of(get_object(target))} if target else {}
    except (ImportError, ValueError):  # nothing of that name, of which Hydra says so; or built in
        return {}


def _refuse_unknown(key: str, node: Mapping[str, Any], takes: Mapping[str, Parameter]) -> None:
    if not takes or any(each.kind is Parameter.VAR_KEYWORD for each in takes.values()):
        return
    for name in node:
        if name not in takes and not name.startswith("_"):
            near = get_close_matches(name, takes, n=1)
            remedy = f"Did you mean {key}.{near[0]}?" if near else f"It has {', '.join(takes)}."
            raise UserError(
                f"{key}.{name} must be an option that its _target_ takes, and "
                f"{str(node['_target_']).rpartition('.')[2]} has none. {remedy}"
            )


def _kind(parameter: Parameter) -> Any:
    """What a parameter is annotated with, or else, as of Keras' optimizers, its default is."""
    default = parameter.default
    plain = parameter.annotation is Parameter.empty and isinstance(default, bool | float)
    return type(default) if plain else parameter.annotation


def _option(key: str, kind: Any, value: Any) -> Any:
    outer, inner = get_origin(kind), get_args(kind)
    if isinstance(value, Mapping):
        if outer is Mapping and {*get_args(inner[1]), inner[1]} & {*_PLAIN}:
            return {n: _option(f"{key}.{n}", inner[1], each) for n, each in value.items()}
        return typed(key, value)
    if outer is Sequence and inner[0] in _PLAIN:
        return as_kind(GenericAlias(list, inner), value, key)  # what OmegaConf has of that kind
    if kind in _PLAIN or (outer in (Union, UnionType) and set(inner) <= {*_PLAIN}):
        return as_kind(kind, value, key)
    anything = kind in (Any, Parameter.empty)
    if isinstance(kind, type) and not anything and isinstance(value, _PLAIN):
        raise UserError(f"{key} must be a {kind.__name__}; got {value}. Write {key}._target_=...")
    return value
