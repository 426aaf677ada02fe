"""The trade-off of hand-made runs: who is whose twin, what is tested, what is flagged."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.stats import binom
from small_config import composed

from mtrec.compare import summary, tradeoff_note
from mtrec.errors import UserError
from mtrec.reports.groups import grouped
from mtrec.reports.tradeoff import tradeoff, twin_of
from mtrec.reports.tradeoff_page import page
from mtrec.tracking.finished import TrackedRun

RECALL, RMSE = "test/retrieval/recall_at_10", "test/rating/rmse"
BASELINES = {f"baseline/{RECALL}": 0.1, f"baseline/{RMSE}": 1.1}
USERS = 200
HEADS = {"retrieval": ("retrieval",), "rating": ("rating",), "joint": ("retrieval", "rating")}


def config(*overrides):
    return composed(*overrides, name="compare", folder="compare").tradeoff


def run(
    task, *, seed, recall=None, rmse=None, method="fixed", weight=0.2, validated=None, **params
):
    """A run with its parameters and metrics; other parameters by their names with `__` for dots.

    It finds the same on the validation part, unless `validated` says another recall.
    """
    heads = HEADS[task]
    known = {f"task.weights.{head}": "1.0" for head in heads}
    known |= {f"task.heads.{head}.dim": "16" for head in heads}
    known |= {"balance": method, "seed": str(seed), "train.select_by": task}
    if task == "joint":
        known["task.weights.rating"] = str(weight)
    known |= {key.replace("__", "."): str(value) for key, value in params.items()}
    found = {RECALL: recall, RMSE: rmse}
    metrics = {key: value for key, value in found.items() if value is not None}
    metrics |= {f"baseline/{key}": BASELINES[f"baseline/{key}"] for key in metrics}
    of_validation = {RECALL: recall if validated is None else validated, RMSE: rmse}
    metrics |= {f"val{k.removeprefix('test')}": of_validation[k] for k in metrics if k in found}
    name = f"{task} {method} {weight} {seed} {recall} {rmse}"
    return TrackedRun(
        run_id=name,
        name=name,
        choices={},
        params=known,
        metrics=metrics,
        url=f"http://ui/{seed}{task}",
        data="",
    )


def users_of(tracked):
    """Two hundred users whose sums give the run's metrics; one in two deviates, up or down."""
    table = {}
    noise = np.resize([0.02, -0.02], USERS)
    if RECALL in tracked.metrics:
        table["retrieval/count"] = np.ones(USERS, int)
        table["retrieval/recall_at_10"] = tracked.metrics[RECALL] + noise
    if RMSE in tracked.metrics:
        table["rating/count"] = np.full(USERS, 5)
        table["rating/rmse"] = 5 * (tracked.metrics[RMSE] ** 2 + noise)
    return pd.DataFrame(table, index=[f"u{number}" for number in range(USERS)])


def study(*joint, seeds=(1, 2)):
    singles = [run("retrieval", seed=seed, recall=0.20) for seed in seeds]
    singles += [run("rating", seed=seed, rmse=0.90) for seed in seeds]
    return grouped([*singles, *joint])


def joints(recall, rmse, **how):
    return [run("joint", seed=seed, recall=recall, rmse=rmse, **how) for seed in (1, 2)]


def test_joint_groups_are_judged_against_each_single_task_with_the_same_seed():
    (point,) = tradeoff(study(*joints(0.21, 0.93)), config(), users_of).joint
    retrieval, rating = point.against
    assert (retrieval.twin.name, rating.twin.name) == ("retrieval", "rating")
    assert retrieval.found.value == pytest.approx(0.01)
    assert rating.found.value == pytest.approx(0.03)
    assert (retrieval.found.users, retrieval.found.seeds) == (USERS, 2)
    assert (retrieval.transfer, rating.transfer) == ("positive", "negative")
    assert point.transfers("positive") == ["retrieval"]
    assert point.transfers("negative") == ["rating"]


def test_an_interval_that_holds_zero_is_no_transfer():
    def uneven(tracked):
        """The users of joint runs gain and lose a lot, and next to nothing on average."""
        table = users_of(tracked)
        if tracked.name.startswith("joint"):
            table["retrieval/recall_at_10"] += np.resize([0.5, -0.5], USERS)
            table["rating/rmse"] += np.resize([2.0, -2.0], USERS)
        return table

    (point,) = tradeoff(study(*joints(0.201, 0.901)), config(), uneven).joint
    for against in point.against:
        assert against.found.low < 0 < against.found.high
        assert against.found.p_value > 0.5
        assert against.transfer == ""


def test_front_reference_and_hypervolume_are_those_of_the_plane():
    groups = study(
        *joints(0.21, 0.88, weight=0.1),
        *joints(0.22, 0.92, weight=0.2),
        *joints(0.2, 0.95, weight=0.3),
    )
    found = tradeoff(groups, config(), users_of)
    assert found.reference == (0.1, 1.1)
    on_front = {point.group.name: point.on_front for point in found.points}
    assert on_front == {
        # With the mean rating for want of a better one, or the most popular items.
        "retrieval": False,
        "rating": False,
        "joint rating=0.1": True,
        "joint rating=0.2": True,
        "joint rating=0.3": False,
    }
    # 0.11 wide and 0.22 high, and a strip of 0.01 by 0.18 beside it.
    assert found.area == pytest.approx(0.11 * 0.22 + 0.01 * 0.18)
    assert [point.area for point in found.joint] == pytest.approx(
        [0.11 * 0.22, 0.12 * 0.18, 0.1 * 0.15]
    )
    assert found.area_of_twins == pytest.approx(0.1 * 0.2)
    without_rating = [group for group in groups if group.name != "rating"]
    assert tradeoff(without_rating, config(), users_of).area_of_twins is None
    assert [point.place for point in found.single] == [(0.2, 1.1), (0.1, 0.9)]


def test_a_twin_has_the_settings_of_the_head_and_of_everything_shared():
    def of(head, *others, **joint):
        return twin_of(grouped(joints(0.2, 0.9, **joint))[0], head, grouped(others))

    rating = run("rating", seed=1, rmse=0.9)
    assert of("rating", rating, method="famo", weight=3.0) is not None
    assert of("rating", rating, task__heads__retrieval__dim=99) is not None
    assert of("rating", rating, task__heads__rating__dim=99) is None
    assert of("rating", rating, train__epochs=7) is None
    assert of("rating", run("retrieval", seed=1, recall=0.2)) is None
    # A joint config whose other head weighs nothing trains one task.
    assert of("retrieval", run("joint", seed=1, recall=0.2, weight=0.0)) is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: None, "the runs did not keep what each user adds"),
        (lambda table: table.drop(columns="retrieval/recall_at_10", errors="ignore"), "not a sum"),
    ],
)
def test_runs_whose_users_cannot_be_compared_say_why(change, why):
    groups = study(*joints(0.21, 0.93))
    found = tradeoff(groups, config(), lambda tracked: change(users_of(tracked)))
    against = found.joint[0].against[0]
    assert (against.found, against.transfer) == (None, "")
    assert why in against.why_not
    assert why in page(found, title="study", how=config())


def test_other_test_rows_other_seeds_and_a_missing_twin_are_no_comparison():
    def reasons(groups, users=users_of):
        (point,) = tradeoff(groups, config(), users).joint
        return [against.why_not for against in point.against]

    def shorter(tracked):
        table = users_of(tracked)
        return table[:-1] if tracked.name.startswith("joint") else table

    groups = study(*joints(0.21, 0.93))
    assert reasons(groups, shorter) == ["the runs were not judged on the same rows"] * 2
    assert reasons(grouped([*joints(0.21, 0.93), run("rating", seed=9, rmse=0.9)])) == [
        "no run of retrieval alone has the same settings",
        "no seed is shared with rating alone",
    ]


def test_without_a_group_that_has_both_metrics_there_is_no_trade_off():
    assert tradeoff(study(), config(), users_of) is None
    assert tradeoff(study(*joints(0.2, 0.9)), config("tradeoff.x=test/a/b"), users_of) is None


def test_any_two_metrics_can_be_traded():
    (point,) = tradeoff(
        study(*joints(0.21, 0.93)), config(f"tradeoff.x={RMSE}", f"tradeoff.y={RECALL}"), users_of
    ).joint
    assert point.place == (0.93, 0.21)
    assert [against.transfer for against in point.against] == ["negative", "positive"]


def test_the_best_is_chosen_on_validation_and_shown_on_the_test_part():
    groups = study(
        *joints(0.21, 0.88, weight=0.1, validated=0.3), *joints(0.25, 0.93, validated=0.2)
    )
    found = tradeoff(groups, config(), users_of)
    assert [found.best(axis).group.name for axis in found.axes] == ["joint rating=0.1"] * 2
    values = summary(found, "_2")
    assert values["best_2/test/retrieval/recall_at_10"] == pytest.approx(0.21)
    assert values["best_2/test/rating/rmse"] == pytest.approx(0.88)
    assert values["hypervolume_2"] == found.area
    note = tradeoff_note(found, "films")
    assert "| [joint rating=0.1](http://ui/1joint) &nbsp;| 0.2100 &nbsp; | 0.8800 &nbsp; |" in note
    assert note.count("by validation") == 2


def test_of_many_differences_those_survive_that_holm_leaves():
    """Of 40 users, 31 gain: p is 0.00065 (31 or more heads of 40, twice); of none, p is 1."""

    def some(tracked):
        table = users_of(tracked).iloc[:40].copy()
        if tracked.name.startswith("joint") and "retrieval/recall_at_10" in table:
            table["retrieval/recall_at_10"] = np.where(np.arange(40) < 31, 1.0, -1.0)
        else:
            table["retrieval/recall_at_10"] = 0.0
        return table

    found = tradeoff(study(*joints(0.3, 0.9)), config("tradeoff.resamples=40000"), some)
    gain, none = found.tested
    assert gain.found.p_value == pytest.approx(2 * binom.sf(30, 40, 0.5), rel=0.2)
    assert gain.p_holm == pytest.approx(2 * gain.found.p_value)
    assert (gain.survives, none.survives, none.p_holm) == (True, False, 1.0)


def test_the_page_stands_alone_and_shows_every_group_and_flag():
    groups = study(*joints(0.21, 0.88, weight=0.1), *joints(0.19, 0.93, method="<b>&"))
    text = page(tradeoff(groups, config(), users_of), title="a & b", how=config())
    assert "a &amp; b" in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>&" not in text
    assert text.count("negative transfer</span>") == 2
    assert text.count("positive transfer</span>") == 2
    assert "0.2100" in text
    assert "+0.0100" in text
    # Nothing is loaded: the only addresses name the formats of the pictures.
    outside = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s)>]+)""", text))
    runs = {f"http://ui/{seed}{task}" for seed in (1, 2) for task in HEADS}
    assert {address for address in outside if not address.startswith("#")} == runs
    assert text.count('style="border-color:#') == 4
    assert "4 of 4 differences survive" in text
    assert "<script" not in text
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(pictures) == 1 + 4
    for picture in pictures:
        ElementTree.fromstring(picture)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("tradeoff.x=recall", r"tradeoff\.x must be test/<head>/<metric>; got recall"),
        ("tradeoff.confidence=95", r"tradeoff\.confidence must be above 0 and below 1; got 95"),
        ("tradeoff.resamples=0", r"tradeoff\.resamples must be at least 1; got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(override, sentence):
    with pytest.raises(UserError, match=sentence):
        OmegaConf.to_object(composed(override, name="compare", folder="compare"))
