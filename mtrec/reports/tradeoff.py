"""The trade-off between two metrics, over groups of runs and against their single-task twins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mtrec.heads.metrics import lower_is_better
from mtrec.reports.groups import WEIGHTS, Group, best
from mtrec.reports.paired import Difference, difference, holm
from mtrec.reports.pareto import front, hypervolume

if TYPE_CHECKING:
    import pandas as pd

    from mtrec.config import TradeoffConfig
    from mtrec.tracking.finished import TrackedRun

UsersOf = Callable[["TrackedRun"], "pd.DataFrame | None"]

# Parameters that come with the choice of tasks, or say nothing to a single task.
FOLLOWS_FROM_TASK = (WEIGHTS, "train.select_by", "balance")


@dataclass(frozen=True)
class Axis:
    """A metric that is traded, such as `test/rating/rmse`."""

    metric: str

    @property
    def head(self) -> str:
        """The head it belongs to."""
        return self.metric.split("/")[1]

    @property
    def sign(self) -> float:
        """1 where larger is better, else -1."""
        return -1.0 if lower_is_better(self.metric) else 1.0


@dataclass(frozen=True)
class Against:
    """A joint group's metric against that of the same settings with one task alone.

    Attributes:
        axis: The metric.
        twin: The single-task group, or None if there is none.
        found: The difference to it over users, or None.
        why_not: Why there is no difference over users; empty where there is one.
        p_holm: The p value corrected for all differences of the trade-off; 1 where there is none.
        survives: Whether the difference is not 0 by that p value.
    """

    axis: Axis
    twin: Group | None
    found: Difference | None
    why_not: str
    p_holm: float = 1.0
    survives: bool = False

    @property
    def transfer(self) -> str:
        """`positive` or `negative` where the interval is on one side of 0 alone; else empty."""
        if self.found is None or self.found.low <= 0 <= self.found.high:
            return ""
        return "positive" if self.found.value * self.axis.sign > 0 else "negative"


@dataclass(frozen=True)
class Point:
    """A group of runs in the plane of both metrics.

    Attributes:
        group: The runs.
        place: Mean of each metric over the runs; the baseline's where the group lacks the metric.
        on_front: Whether no other group is at least as good in both and better in one.
        area: What it alone dominates of the plane beyond the reference point.
        against: For a joint group, each metric against the single task's.
    """

    group: Group
    place: tuple[float, ...]
    on_front: bool
    area: float
    against: tuple[Against, ...]

    def transfers(self, kind: str) -> list[str]:
        """The heads with `positive` or `negative` transfer."""
        return [against.axis.head for against in self.against if against.transfer == kind]


@dataclass(frozen=True)
class Tradeoff:
    """What can be had of two metrics at once.

    Attributes:
        axes: The metrics, across and up.
        reference: What the baselines reach, from which areas are measured.
        points: One for each group that has one of the metrics.
        area: The hypervolume of all of them.
        area_of_twins: What the best of each single task would dominate together, as two models;
            None where one of them is missing.
    """

    axes: tuple[Axis, Axis]
    reference: tuple[float, ...]
    points: list[Point]
    area: float
    area_of_twins: float | None

    @property
    def joint(self) -> list[Point]:
        """The points of groups that have both metrics."""
        return [point for point in self.points if point.against]

    def best(self, axis: Axis) -> Point | None:
        """The joint point that validation would choose for a metric; None without validation."""
        chosen = best([point.group for point in self.joint], axis.metric)
        return next((point for point in self.joint if point.group is chosen), None)

    @property
    def tested(self) -> list[Against]:
        """The differences that were tested."""
        every = (against for point in self.joint for against in point.against)
        return [against for against in every if against.found]

    @property
    def single(self) -> list[Point]:
        """The ends: groups that have one of the metrics."""
        return [point for point in self.points if not point.against]


def tradeoff(
    groups: Sequence[Group], config: "TradeoffConfig", users_of: UsersOf
) -> Tradeoff | None:
    """Returns the trade-off between two metrics, or None if no group has both.

    Args:
        groups: Groups of runs.
        config: The metrics, and how they are tested.
        users_of: What each test user adds to a run's metrics, as `mtrec.reports.per_user.load`
            reads it; None where the run did not keep it.
    """
    axes = Axis(config.x), Axis(config.y)
    shown = [group for group in groups if any(group.values(axis.metric) for axis in axes)]
    if not any(_is_joint(group, axes) for group in shown):
        return None
    reference = np.array([_baseline(shown, axis) for axis in axes])
    places = np.array([_place(group, axes, reference) for group in shown])  # [N, 2]
    sign = np.array([axis.sign for axis in axes])

    def area(points: np.ndarray) -> float:
        return hypervolume(sign * points, sign * reference)

    points = [
        Point(
            group=group,
            place=tuple(place.tolist()),
            on_front=bool(best),
            area=area(place[np.newaxis]),
            against=tuple(
                _against(group, axis, groups, config, users_of)
                for axis in axes
                if _is_joint(group, axes)
            ),
        )
        for group, place, best in zip(shown, places, front(sign * places), strict=True)
    ]
    points = _corrected(points, level=1 - config.confidence)
    twins = [_best_alone(shown, axis, axes) for axis in axes]
    return Tradeoff(
        axes=axes,
        reference=tuple(reference.tolist()),
        points=points,
        area=area(places),
        area_of_twins=None if None in twins else area(np.array([twins], float)),
    )


def _corrected(points: list[Point], *, level: float) -> list[Point]:
    """The points with what is left of their differences' p values, so many are tested."""
    tested = (against.found for point in points for against in point.against)
    corrected = iter(holm([found.p_value for found in tested if found]))

    def of(against: Against) -> Against:
        if against.found is None:
            return against
        p_value = next(corrected)
        return replace(against, p_holm=p_value, survives=p_value <= level)

    return [replace(point, against=tuple(map(of, point.against))) for point in points]


def _is_joint(group: Group, axes: Sequence[Axis]) -> bool:
    return all(group.values(axis.metric) for axis in axes)


def _best_alone(groups: Sequence[Group], axis: Axis, axes: Sequence[Axis]) -> float | None:
    """The best mean that a group without the other metric has; None where there is none."""
    means = [group.mean(axis.metric) for group in groups if not _is_joint(group, axes)]
    return max((m for m in means if m is not None), key=lambda m: m * axis.sign, default=None)


def _baseline(groups: Sequence[Group], axis: Axis) -> float:
    known = (group.mean(f"baseline/{axis.metric}") for group in groups)
    return next(value for value in known if value is not None)


def _place(group: Group, axes: Sequence[Axis], reference: np.ndarray) -> list[float]:
    """The group's means; a group that lacks a metric serves its baseline."""
    means = [group.mean(axis.metric) for axis in axes]
    return [
        float(base) if mean is None else mean for mean, base in zip(means, reference, strict=True)
    ]


def twin_of(group: Group, head: str, groups: Sequence[Group]) -> Group | None:
    """The first group with the same settings that was trained for `head` alone."""
    wanted = _settings(group, head)
    alike = (g for g in groups if g.heads == {head} and _settings(g, head) == wanted)
    return next(alike, None)


def _settings(group: Group, head: str) -> dict[str, str]:
    """The parameters that shape one head, whatever is trained beside it."""
    own = f"task.heads.{head}"
    return {
        key: value
        for key, value in group.params.items()
        if not key.startswith(FOLLOWS_FROM_TASK)
        and (f"{key}.".startswith(f"{own}.") or not key.startswith("task.heads."))
    }


def _against(
    group: Group, axis: Axis, groups: Sequence[Group], config: "TradeoffConfig", users_of: UsersOf
) -> Against:
    twin = twin_of(group, axis.head, groups)
    if twin is None:
        why = f"no run of {axis.head} alone has the same settings"
        return Against(axis=axis, twin=None, found=None, why_not=why)
    ours, theirs = group.by_seed, twin.by_seed
    pairs = [(users_of(ours[seed]), users_of(theirs[seed])) for seed in ours if seed in theirs]
    tables = [(a, b) for a, b in pairs if a is not None and b is not None]
    why = _why_not(axis, len(pairs), tables)
    if why:
        return Against(axis=axis, twin=twin, found=None, why_not=why)
    name, count = _column(axis), tables[0][0][f"{axis.head}/count"]
    found = difference(
        axis.metric,
        np.stack([ours[name] for ours, _ in tables], axis=1),
        np.stack([theirs[name] for _, theirs in tables], axis=1),
        count.to_numpy(),
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    return Against(axis=axis, twin=twin, found=found, why_not="")


def _why_not(axis: Axis, pairs: int, tables: "Sequence[tuple[pd.DataFrame, ...]]") -> str:
    """Why the users of runs cannot be compared; empty if they can."""
    if not pairs:
        return f"no seed is shared with {axis.head} alone"
    if not tables:
        return "the runs did not keep what each user adds to their metrics"
    every = [table for pair in tables for table in pair]
    if any(_column(axis) not in table for table in every):
        return f"{axis.metric} is not a sum over users"
    counts = [table[f"{axis.head}/count"] for table in every]
    if not all(counts[0].equals(other) for other in counts):
        return "the runs were not judged on the same rows"
    return ""


def _column(axis: Axis) -> str:
    return axis.metric.split("/", 1)[1]
