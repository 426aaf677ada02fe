"""The main job on two Ray workers ends like the one in this process."""

import json

import pytest
from jobs import Job, logged, mlflow_runs

TWO_WORKERS = ("cluster=ray_local", "cluster.num_workers=2")


def finished(cwd, *overrides):
    job = Job(cwd, "train.epochs=2", *overrides)
    assert job.end() == 0, job.text
    return cwd


def test_two_ray_workers_end_like_one_process(tmp_path_factory):
    here = finished(tmp_path_factory.mktemp("here"))
    ray = finished(tmp_path_factory.mktemp("ray"), *TWO_WORKERS)
    expected, found = (
        {
            name: value
            for name, value in json.loads((cwd / "run" / "metrics.json").read_text()).items()
            if name.startswith("test/")
        }
        for cwd in (here, ray)
    )
    assert {"test/retrieval/recall_at_10", "test/rating/rmse"} <= found.keys()
    assert found == pytest.approx(expected, abs=1e-4)
    assert mlflow_runs(ray) == ["FINISHED"]
    assert logged(ray) == logged(here)
    assert set(logged(ray).values()) == {1}
