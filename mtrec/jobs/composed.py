"""The config of the main job without its command, for a notebook."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from mtrec.config import conf_directory
from mtrec.errors import UserError, said
from mtrec.jobs.mistakes import mistake_in, refuse_missing
from mtrec.jobs.schema import register
from mtrec.libraries import quiet_libraries


@contextmanager
def composed(overrides: Sequence[str], directory: Path) -> Iterator[DictConfig]:
    """The config that the command has with these overrides; meanwhile, Hydra says that it runs.

    Args:
        overrides: As on the command line.
        directory: The run directory.

    Raises:
        UserError: If an override is none, or one is missing that must be given.
    """
    quiet_libraries()
    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        try:
            found = compose("config", overrides=list(overrides), return_hydra_config=True)
        except HydraException as error:
            raise mistake_in(error, overrides) or UserError(said(error)) from error
        with open_dict(found):
            found.hydra.runtime.output_dir = str(directory)
        HydraConfig.instance().set_config(found)
        with open_dict(found):
            del found["hydra"]
        try:
            refuse_missing(found)
            yield found
        finally:
            HydraConfig.instance().cfg = None
