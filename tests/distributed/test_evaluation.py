"""Evaluation is divided among workers and finds the same."""

import json

import numpy as np
import pytest
from layouts import left_in, run

from mtrec.jobs import stages
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.tracking.run_dir import load_config
from mtrec.training import measured

# The first epoch is the best by this, so that the model at the end is another.
FIRST = "train.select_by=val/retrieval/popularity_at_10"


def judged(directory, *overrides, workers):
    """What each worker judged in each evaluation, after a training."""
    run("evaluation_job.py", directory, 1, *overrides, workers=workers)
    return [json.loads((directory / f"judged-{w}.json").read_text()) for w in range(workers)]


def users_of(directory):
    """The held-out users of each evaluation: before three epochs, after each, then both parts."""
    dataset, parts = load(load_config(directory).data)
    rows = [parts.validation] * 5 + [parts.test]
    return [np.unique(dataset.interactions["user"][held_out]).tolist() for held_out in rows]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    return directory, judged(directory, FIRST, workers=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    sharded = "model.table_placement=sharded"
    return directory, judged(directory, FIRST, sharded, workers=2)


def test_one_worker_judges_all_users(one):
    directory, (alone,) = one
    assert alone == users_of(directory)


def test_two_workers_judge_shares_that_are_all_users_together(two):
    directory, (first, second) = two
    expected = users_of(directory)
    assert len(first) == len(second) == len(expected) == 6
    for mine, theirs, everybody in zip(first, second, expected, strict=True):
        assert mine + theirs == everybody
        assert 0 <= len(theirs) - len(mine) <= 1


def test_validation_finds_the_same_on_two_workers_in_every_epoch(one, two):
    found, expected = (
        {name: value for name, value in left_in(directory).items() if ": val/" in name}
        for directory, _ in (two, one)
    )
    assert len(expected) >= 3 * 20
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("job", ["one", "two"])
def test_the_workers_leave_what_the_selected_model_measures(job, request):
    directory, _ = request.getfixturevalue(job)
    selected = (directory / "checkpoints" / "selected").read_text().strip()
    assert selected != max(path.name for path in (directory / "checkpoints").glob("step-*"))
    config = load_config(directory)
    saved = restore_run(config, *load(config.data), directory)
    expected, _ = stages.evaluate(saved)
    found, _ = stages.evaluate(saved, measured.load(directory / "measured"))

    assert {name.split("/")[0] for name in found} == {"val", "test", "baseline"}
    assert found == pytest.approx(expected, abs=1e-6)
