"""The config's keys in place of the arguments that an error of the library names.

The library knows no config: its errors write the arguments they are about in backticks, dotted
where an argument is inside of another, such as `heads.rating.label`. What they advise to take
instead, such as `mtrec.load_synthetic`, becomes the option that names it, `data=synthetic`.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar, cast

from mtrec.config import Config, conf_directory
from mtrec.errors import UserError, user_error

P = ParamSpec("P")
R = TypeVar("R")

_ARGUMENT = re.compile(r"`([\w.]+)`")
# Hydra's last line, where what a node names could not be made.
_NODE = re.compile(r"^full_key: ([\w.]+)$", re.MULTILINE)


@contextmanager
def in_keys(config: Config | Mapping[str, Any], node: str = "") -> Iterator[None]:
    """Raises a `UserError` from within anew, with keys for the arguments that it names.

    Args:
        config: The config.
        node: The key of what is made of the config here, where its arguments are looked for first.
    """
    try:
        yield
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        inner = _NODE.search(str(error))
        keys = set(_keys(config if isinstance(config, Mapping) else asdict(config)))
        told = _told(str(mistake), keys, f"{node}.{inner[1]}" if inner else node)
        raise mistake if told == str(mistake) else UserError(told) from error


def told_in_keys(node: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function whose first argument is the config with `in_keys`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            with in_keys(cast(Config, args[0]), node):
                return function(*args, **kwargs)

        return told

    return decorate


def _told(message: str, keys: set[str], node: str) -> str:
    def key(found: re.Match[str]) -> str:
        name = found[1]
        told = _option(name) if name.startswith("mtrec.") else _key(name, keys, node)
        return told or found[0]

    return _ARGUMENT.sub(key, message)


def _key(argument: str, keys: set[str], node: str) -> str | None:
    """The key of an argument: in the node or one around it, or else the topmost so called."""
    while node:
        if f"{node}.{argument}" in keys:
            return f"{node}.{argument}"
        node = node.rpartition(".")[0]
    called = [key for key in keys if f".{key}".endswith(f".{argument}")]
    depth = min((key.count(".") for key in called), default=0)
    topmost = [key for key in called if key.count(".") == depth]
    if len(topmost) == 1:
        return topmost[0]
    around, _, last = argument.rpartition(".")
    outer = _key(around, keys, "") if around else None
    return f"{outer}.{last}" if outer else None


def _option(target: str) -> str | None:
    """The option of `conf/` that names a target first, but for parts of heads, which have none."""
    for file in sorted(conf_directory().rglob("*.yaml")):
        named = re.search(r"_target_: (\S+)", file.read_text("utf-8"))
        group = file.relative_to(conf_directory()).parent.as_posix()
        if named and named[1] == target and group not in ("head", "negatives"):
            return f"{group}={file.stem}"
    return None


def _keys(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a config, those of nodes too."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{path}{name}"
        yield from _keys(value, f"{path}{name}.")
