"""The same twenty steps on one replica and on several: losses, weights and metrics agree."""

import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Results of 20 steps on 1, 2 and 4 replicas, a process each."""
    directory = tmp_path_factory.mktemp("replicas")
    for count in (1, 2, 4):
        command = [sys.executable, str(HERE / "replica_job.py"), str(count), str(directory)]
        alone = layouts.environment([], 0)
        done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("catalogue users", (2,)),
        ("catalogue users stem", (2,)),
        ("catalogue users attention 0.5", (2,)),
        ("catalogue users transformer 3", (2,)),
        ("in_batch rows", (2, 4)),
        ("streaming rows True moving", (2, 4)),
        ("mined rows", (2, 4)),
        ("in_batch rows 3", (2,)),
        ("in_batch requests True", (2,)),
        ("catalogue requests True", (2,)),
        ("catalogue users 7", (2, 4)),
    ],
)
def test_any_number_of_replicas_trains_the_same_model(replicas, name, counts):
    one = np.load(replicas / f"1 {name}.npz")
    for count in counts:
        more = np.load(replicas / f"{count} {name}.npz")
        np.testing.assert_allclose(more["losses"], one["losses"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(more["metrics"], one["metrics"], rtol=1e-5, atol=1e-6)
        weights = [key for key in one.files if key.startswith("weight")]
        assert len(weights) > 15
        for key in weights:
            for copy in range(count):
                mine = more[key.replace("copy 0", f"copy {copy}")]
                np.testing.assert_allclose(mine, one[key], atol=1e-5)
        assert (np.abs(one["losses"][0] - one["losses"][-1]) > 0.1).all()
