"""The same model on any layout of workers and devices."""

import pytest
from layouts import largest_difference, train

SOFTMAX = ("head@task.heads.retrieval=softmax", "train.batch_of=rows", "train.global_batch=64")


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one"), workers=1, devices=1)


@pytest.mark.parametrize(
    ("workers", "devices"),
    [
        (2, 1),
        (2, 2),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(1, 4, marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_do_not_depend_on_the_layout(one_replica, tmp_path, workers, devices):
    found = train(tmp_path, workers=workers, devices=devices)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


def test_another_seed_gives_another_model(one_replica, tmp_path):
    found = train(tmp_path, workers=1, devices=1, overrides=["seed=43"])
    difference, _ = largest_difference(one_replica, found)
    assert difference > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), [(1, 2), (1, 4), (2, 1), (2, 2)])
def test_negatives_come_from_all_replicas(tmp_path, workers, devices):
    one = train(tmp_path / "one", workers=1, devices=1, overrides=SOFTMAX)
    found = train(tmp_path / "many", workers=workers, devices=devices, overrides=SOFTMAX)
    difference, name = largest_difference(one, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "balance",
    [
        "dwa",
        "random",
        "famo",
        "uncertainty",
        "gradnorm",
        "pcgrad",
        "cagrad",
        "imtl_g",
        "metabalance",
    ],
)
def test_every_balancing_method_takes_the_same_steps_on_two_replicas(tmp_path, balance):
    overrides = [f"balance={balance}", "train.telemetry_every=5"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["mmoe", "ple", "stem"])
def test_every_scheme_of_sharing_is_trained_alike(tmp_path, sharing):
    overrides = [f"model/sharing={sharing}"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    assert any("/gate/" in name for name in one)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


def test_a_checkpoint_goes_on_with_another_number_of_workers(one_replica, tmp_path):
    stop = ["train.checkpoint_every=4"]
    train(tmp_path, workers=2, devices=1, overrides=stop)
    # As if the job had been killed: the last checkpoint that is left is within an epoch.
    steps = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert int(steps[-2].name.removeprefix("step-")) % 7
    for path in steps[-1].iterdir():
        path.unlink()
    steps[-1].rmdir()

    found = train(tmp_path, workers=1, devices=1, overrides=stop)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name
