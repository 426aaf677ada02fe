"""`mtrec.jobs.build.check` in a process of its own, for one that must not import TensorFlow yet."""

import subprocess
import sys
from dataclasses import asdict
from typing import cast

from omegaconf import OmegaConf

from mtrec.config import Config
from mtrec.errors import UserError, user_error

# What the other process ends with where it refuses the config, and says why on its output.
_REFUSED = 3


def check(config: Config) -> None:
    """See `mtrec.jobs.build.check`.

    Raises:
        UserError: Likewise.
    """
    ended = subprocess.run(
        [sys.executable, "-c", "from mtrec.jobs import apart; apart.main()", *sys.path],
        input=OmegaConf.to_yaml(OmegaConf.create(asdict(config))),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode == _REFUSED:
        raise UserError(ended.stdout)
    if ended.returncode:
        raise RuntimeError(f"the check of the config ended with {ended.returncode}")


def main() -> None:
    """Checks the config that is given as YAML, with this process's arguments as its `sys.path`."""
    sys.path[:] = sys.argv[1:]
    from mtrec.libraries import import_tensorflow, quiet_libraries

    quiet_libraries()
    import_tensorflow()
    from mtrec.jobs import build

    typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(sys.stdin.read()))
    try:
        build.check(cast(Config, OmegaConf.to_object(typed)))
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        print(mistake, end="")
        sys.exit(_REFUSED)
