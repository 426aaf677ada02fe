"""Jobs on Ray end like one process, and the death of workers and the driver leaves no trace."""

import json
import random
import re
import signal
import time

import elastic
import psutil
import pytest
from jobs import Job, ended, logged, mlflow_runs, weights

EPOCHS = 12
TWO_WORKERS = ("cluster=ray_local", "cluster.num_workers=2")
RAY = (*TWO_WORKERS, f"train.epochs={EPOCHS}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("uninterrupted")
    job = Job(cwd, *RAY)
    assert job.end() == 0, job.text
    assert job.text.splitlines()[-1] == f"run: {cwd / 'run'}"
    return cwd


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Where the job ran in this process alone."""
    cwd = tmp_path_factory.mktemp("here")
    status, text = ended(cwd, f"train.epochs={EPOCHS}")
    assert status == 0, text
    return cwd


def assert_same_metrics(here, there):
    expected, found = (
        {
            name: value
            for name, value in json.loads((cwd / "run" / "metrics.json").read_text()).items()
            if name.startswith("test/")
        }
        for cwd in (here, there)
    )
    assert {"test/retrieval/recall_at_10", "test/rating/rmse"} <= found.keys()
    assert found == pytest.approx(expected, abs=1e-4)


def kill_in_epoch(job, who, epoch, *, delay=0.0, number=signal.SIGKILL):
    assert job.follow(until=rf"epoch +{epoch}/"), job.text
    time.sleep(delay)
    job.kill(who, number)


def assert_as_if_nothing_had_happened(cwd, uninterrupted):
    expected = weights(uninterrupted / "run")
    # The last checkpoint and the one before at least, each with the digests of its files.
    assert len(expected) >= 2
    assert all(
        re.fullmatch("[0-9a-f]{64}", d) for files in expected.values() for d in files.values()
    )
    assert all(len(files) >= 2 for files in expected.values())
    assert weights(cwd / "run") == expected
    assert mlflow_runs(cwd) == ["FINISHED"]
    assert logged(cwd) == logged(uninterrupted)
    assert set(logged(cwd).values()) == {1}


def test_two_ray_workers_end_like_one_process(here, uninterrupted):
    assert_same_metrics(here, uninterrupted)
    assert mlflow_runs(uninterrupted) == ["FINISHED"]
    assert logged(uninterrupted) == logged(here)
    assert set(logged(uninterrupted).values()) == {1}


@pytest.mark.parametrize(
    "cluster",
    [("cluster.devices_per_worker=2",), pytest.param(TWO_WORKERS, marks=pytest.mark.slow)],
)
def test_a_job_with_sharded_tables_ends_like_one_process(here, tmp_path, cluster):
    job = Job(tmp_path, f"train.epochs={EPOCHS}", "model.table_placement=sharded", *cluster)
    assert job.end() == 0, job.text
    assert_same_metrics(here, tmp_path)


def test_a_worker_and_the_driver_are_killed_in_one_job(uninterrupted, tmp_path):
    job = Job(tmp_path, *RAY)
    kill_in_epoch(job, "worker 0", 3)
    kill_in_epoch(job, "driver", 7)
    assert job.end() == -signal.SIGKILL
    job = Job(tmp_path, *RAY)
    assert job.end() == 0, job.text
    assert "going on from a checkpoint" in job.text
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_kill_at_any_moment_leaves_no_trace(uninterrupted, tmp_path, seed):
    rng = random.Random(seed)
    who = ("worker 0", "worker 1", "driver")[seed % 3]
    job = Job(tmp_path, *RAY)
    kill_in_epoch(job, who, rng.randint(1, EPOCHS - 3), delay=rng.random())
    if who == "driver":
        assert job.end() == -signal.SIGKILL
        job = Job(tmp_path, *RAY)
    assert job.end() == 0, job.text
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_hung_worker_is_replaced(uninterrupted, tmp_path):
    job = Job(tmp_path, *RAY, "cluster.health_timeout_s=10")
    assert job.follow(until="epoch +5/"), job.text
    hung = psutil.Process(job.pids["worker 1"])
    job.kill("worker 1", signal.SIGSTOP)
    stopped = time.monotonic()
    hung.wait()
    noticed = time.monotonic() - stopped
    assert job.follow(until="worker 1 on "), job.text
    replaced = time.monotonic() - stopped
    print(f"a hung worker was ended after {noticed:.1f} s, another began after {replaced:.1f} s")
    assert job.end() == 0, job.text
    assert job.text.count("worker 1 on ") == 2
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_driver_saves_on_the_workers(uninterrupted, tmp_path, number):
    job = Job(tmp_path, *RAY)
    kill_in_epoch(job, "driver", 5, number=number)
    assert job.end() == 128 + number, job.text
    last = job.text.strip().splitlines()[-1]
    # Between two epochs that is the validation.
    assert re.match(
        rf"error: {number.name}: stopped during (training|validation|checkpoints)", last
    )
    assert last.endswith(f"train.resume={tmp_path / 'run'}")
    assert mlflow_runs(tmp_path) == ["KILLED"]
    assert Job(tmp_path, *RAY).end() == 0
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted)


@pytest.mark.slow
def test_the_loss_of_a_node_leaves_no_trace(uninterrupted, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        lost, _ = (cluster.add_node(num_cpus=1) for _ in range(2))
        place = ("cluster=ray_address", f"cluster.address={cluster.address}")
        job = Job(tmp_path, *RAY, *place)
        assert job.follow(until="epoch +5/"), job.text
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        assert job.end() == 0, job.text
    finally:
        cluster.shutdown()
    assert job.text.count("going on from a checkpoint") == 1
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted)


@pytest.mark.slow
def test_missing_gpus_are_named(tmp_path):
    job = Job(tmp_path, "cluster=ray_gpu", "cluster.schedule_timeout_s=1")
    assert job.end() == 1
    assert "has 0 of 1 GPU" in job.text


def test_an_address_where_nobody_answers_is_refused(tmp_path):
    job = Job(tmp_path, "cluster=ray_address", "cluster.address=127.0.0.1:9")
    assert job.end() == 1
    assert "got 127.0.0.1:9, where none answers" in job.text


@pytest.mark.slow
def test_joins_losses_and_kills_of_workers_leave_the_weights_as_they_are(tmp_path):
    events = list(elastic.disturbed(tmp_path, 5, f"train.epochs={EPOCHS * 20}", seed=6))
    assert {line.split(". ")[1].split(":")[0] for line in events} == {
        "a node joins",
        "a node is lost",
        "a worker is killed",
    }
    (tmp_path / "alone").mkdir()
    status, text = ended(tmp_path / "alone", f"train.epochs={EPOCHS * 20}")
    assert status == 0, text
    difference, name = elastic.largest_difference(tmp_path / "run", tmp_path / "alone" / "run")
    assert difference <= 1e-5, name
    assert set(logged(tmp_path).values()) == {1}
