"""The same twenty steps on one replica and on several: losses, weights and metrics agree."""

import functools

import layouts
import numpy as np
import pytest


@pytest.fixture(scope="module")
def left_by(tmp_path_factory):
    """What 20 steps left on a number of replicas, a process for each number."""
    directory = tmp_path_factory.mktemp("replicas")

    @functools.cache
    def run(count):
        layouts.run("replica_job.py", count, directory, workers=1)

    def left(count, name):
        run(count)
        return np.load(directory / f"{count} {name}.npz")

    return left


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("several vectors", 2),
        ("mined", 2),
        ("chunks of users", 2),
        ("requests", 2),
        pytest.param("several vectors", 4, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_replicas_trains_the_same_model(left_by, name, count):
    one, more = left_by(1, name), left_by(count, name)
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
