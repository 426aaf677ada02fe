"""A peer's own Python environment, made with venv and pip and kept."""

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from mtrec.errors import UserError

_MARK = "installed.json"


def python_of(name: str, requirements: Sequence[str], cache: Path) -> Path:
    """The interpreter of the environment that has these requirements, which is made if need be.

    Args:
        name: The peer.
        requirements: As pip takes them.
        cache: The folder of all such environments.

    Raises:
        UserError: If pip cannot install them.
    """
    said = json.dumps([list(requirements), sys.version])
    folder = cache / f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if (folder / _MARK).is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(requirements)} for {name} in {folder}", flush=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{name} must be installable: pip install {' '.join(requirements)} ended with "
            f"`{reason}`. Check pip's settings, or name other versions in peers.{name}."
        )
    (folder / _MARK).write_text(said)
    return python
