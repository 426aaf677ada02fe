"""What Hydra and OmegaConf find wrong with a command line, as one sentence of ours."""

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from mtrec.errors import UserError, user_error

# What is not installed with mtrec: the config group's option, and the extra that brings it.
_EXTRAS = {"hydra/sweeper/optuna": ("experiment=search", "search")}
_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def refuse_flags(arguments: Sequence[str]) -> None:
    """Raises for a flag that no command has, or one without what belongs to it.

    Raises:
        UserError: Naming it.
    """
    parser = get_args_parser()

    def error(message: str) -> NoReturn:
        raise UserError(f"{message.replace('unrecognized arguments', 'there is no flag')}. {_SEE}")

    parser.error = error  # type: ignore[method-assign]
    flags: argparse.Namespace = parser.parse_args(list(arguments))
    chosen = [name for name in ("run", "multirun", "cfg", "info") if getattr(flags, name)]
    if len(chosen) > 1:
        both = " and ".join(f"--{name}" for name in chosen)
        raise UserError(f"a command must have one of {both}; got both. Leave one out.")
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve must stand beside --cfg; got it alone. Write --cfg job too.")


def refuse_missing(config: DictConfig) -> None:
    """Raises where an option that has no default was not given.

    Raises:
        UserError: Naming it.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} must be given: pass {missing[0]}=...")


_SEE = "--help lists what there is."


def mistake_in(error: BaseException, overrides: Sequence[str]) -> UserError | None:
    """The sentence that an exception of Hydra's stands for; None for what is no user's mistake.

    Args:
        error: What was raised while the config was composed.
        overrides: The command line's.
    """
    found = user_error(error)
    if found:
        return found
    chain = list(_chain(error))
    for each in chain:
        sentence = _sentence(each, overrides)
        if sentence:
            return UserError(sentence)
    if isinstance(chain[0], HydraException | OmegaConfBaseException):
        # What was taken away is missed wherever it is needed first.
        for override in overrides:
            if override.startswith("~"):
                return UserError(
                    "what ~ takes away must be what a job can do without; got "
                    f"{override}. Leave it out."
                )
        return UserError(f"{_one_line(chain[0])}. {_SEE}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What was at the bottom first: it knows most."""
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)
    yield error


def _sentence(error: BaseException, overrides: Sequence[str]) -> str:
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(error, overrides)
    if isinstance(error, ValidationError):
        return _wrong_kind(error, overrides)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return (
            f"an override must be key=value, such as train.epochs=5; got {error.override}. Quote "
            "it, if it has spaces, commas or brackets."
        )
    if isinstance(error, InstantiationException):
        return ""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        # The second is TensorFlow's, which need not have been imported.
        return (
            f"a job must fit the memory of its device; got: {_one_line(error)}. Lower "
            "train.global_batch or model.query.dim, or set train.encode_at_once=512."
        )
    if isinstance(error, ValueError) and str(error).startswith("No trials are completed"):
        return (
            "hydra.sweeper.n_trials must be at least 1; got fewer. Set hydra.sweeper.n_trials=20."
        )
    text = _one_line(error) if isinstance(error, HydraException) else ""
    for pattern, remedy in _COMPOSITION:
        found = re.search(pattern, text)
        if found:
            key = next(name for name in found.groups() if name)
            return remedy.format(key=key, got=_given(key, overrides), bare=key.lstrip("+~"))
    return ""


# What Hydra's own messages say, and what is said instead.
_COMPOSITION = (
    (
        r"Could not override '(.+?@.+?|.+?)'\. (?:No match in the defaults list|Did you mean)",
        "{key} must be chosen already to be changed, and is not; got {got}. Write +{got}.",
    ),
    (
        r"Could not append to config\. An item is already at '(.+?)'",
        "{key} is there already, so that nothing can be added; got {got}. Leave out the +.",
    ),
    (
        r"Could not delete from config\. '(.+?)' does not exist",
        "what ~ takes away must be there, and {key} is not; got {got}. Leave it out.",
    ),
    (
        r"Could not delete '(.+?)'\. No match",
        "what ~ takes away must be there, and {key} is not; got {got}. Leave it out.",
    ),
    (
        r"The value of '(.+?)' is",
        "{key} must have the value that ~ names, and has another; got {got}. Write ~{key}.",
    ),
    (
        r"(?:Sweep parameters|Ambiguous value for argument) '(.+?)'",
        "several values are for a sweep; got {key}. Add --multirun, put a list in brackets, or "
        "quote the value if it is one text.",
    ),
    (
        r"'(\S+?)' is specified more than once|Multiple values for (\S+)\.",
        "{key} must be chosen once; it is given twice. Leave one out.",
    ),
    (
        r"Additional config directory '(.+?)' not found",
        "--config-dir must be a directory; nothing is at {key}. Correct it.",
    ),
    (
        r"Primary config (?:directory|module).*?'(.+?)'",
        "--config-path must be a directory of configs; nothing is at {key}. Leave it out: "
        "--config-dir adds a directory.",
    ),
)


def _unknown_key(error: Any, overrides: Sequence[str]) -> str:
    """Names the nearest of the keys that there are."""
    node, full = error.parent_node, error.full_key or str(error.key)
    got = _given(full, overrides)
    named = got.partition("=")[0].lstrip("+~")
    full = named if named.startswith(f"{full}.") else full
    name = full.rsplit(".", 1)[-1]
    if not isinstance(node, DictConfig):
        return f"{full} must be an option that there is; got {got}. {_SEE}"
    where = full.removesuffix(name)
    if (
        where and node._content == {} and not name.startswith("_")
    ):  # what is empty takes names of the user's own
        return f"{where}{name} must be added with a +; got {got}. Write +{where}{name}=..."
    ours = not full.startswith("hydra.")
    every = [key for key in _keys(node._get_root(), ours=ours) if "._" not in key]
    everywhere = [key for key in every if not full.startswith(f"{key}.")]
    beside = [key for key in everywhere if key.startswith(where) and "." not in key[len(where) :]]
    near = difflib.get_close_matches(full, beside, n=1, cutoff=0.7)
    near = near or [key for key in everywhere if key.rsplit(".", 1)[-1] == name][:3]
    near = near or difflib.get_close_matches(full, everywhere, n=1, cutoff=0.7)
    if near:
        return f"{full} is no option; got {got}. Did you mean {' or '.join(near)}?"
    has = f"{where.rstrip('.')} has" if where else "there are"
    of = f"; {has} {', '.join(k[len(where) :] for k in beside)}" if beside else ""
    return f"{full} is no option{of}; got {got}. {_SEE}"


def _keys(node: Any, path: str = "", *, ours: bool) -> Iterator[str]:
    """All keys below a node, their paths joined by dots: ours, or those of Hydra."""
    content = node._content if isinstance(node, DictConfig) else None
    for key, value in content.items() if isinstance(content, dict) else ():
        if path or (key == "hydra") != ours:
            yield f"{path}{key!s}"
            yield from _keys(value, f"{path}{key!s}.", ours=ours)


def _wrong_kind(error: ValidationError, overrides: Sequence[str]) -> str:
    text = _one_line(error)
    found = re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text)
    key = str(error.full_key)
    if found:
        kind = _KINDS.get(found[2], found[2])
        return f"{key} must be {kind}; got {str(found[1]) or 'nothing'}. Give one."
    if found := re.search(r"Value '(.*)' is not a valid bool", text):
        return f"{key} must be true or false; got {found[1]}. Give one of both."
    if "not Optional" in text:
        return f"{key} must have a value; got null. Give one."
    given = _given(key, overrides).partition("=")[2]
    if "is not a ListConfig" in text:
        return f"{key} must be a list; got {given}. Write {key}=[{given}]."
    if re.search(r"Cannot assign \w+ to Dict", text):
        return f"{key} must have keys of its own; got {given}. Write +{key}.<key>=..."
    if found := re.search(r"Invalid type assigned: .* value: (.*)", text):
        return f"{key} must have keys of its own; got {found[1]}. Write {key}.<key>=..."
    return f"{key} must be of its own kind; got: {text}. {_SEE}"


def _missing_choice(error: MissingConfigException) -> str:
    missing = str(error.missing_cfg_file)
    if missing in _EXTRAS:
        needs, extra = _EXTRAS[missing]
        return (
            f"{needs} must have the extra {extra}, which is not installed. Run "
            f"pip install 'mtrec[{extra}]'."
        )
    group, _, option = missing.rpartition("/")
    choices = [choice for choice in error.options or () if not choice.startswith("schema")]
    if not choices:
        return (
            f"{group or '--config-name'} must be one that there is; nothing is called "
            f"{option or missing}. {_SEE}"
        )
    near = difflib.get_close_matches(option, choices, n=1, cutoff=0.6)
    mean = f" Did you mean {near[0]}?" if near else ""
    return f"{group} must be one of {', '.join(choices)}; got {option or 'nothing'}.{mean}"


def _given(key: str, overrides: Sequence[str]) -> str:
    """The override of a key as it was given."""
    names = {override.partition("=")[0].lstrip("+~"): override for override in overrides}
    about = [n for n in names if f"{n}.".startswith(f"{key}.") or f"{key}.".startswith(f"{n}.")]
    # balance.rate=3, rather than the balance=fixed that it stands beside.
    return names[max(about, key=len)] if about else key


def _one_line(error: BaseException) -> str:
    """What an error says, on one line, without OmegaConf's lists of where it was."""
    text = re.split(r"\n\s*(?:full_key|object_type|reference_type|Config search path)", str(error))
    return " ".join(text[0].split()).rstrip(".") or type(error).__name__


def unusable(error: OSError) -> UserError:
    """Why the run directory that Hydra was to make cannot be."""
    return UserError(
        f"hydra.run.dir must be a directory that can be made and written to; {error.filename} "
        f"cannot ({error.strerror}). Give another hydra.run.dir."
    )
