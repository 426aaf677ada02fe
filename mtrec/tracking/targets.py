"""What a config that was read from a run directory may instantiate.

Whoever can write a `config.yaml`, or the MLflow tag that leads to one, must not choose what runs.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from mtrec.config import conf_directory
from mtrec.errors import UserError


def check_targets(config: Any, *, source: Path, trusted: Sequence[str]) -> None:
    """Raises unless every `_target_` may be trusted.

    Those are what mtrec's own `conf/` names, the classes of mtrec, and what lies in a package that
    the command names. A name is followed to the module that made its object, because `json` is
    within reach of every module that imports it. Nothing else is imported.

    Args:
        config: What was read, of dictionaries and lists.
        source: Where it was read from, for the message.
        trusted: The packages that the command names.

    Raises:
        UserError: With the key and the name of the first that may not.
    """
    known = _named_by_conf()
    for key, target in _targets(config):
        if target not in known and not _may_run(target, trusted):
            raise UserError(
                f"{source} must name classes of mtrec, or of packages that the command trusts by "
                f"name; got {key}: {target}. If you trust it, name its package in `trusted`, or "
                "give mtrec.launch the whole command that began the job; or else do not use this "
                "directory."
            )


def _may_run(target: Any, trusted: Sequence[str]) -> bool:
    if not isinstance(target, str) or not _within(target, ["mtrec", *trusted]):
        return False
    try:
        found = get_object(target)
    except Exception:  # Hydra's error, or whatever the user's own module raises
        return False
    made_in = str(getattr(found, "__module__", None))
    return _within(made_in, trusted) or (isinstance(found, type) and _within(made_in, ["mtrec"]))


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _named_by_conf() -> set[str]:
    files = conf_directory().rglob("*.yaml")
    return {t for f in files for t in re.findall(r"_target_:\s*([\w.]+)", f.read_text("utf-8"))}


def _targets(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{key}.{name}".lstrip(".")
            if name == "_target_":
                yield path, inner
            yield from _targets(inner, path)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _targets(inner, f"{key}.{place}")
