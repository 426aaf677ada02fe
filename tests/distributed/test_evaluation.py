"""Evaluation is divided among workers and finds the same."""

import json

import evaluation_job
import numpy as np
import pytest
from layouts import left_in, run

from mtrec.jobs import stages
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.tracking.run_dir import load_config
from mtrec.training import measured
from mtrec.training.evaluate import Sample

# The first epoch is the best by this, so that the model at the end is another.
FIRST = "train.select_by=val/retrieval/popularity_at_10"
SOME = "evaluate.users=61"


def judged(directory, *overrides, workers):
    """What each worker judged in each evaluation, after a training."""
    if workers == 1:
        evaluation_job.judge(directory, 1, overrides)
    else:
        run("evaluation_job.py", directory, 1, *overrides, workers=workers)
    return [json.loads((directory / f"judged-{w}.json").read_text()) for w in range(workers)]


def held_out_users(directory):
    """All users of the validation and of the test part."""
    dataset, parts = load(load_config(directory).data)
    both = (parts.validation, parts.test)
    return [np.unique(dataset.interactions["user"][rows]).tolist() for rows in both]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    return directory, judged(directory, FIRST, SOME, workers=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    sharded = "model.table_placement=sharded"
    return directory, judged(directory, FIRST, SOME, sharded, workers=2)


def test_one_sample_of_users_is_judged_before_and_after_each_epoch_and_all_at_the_end(one):
    directory, (alone,) = one
    validation, test = held_out_users(directory)
    *training, at_the_end, of_test = alone
    assert (at_the_end, of_test) == (validation, test)
    assert len(training) == 4
    assert all(users == training[0] for users in training)
    assert len(set(training[0])) == 61
    assert set(training[0]) < set(validation)
    assert "a sample of 61 users" in (directory / "said.txt").read_text()


def test_two_workers_judge_shares_that_are_the_same_users_together(one, two):
    (alone,), (first, second) = one[1], two[1]
    for mine, theirs, everybody in zip(first, second, alone, strict=True):
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


def test_a_sample_may_be_judged_at_the_end_too(tmp_path):
    overrides = ("evaluate.final_users=40", "train.epochs=1")
    ((*training, at_the_end, of_test),) = judged(tmp_path, *overrides, workers=1)

    validation, test = held_out_users(tmp_path)
    assert all(users == validation for users in training)
    for users, everybody in ((at_the_end, validation), (of_test, test)):
        assert len(set(users)) == len(users) == 40
        assert set(users) < set(everybody)
    assert "figures at the end are of a sample of 40 users" in (tmp_path / "said.txt").read_text()
    config = load_config(tmp_path)
    saved = restore_run(config, *load(config.data), tmp_path)
    sample = Sample(40, config.seed)
    found, _ = stages.evaluate(saved, measured.load(tmp_path / "measured"), sample)
    assert found == pytest.approx(stages.evaluate(saved, sample=sample)[0], abs=1e-6)
