"""Runs are grouped by what they were told, and compared over seeds."""

from types import SimpleNamespace

import pytest

from mtrec.compare import baselines, cell, write
from mtrec.errors import UserError
from mtrec.reports.groups import check_metrics, find, grouped, sections
from mtrec.tracking.finished import TrackedRun

RMSE = "test/rating/rmse"


def run(number, *, rmse, choices=None, data="", **params):
    return TrackedRun(
        run_id=str(number),
        name=f"run {number}",
        choices=choices or {},
        params={name.replace("__", "."): str(value) for name, value in params.items()},
        metrics={} if rmse is None else {RMSE: rmse},
        url=f"http://ui/{number}",
        data=data,
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


def joint(number, *, weight, method, **params):
    """A joint run; `method` is the YAML file of its balancer."""
    return run(
        number,
        rmse=0.9,
        choices={"balance": method, "task": "joint"},
        balance=method.title(),
        task__heads__rating__dim=16,
        task__heads__retrieval__dim=None,
        task__weights__rating=weight,
        task__weights__retrieval=1.0,
        **params,
    )


def single(number, head, **params):
    weights = {f"task__weights__{head}": 1.0, f"task__heads__{head}__dim": 16}
    return run(number, rmse=0.9, balance="Fixed", **weights, **params)


def names(*runs):
    return [group.name for group in grouped(runs)]


def test_a_group_is_called_by_its_task_and_by_what_else_sets_it_apart():
    assert names(
        single(1, "retrieval"),
        single(2, "rating"),
        joint(3, weight=0.2, method="fixed"),
        joint(4, weight=0.5, method="fixed"),
        joint(5, weight=0.2, method="famo"),
    ) == [
        "retrieval",
        "rating",
        "joint balance=fixed rating=0.2",
        "joint balance=fixed rating=0.5",
        "joint balance=famo",
    ]


def test_what_all_groups_share_is_not_named():
    assert names(single(1, "rating"), joint(2, weight=0.2, method="famo")) == ["rating", "joint"]
    assert names(joint(1, weight=0.2, method="famo"), joint(2, weight=0.3, method="famo")) == [
        "rating=0.2",
        "rating=0.3",
    ]


def test_without_a_file_a_balancer_is_called_by_its_class():
    mine = {"task__weights__rating": 1.0, "task__weights__retrieval": 1.0}
    assert names(
        run(1, rmse=0.9, balance="mine.Even", **mine),
        run(2, rmse=0.9, balance="mine.Odd", **mine),
    ) == ["balance=mine.Even", "balance=mine.Odd"]


def test_a_head_of_weight_zero_is_not_trained():
    first, second = grouped(
        [joint(1, weight=0.0, method="fixed"), joint(2, weight=0.2, method="fixed")]
    )
    assert (first.name, second.name) == ("retrieval", "joint")
    assert (first.heads, second.heads) == ({"retrieval"}, {"retrieval", "rating"})


def test_a_single_group_is_called_as_its_run():
    assert names(run(1, rmse=0.9, seed=1), run(2, rmse=0.9, seed=2)) == ["run 1"]


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


def test_metrics_that_no_run_has_are_refused_with_those_that_there_are():
    groups = grouped([run(1, rmse=1.0)])
    check_metrics(groups, ["test/retrieval/mrr", RMSE])
    with pytest.raises(UserError, match=r"a run has \(.*test/rating/rmse.*\); got test/foo\."):
        check_metrics(groups, ["test/foo"])
    with pytest.raises(UserError, match="got none"):
        check_metrics(groups, [])


def test_a_place_where_no_page_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    config = SimpleNamespace(output=str(tmp_path / "file" / "x"))
    with pytest.raises(UserError, match="output must be a directory that can be made"):
        write({"": None}, config)


def found_in(runs):
    """The names of groups in each section, by its name."""
    return {part.name: [group.name for group in part.groups] for part in sections(runs)}


def test_runs_on_other_data_are_not_compared_even_if_their_parameters_are_alike():
    runs = [
        run(1, rmse=0.9, data="a" * 36, train__epochs=3),
        run(2, rmse=0.8, data="a" * 36, train__epochs=6),
        run(3, rmse=0.7, data="b" * 36, train__epochs=3),
    ]
    names = {"data=aaaaaaaa": ["train.epochs=3", "train.epochs=6"], "data=bbbbbbbb": ["run 3"]}
    assert found_in(runs) == names


def test_sections_are_called_by_their_files_and_splits():
    split, share = "data__split__kind", "data__split__validation_share"
    runs = [
        run(1, rmse=0.9, data="a", data__interactions="x.csv", **{split: "random"}),
        run(2, rmse=0.9, data="a", data__interactions="x.csv", **{split: "fold"}),
        run(3, rmse=0.9, data="b", data__interactions="y.csv", **{split: "fold", share: 0}),
        # The same test rows, for all that fewer are held out of the others.
        run(4, rmse=0.9, data="b", data__interactions="y.csv", **{split: "fold", share: 0.1}),
    ]
    assert list(found_in(runs)) == [
        "data.interactions=x.csv data.split.kind=random",
        "data.interactions=x.csv data.split.kind=fold",
        "data.interactions=y.csv",
    ]


def test_runs_judged_on_the_same_rows_are_one_section_without_a_name():
    assert found_in([run(1, rmse=1.0, data="a", seed=1), run(2, rmse=1.0, data="a", seed=2)]) == {
        "": ["run 1"]
    }


def test_a_section_without_the_baseline_takes_its_first_group():
    parts = sections(
        [
            run(1, rmse=0.9, data="a", train__epochs=3),
            run(2, rmse=0.8, data="a", train__epochs=6),
            run(3, rmse=0.7, data="b", train__epochs=3),
        ]
    )
    assert [group.runs[0].run_id for group in baselines(parts, "train.epochs=6")] == ["2", "3"]
    with pytest.raises(UserError, match="baseline must be one of"):
        baselines(parts, "x")
