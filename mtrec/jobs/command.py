"""What every `python -m mtrec.<command>` shares: its config, and how it fails."""

import functools
import re
import sys
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from mtrec.config import conf_directory
from mtrec.errors import user_error
from mtrec.jobs.schema import register
from mtrec.libraries import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console


def command(
    config_name: str, *, folder: str = "", typed: bool = True, texts: Container[str] = ()
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Makes a Hydra command of a function over the typed config.

    A `UserError` is printed as one sentence and ends the command with status 1. What the function
    returns is what a sweeper that searches hears of the job.

    Args:
        config_name: The YAML file that the command composes.
        folder: The folder of `conf/` that holds it.
        typed: Whether the function takes the config as objects of its schema, or as composed.
        texts: Options whose values are taken as they stand on the command line; see `as_text`.
    """

    def decorate(function: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            quiet_libraries()
            try:
                return function(OmegaConf.to_object(config) if typed else config)
            except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
                missing = re.search(r"mandatory value: (\S+)", str(error))
                key = missing.group(1) if missing else error.full_key
                fail(f"{key} must be given: pass {key}=...")
            except Exception as error:
                mistake = user_error(error)
                if mistake is None:
                    raise
                fail(str(mistake))

        register()
        main = hydra.main(
            version_base="1.3", config_path=str(conf_directory() / folder), config_name=config_name
        )(task)

        @functools.wraps(function)
        def as_typed() -> None:
            sys.argv[1:] = [as_text(argument, texts) for argument in sys.argv[1:]]
            main()

        return as_typed

    return decorate


def as_text(argument: str, texts: Container[str]) -> str:
    """An argument of the command line, the value of an option of `texts` being put in quotes.

    Without them Hydra takes the id 1.10 for the number 1.1, and many a letter for a mistake. What
    stands in quotes stays as it is.
    """
    name, _, value = argument.partition("=")
    if name not in texts or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
        return argument
    # Hydra halves backslashes before a quote alone.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), value)
    escaped = escaped.replace("${", r"\${")
    return f"{name}='{escaped}'"


def console() -> "Console":
    """What commands print to: text as it is, since a title such as [rec] is no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Prints one sentence on stderr and ends the command with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
