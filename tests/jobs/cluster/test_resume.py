"""A job without Ray goes on from where it was."""

import os
import shutil
import signal

import pytest
from jobs import Job, ended, logged, mlflow_runs, weights

EPOCHS = "train.epochs=20"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def uninterrupted(workplace):
    job = Job(workplace, EPOCHS)
    assert job.end() == 0, job.text
    return workplace / "run"


@pytest.fixture(scope="module")
def preempted(tmp_path_factory):
    """A job that got SIGTERM in its third epoch: where it ran, and the job."""
    cwd = tmp_path_factory.mktemp("preempted")
    job = Job(cwd, EPOCHS)
    assert job.follow(until="epoch +2/"), job.text
    job.kill("driver", signal.SIGTERM)
    job.follow()
    return cwd, job


def test_sigterm_saves_and_says_how_to_go_on(preempted):
    cwd, job = preempted
    assert job.process.returncode == 143
    last = job.text.strip().splitlines()[-1]
    assert last.startswith("error: SIGTERM: stopped during training, saved after ")
    assert last.endswith(f"train.resume={cwd / 'run'}")
    assert mlflow_runs(cwd) == ["KILLED"]


def test_a_job_that_is_refused_for_its_data_leaves_its_mlflow_run_as_it_was(preempted):
    cwd, _ = preempted
    split = cwd / "run" / "data" / "split.json"
    kept = split.read_text()
    split.write_text('{"digest": "of another split"}')
    status, text = ended(cwd, EPOCHS, "train.resume=run")
    assert status == 1
    assert "digest of its split was of another" in text
    assert mlflow_runs(cwd) == ["KILLED"]
    split.write_text(kept)


def test_a_run_directory_goes_on_bit_for_bit_with_its_own_config(uninterrupted, preempted):
    cwd, _ = preempted
    job = Job(cwd, EPOCHS, "train.resume=run")
    assert job.end() == 0, job.text
    assert weights(cwd / "run") == weights(uninterrupted)
    assert mlflow_runs(cwd) == ["FINISHED"]
    assert logged(cwd) == logged(uninterrupted.parent)
    assert set(logged(cwd).values()) == {1}


def test_a_damaged_last_checkpoint_is_skipped_for_the_one_before(uninterrupted, tmp_path):
    job = Job(tmp_path, EPOCHS)
    assert job.follow(until="epoch +3/"), job.text
    job.kill("driver")
    assert job.end() == -signal.SIGKILL
    *_, before, last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    (data,) = last.glob("weights.data-*")
    os.truncate(data, data.stat().st_size // 2)

    job = Job(tmp_path, EPOCHS)
    assert job.end() == 0, job.text
    assert f"{last} is damaged; going back to the one before." in job.text
    steps = int(before.name.removeprefix("step-"))
    # 150 users in batches of 30.
    done, more = divmod(steps, 5)
    assert f"going on from a checkpoint: {done} epochs done, and {more} steps" in job.text
    assert len(weights(uninterrupted)) >= 2
    assert weights(tmp_path / "run") == weights(uninterrupted)
    assert mlflow_runs(tmp_path) == ["FINISHED"]
    assert logged(tmp_path) == logged(uninterrupted.parent)


def test_a_finished_job_says_so(uninterrupted):
    status, text = ended(uninterrupted.parent, EPOCHS)
    assert status == 0
    assert text.splitlines() == [
        "finished before; train.resume=never would start anew",
        f"run: {uninterrupted}",
    ]


def test_a_finished_job_started_again_sends_what_mlflow_missed(workplace, uninterrupted, tmp_path):
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    unsent = tmp_path / "run" / "mlflow_unsent.jsonl"
    unsent.write_text('{"kind": "metrics", "metrics": {"late": 1.0}, "step": 3, "time": 1}\n')
    status, text = ended(tmp_path, EPOCHS)
    assert status == 0
    assert text.startswith("finished before; train.resume=never")
    assert not unsent.exists()
    assert logged(tmp_path)["late", 3] == 1


def test_another_config_is_refused_by_name(uninterrupted):
    status, text = ended(uninterrupted.parent, EPOCHS, "seed=7")
    assert status == 1
    assert "seed was 42 and is 7" in text


def test_resume_from_nowhere_is_refused(tmp_path):
    status, text = ended(tmp_path, "train.resume=elsewhere")
    assert status == 1
    assert "train.resume must be auto, never or a run directory; got elsewhere" in text


def test_never_starts_anew_in_the_same_directory(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    assert ended(tmp_path, "data.split.train_share=1.5", "train.resume=never")[0] == 1
    assert weights(tmp_path / "run") == weights(uninterrupted)
    status, text = ended(tmp_path, "train.epochs=1", "train.resume=never")
    assert status == 0, text
    assert mlflow_runs(tmp_path) == ["FINISHED"]
    # 150 users in batches of 30.
    assert list(weights(tmp_path / "run"))[-1] == "step-00000005"
