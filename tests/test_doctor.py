"""The doctor finds what would stop a job, and says what to do."""

import os
import subprocess
import sys

import pytest

from mtrec import doctor
from mtrec.errors import UserError


def test_every_check_passes_here_and_the_status_is_zero(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mtrec.doctor"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 7


def test_legacy_keras_fails_the_command_with_a_remedy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mtrec.doctor"],
        cwd=tmp_path,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "failed  keras: TF_USE_LEGACY_KERAS must not be set to 1. Unset it." in done.stdout


def test_another_version_than_required_is_named(monkeypatch):
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda n: "2.21.0" if n == "tensorflow" else real(n)
    )
    with pytest.raises(UserError, match=r"tensorflow must be ~=2\.20\.0; got 2\.21\.0"):
        doctor.versions()


def test_a_place_that_is_a_file_is_not_writable(tmp_path):
    (tmp_path / "outputs").write_text("")
    with pytest.raises(UserError, match="must be writable"):
        doctor.writable(tmp_path / "outputs")


def test_a_server_that_does_not_answer_fails():
    with pytest.raises(UserError, match=r"MLflow must answer at http://127\.0\.0\.1:9 "):
        doctor.store("http://127.0.0.1:9")
