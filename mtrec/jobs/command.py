"""What every `python -m mtrec.<command>` shares: its config, and how it fails."""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from mtrec.config import conf_directory
from mtrec.errors import user_error
from mtrec.jobs.schema import register
from mtrec.libraries import quiet_libraries


def command(
    config_name: str, *, folder: str = "", typed: bool = True
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Makes a Hydra command of a function over the typed config.

    A `UserError` is printed as one sentence and ends the command with status 1. What the function
    returns is what a sweeper that searches hears of the job.

    Args:
        config_name: The YAML file that the command composes.
        folder: The folder of `conf/` that holds it.
        typed: Whether the function takes the config as objects of its schema, or as composed.
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
        return hydra.main(
            version_base="1.3", config_path=str(conf_directory() / folder), config_name=config_name
        )(task)

    return decorate


def fail(message: str) -> None:
    """Prints one sentence on stderr and ends the command with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
