"""Commands of mtrec in the process of the tests, which has imported the libraries."""

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra


def called(command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `python -m mtrec.<command> <arguments>` ends with and prints."""
    GlobalHydra.instance().clear()
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", [f"mtrec.{command}", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                importlib.import_module(f"mtrec.{command}").main()
            except SystemExit as ended:
                status = ended.code or 0
    assert isinstance(status, int)
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())
