"""What Ray is told of the config."""

import pytest
from small_config import config_of

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
