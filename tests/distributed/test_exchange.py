"""Workers tell each other arrays bit for bit, and an error of one is everybody's."""

import numpy as np
import pytest
from exchange_job import said_by
from layouts import run


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of three workers with two devices was told."""
    directory = tmp_path_factory.mktemp("told")
    run("exchange_job.py", directory, 2, workers=3)
    return [dict(np.load(directory / f"worker-{worker}.npz")) for worker in range(3)]


def test_every_worker_has_the_arrays_of_all_bit_for_bit(told):
    expected = {
        f"{worker}/{name}": values
        for worker in range(3)
        for name, values in said_by(worker).items()
    }
    assert len(expected) == 12
    for found in told:
        assert {name for name in found if "/" in name} == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype, name
            assert found[name].shape == values.shape, name
            assert found[name].tobytes() == values.tobytes(), name


def test_every_worker_has_what_the_chief_says(told):
    assert [int(found["number"]) for found in told] == [0, 0, 0]


def test_an_error_of_one_worker_is_raised_on_all(told):
    for worker in (0, 1):
        errors = [str(found[f"error of {worker}"]) for found in told]
        assert errors == [f"worker {worker} cannot, né"] * 3
