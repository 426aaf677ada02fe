"""A worker that stalls or fails alone ends the job with a sentence, or is replaced."""

import time
from itertools import product

import pytest
from jobs import logged, mlflow_runs
from stalls import HEALTH_TIMEOUT_S, PLACES, WAYS, tripped_at, tripping_job
from tripping import FAILURE

# A batch is made in a thread, for which training waits.
AT = {
    place: "made_ahead (ahead.py:" if place == "epoch" else "stall (tripping.py:"
    for place in PLACES
}
NAMED = f"(cluster.health_timeout_s={HEALTH_TIMEOUT_S}) at {{}}"


@pytest.mark.slow
def test_a_mistake_of_one_worker_ends_the_job_without_another_try(tmp_path):
    job = tripping_job(tmp_path, "build", "fail")
    assert job.end() == 1, job.text
    assert job.text.splitlines()[-1] == f"error: {FAILURE}"
    assert job.text.count("worker 1 on ") == 1
    assert mlflow_runs(tmp_path) == ["FAILED"]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "how"), product(PLACES, WAYS))
def test_a_worker_that_stalls_or_fails_alone_ends_the_job_with_a_sentence(tmp_path, place, how):
    job = tripping_job(tmp_path, place, how, "cluster.max_failures=0")
    assert job.end() == 1, job.text
    print(f"{place} {how}: ended after {time.time() - tripped_at(tmp_path):.1f} s")
    last = job.text.splitlines()[-1]
    if how == "fail":
        assert last == f"error: {FAILURE}"
    else:
        assert last.startswith("error: Workers failed more than cluster.max_failures=0 times")
        assert "worker 1 has made no progress for " in last
        assert NAMED.format(AT[place]) in last


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_stalls_once_is_replaced(tmp_path, place):
    job = tripping_job(tmp_path, place, "stall", once=True)
    assert job.end() == 0, job.text
    assert job.text.count(NAMED.format(AT[place])) == 1
    assert job.text.count("worker 1 on ") == 2
    assert mlflow_runs(tmp_path) == ["FINISHED"]
    assert set(logged(tmp_path).values()) == {1}
