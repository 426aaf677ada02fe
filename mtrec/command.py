"""What every `python -m mtrec.<command>` shares: its config, and how it fails."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from mtrec.config import conf_directory, register
from mtrec.errors import UserError


def command(config_name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Makes a Hydra command of a function over the typed config.

    A `UserError` is printed as one sentence and ends the command with status 1.

    Args:
        config_name: The YAML file of `conf/` that the command composes.
    """

    def decorate(function: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def task(config: DictConfig) -> None:
            quiet_libraries()
            try:
                function(OmegaConf.to_object(config))
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)

        register()
        return hydra.main(
            version_base="1.3", config_path=str(conf_directory()), config_name=config_name
        )(task)

    return decorate


def quiet_libraries() -> None:
    """Silences the start-up chatter of TensorFlow; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
