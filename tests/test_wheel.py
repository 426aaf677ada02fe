"""The wheel carries its config and runs from any directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_composes_the_main_job_from_any_directory(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere.mkdir()
    code = (
        "import mtrec.launch, sys\n"
        f"assert mtrec.__file__.startswith({str(unpacked)!r}), mtrec.__file__\n"
        "sys.argv = ['mtrec.launch', 'task=rating', 'experiment=tradeoff', '--cfg', 'job']\n"
        "mtrec.launch.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "variant: 100k" in done.stdout
    shipped = {path.relative_to(unpacked / "mtrec") for path in unpacked.rglob("conf/**/*.yaml")}
    assert shipped == {path.relative_to(ROOT) for path in ROOT.glob("conf/**/*.yaml")}
