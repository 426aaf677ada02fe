"""The doctor finds what would stop a job, and says what to do."""

import os
import subprocess
import sys

import pytest
from small_config import config_of

from mtrec import doctor
from mtrec.errors import UserError
from mtrec.jobs.doctor_config import DiskConfig

ROOMY = DiskConfig(warn_gib=0, fail_gib=0)


def doctor_command(cwd, *overrides, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mtrec.doctor", *overrides],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def levels(done):
    return {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}


def test_no_check_fails_here_and_the_status_is_zero(tmp_path):
    done = doctor_command(tmp_path, "disk.warn_gib=0", "disk.fail_gib=0")
    assert done.returncode == 0, done.stdout + done.stderr
    found = levels(done)
    # That this host's name leads to itself alone is worth a warning, and depends on the host.
    assert found.pop("port") in ("ok", "warning")
    assert found.pop("devices") in ("ok", "warning")
    assert found == dict.fromkeys(
        ("versions", "scann", "keras", "outputs", "cache", "mlflow"), "ok"
    )


def test_what_is_wrong_with_keras_and_the_disk_fails_the_command_with_a_remedy(tmp_path):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "abacus"}')
    done = doctor_command(
        tmp_path, "disk.warn_gib=1e9", "disk.fail_gib=1e9", KERAS_HOME=str(tmp_path / ".keras")
    )
    assert done.returncode == 1
    assert "Keras must load; got ValueError: Unable to import backend : abacus" in done.stdout
    found = levels(done)
    assert (found["keras"], found["outputs"]) == ("failed", "failed")


def test_legacy_keras_fails_with_a_remedy(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(UserError, match=r"TF_USE_LEGACY_KERAS must not be set to 1\. Unset it"):
        doctor.keras_three()


@pytest.mark.parametrize(
    ("facts", "check", "sentence"),
    [
        ({"keras": "2.15.0", "backend": "tensorflow"}, "keras_three", "must be version 3; got 2"),
        ({"keras_error": "ImportError: no"}, "keras_three", "Keras must load; got ImportError"),
        ({"keras": "3.15.0", "backend": "jax"}, "keras_three", "must be tensorflow; got jax"),
        ({"keras": "3.15.0"}, "scann", "ScaNN must load beside TensorFlow; got undefined symbol"),
    ],
)
def test_libraries_that_do_not_load_are_named(monkeypatch, facts, check, sentence):
    monkeypatch.setattr(doctor, "loaded", lambda: {"error": "undefined symbol", **facts})
    with pytest.raises(UserError, match=sentence):
        getattr(doctor, check)()


def test_the_last_words_of_a_process_that_cannot_load_the_libraries_are_kept(monkeypatch):
    monkeypatch.setattr(doctor, "_LOAD", "print('{\"gpus\": 1}'); import nothing_like_it")
    doctor.loaded.cache_clear()
    facts = doctor.loaded()
    doctor.loaded.cache_clear()
    assert facts["gpus"] == 1
    assert facts["error"] == "ModuleNotFoundError: No module named 'nothing_like_it'"


def test_gpus_that_tensorflow_does_not_see_are_a_warning_and_fail_where_they_are_to_train(
    monkeypatch,
):
    cpus, gpus = config_of().cluster, config_of("cluster.use_gpu=true").cluster
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor.nodes, "gpus", lambda: ["NVIDIA L4, 23034 MiB, 22563 MiB free"])
    monkeypatch.setattr(doctor, "loaded", lambda: {"gpus": 1})
    assert doctor.devices(cpus).level == doctor.devices(gpus).level == "ok"
    assert "1 GPUs; NVIDIA L4, 23034 MiB, 22563 MiB free" in doctor.devices(cpus).text
    monkeypatch.setattr(doctor, "loaded", lambda: {"gpus": 0})
    assert doctor.devices(cpus).level == "warning"
    assert "install mtrec[gpu]" in doctor.devices(cpus).text
    with pytest.raises(UserError, match=r"needs 1 GPUs that TensorFlow sees; got .* 0 GPUs"):
        doctor.devices(gpus)


def test_a_host_name_that_leads_to_itself_alone_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.socket, "gethostbyname", lambda name: "127.0.0.1")
    assert doctor.free_port().level == "warning"


def test_little_space_is_a_warning_and_less_fails(tmp_path):
    assert doctor.writable(tmp_path, ROOMY).level == "ok"
    assert doctor.writable(tmp_path, DiskConfig(warn_gib=1e9, fail_gib=0)).level == "warning"
    with pytest.raises(UserError, match=r"must have disk\.fail_gib=1e\+09 GiB free; got "):
        doctor.writable(tmp_path, DiskConfig(warn_gib=1e9, fail_gib=1e9))


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
        doctor.writable(tmp_path / "outputs", ROOMY)


def test_a_server_that_does_not_answer_fails():
    with pytest.raises(UserError, match=r"MLflow must answer at http://127\.0\.0\.1:9 "):
        doctor.store("http://127.0.0.1:9")
