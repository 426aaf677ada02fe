"""What Ray is told of the config."""

import pytest
from small_config import config_of

from mtrec.errors import UserError
from mtrec.jobs.cluster import settings


@pytest.mark.parametrize("seconds", [10, 12, 60, 600])
def test_a_worker_that_hangs_is_given_up_within_the_time_given(seconds: int) -> None:
    config = config_of("cluster=ray_local", f"cluster.health_timeout_s={seconds}")
    patience = float(
        settings.environment(config.cluster)["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"]
    )
    # It is asked at most 2 s after it hung; Ray sees after 2 s, 6 s, 10 s, ... whether it waited
    # for longer than its patience.
    given_up = next(2 + waited for waited in range(2, 1000, 4) if waited > patience)
    assert seconds / 2 <= given_up <= seconds


@pytest.mark.parametrize(
    ("given", "told"), [("2", 2), ("[2,2]", 2), ("[1,4]", (1, 4)), ("[2,3]", (2, 3))]
)
def test_ray_is_told_of_one_number_of_workers_or_of_two(given, told):
    config = config_of("cluster=ray_local", f"cluster.num_workers={given}", "train.global_batch=8")
    assert settings.workers(config.cluster) == told


def test_an_elastic_job_takes_a_batch_that_some_numbers_of_workers_do_not_divide():
    config = config_of("cluster=ray_local", "cluster.num_workers=[1,3]", "train.global_batch=8")
    config.cluster.check_batch(8, replicas=3)
    with pytest.raises(UserError, match=r"must divide by the number of replicas \(3\); got 8"):
        config_of("cluster=ray_local", "cluster.num_workers=3", "train.global_batch=8")


def test_the_room_that_an_elastic_job_needs_is_that_of_its_least_workers():
    cluster = config_of("cluster=ray_local", "cluster.num_workers=[2,4]").cluster
    sentence = settings.missing(cluster, {"CPU": 1})
    assert "room for cluster.num_workers=[2, 4] workers of 1 CPU each" in sentence
    assert "has 1 of 2 CPU" in sentence


def test_a_job_of_this_process_is_refused_a_batch_that_its_devices_do_not_share_evenly():
    cluster = config_of("train.global_batch=21").cluster  # takes all GPUs that there are
    cluster.check_batch(21, replicas=3)
    with pytest.raises(UserError, match=r"number of replicas \(2\); got 21\. Set .*=20\."):
        cluster.check_batch(21, replicas=2)
