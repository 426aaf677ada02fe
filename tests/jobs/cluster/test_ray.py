"""The main job on two Ray workers, or with sharded tables, ends like the one in this process."""

import json

import pytest
from jobs import Job, ended, logged, mlflow_runs

EPOCHS = "train.epochs=2"
TWO_WORKERS = ("cluster=ray_local", "cluster.num_workers=2")


def finished(cwd, *overrides):
    job = Job(cwd, EPOCHS, *overrides)
    assert job.end() == 0, job.text
    return cwd


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("here")
    status, text = ended(cwd, EPOCHS)
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


def test_two_ray_workers_end_like_one_process(here, tmp_path):
    ray = finished(tmp_path, *TWO_WORKERS)
    assert_same_metrics(here, ray)
    assert mlflow_runs(ray) == ["FINISHED"]
    assert logged(ray) == logged(here)
    assert set(logged(ray).values()) == {1}


@pytest.mark.parametrize(
    "cluster",
    [("cluster.devices_per_worker=2",), pytest.param(TWO_WORKERS, marks=pytest.mark.slow)],
)
def test_a_job_with_sharded_tables_ends_like_one_process(here, tmp_path, cluster):
    assert_same_metrics(here, finished(tmp_path, "model.table_placement=sharded", *cluster))
