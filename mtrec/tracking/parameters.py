"""The parameters of a job as MLflow shows them: what can set it apart from other jobs."""

import re
from collections.abc import Mapping
from typing import Any

from mtrec.tracking.records import flatten

_TARGET = "._target_"
# What says nothing of what a job finds: where it is kept, and what only `train.select_by` reads.
_UNREAD = re.compile(r"tracking\..*|train\.resume|task\.select_by")
# What stands in the config twice, once by an interpolation, and the parameter that it repeats.
_REPEATS = (
    (re.compile(r"data\.features\..*\.(pooling.*)"), r"model.\1"),
    (re.compile(r"index\.(seed)"), r"\1"),
)


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """A resolved config as flat parameters, dotted names and text.

    A part is told under its own name by its class, `balance` as `Famo`, with the class's module if
    it is not one of mtrec's. Left out are the store and the name of the run, what a task would be
    selected by, and what only repeats another parameter, unless it was given another value.
    """
    told = {
        name.removesuffix(_TARGET): value.removeprefix("mtrec.") if _TARGET in name else value
        for name, value in flatten(config).items()
    }
    return {
        name: value
        for name, value in told.items()
        if not _UNREAD.fullmatch(name) and told.get(_repeated(name)) != value
    }


def _repeated(name: str) -> str:
    """The parameter that this one repeats; empty where it repeats none."""
    found = (repeats.fullmatch(name) for repeats, _ in _REPEATS)
    return next(
        (match.expand(other) for match, (_, other) in zip(found, _REPEATS, strict=True) if match),
        "",
    )
