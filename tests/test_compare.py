"""Runs are grouped by what they were told, and compared over seeds."""

import pytest

from mtrec.compare import cell, find, grouped
from mtrec.errors import UserError
from mtrec.tracked import TrackedRun

RMSE = "test/rating/rmse"


def run(number, *, rmse, **params):
    return TrackedRun(
        run_id=str(number),
        name=f"run {number}",
        params={name.replace("__", "."): str(value) for name, value in params.items()},
        metrics={} if rmse is None else {RMSE: rmse},
    )


def test_runs_that_differ_by_seed_alone_are_one_group():
    runs = [
        run(1, rmse=0.9, seed=1, train__epochs=3),
        run(2, rmse=1.0, seed=2, train__epochs=3),
        run(3, rmse=0.8, seed=1, train__epochs=6),
    ]
    groups = grouped(runs)
    assert [(group.name, group.values(RMSE)) for group in groups] == [
        ("train.epochs=3", [0.9, 1.0]),
        ("train.epochs=6", [0.8]),
    ]


def test_of_two_runs_alike_in_everything_the_later_counts():
    (group,) = grouped([run(1, rmse=0.9, seed=1), run(2, rmse=0.7, seed=1)])
    assert group.values(RMSE) == [0.7]


def test_groups_of_tasks_are_called_by_their_weights():
    joint = {"task__weights__rating": 0.2, "task__weights__retrieval": 1.0}
    runs = [
        run(1, rmse=0.9, **joint, task__heads__rating__dim=16),
        run(2, rmse=0.9, task__weights__rating=1.0, task__heads__rating__dim=16),
    ]
    assert [g.name for g in grouped(runs)] == ["rating=0.2, retrieval=1.0", "rating=1.0"]


def test_where_weights_do_not_tell_groups_apart_the_heads_settings_do():
    runs = [
        run(1, rmse=0.9, task__heads__rating__dim=16),
        run(2, rmse=0.9, task__heads__rating__dim=32),
    ]
    assert [g.name for g in grouped(runs)] == [
        "task.heads.rating.dim=16",
        "task.heads.rating.dim=32",
    ]


def test_a_cell_holds_mean_sd_and_the_difference_to_the_baseline():
    base, other = grouped(
        [
            run(1, rmse=1.0, seed=1, train__epochs=3),
            run(2, rmse=0.8, seed=1, train__epochs=6),
            run(3, rmse=0.6, seed=2, train__epochs=6),
        ]
    )
    assert cell(base, base, RMSE) == "1.0000"
    # The deviation of 0.8 and 0.6 with one degree of freedom is 0.1414.
    assert cell(other, base, RMSE) == "0.7000 ± 0.1414 (-0.3000)"
    assert cell(other, base, "test/rating/mae") == ""


def test_a_baseline_that_is_not_there_is_refused_with_those_that_are():
    groups = grouped([run(1, rmse=1.0, train__epochs=3), run(2, rmse=1.0, train__epochs=6)])
    assert find(groups, None) is groups[0]
    assert find(groups, "train.epochs=6") is groups[1]
    with pytest.raises(UserError, match=r"one of: train\.epochs=3; train\.epochs=6\. Got x"):
        find(groups, "x")
