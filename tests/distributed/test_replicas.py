"""The same twenty steps on one replica and on several: losses, weights and metrics agree."""

import layouts
import numpy as np
import pytest


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Results of 20 steps on 1, 2 and 4 replicas, a process each."""
    directory = tmp_path_factory.mktemp("replicas")
    for count in (1, 2, 4):
        layouts.run("replica_job.py", count, directory, workers=1)
    return directory


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("several vectors", (2, 4)),
        ("mined", (2,)),
        ("chunks of users", (2,)),
        ("requests", (2,)),
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
        first, last = one["losses"][0], one["losses"][-1]
        assert (np.abs(first - last) > 0.05 * first).all()
