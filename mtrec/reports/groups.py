"""Runs that differ by their seed alone, and short names for what sets such groups apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from mtrec.errors import UserError
from mtrec.heads.metrics import lower_is_better

if TYPE_CHECKING:
    from mtrec.tracking.finished import TrackedRun

# Parameters that may differ between the runs of one group.
REPEATED = ("seed",)
WEIGHTS = "task.weights."
# Stand for the choice of tasks, and for the digest of the data, among the parameters.
_TASKS, _DATA = "tasks", "digest"
# Parameters of the data that leave the rows a run is judged on as they are.
_FIT_ALONE = ("data.split.validation_share", "data.split.rating_share")


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: What sets the group apart from the others.
        runs: Its runs, at most one for each seed.
    """

    name: str
    runs: "list[TrackedRun]"

    @property
    def heads(self) -> frozenset[str]:
        """The heads that were trained: those with a weight."""
        return _heads(self.runs[0].params)

    @property
    def params(self) -> dict[str, str]:
        """The parameters that all runs of the group share."""
        return {key: value for key, value in self.runs[0].params.items() if key not in REPEATED}

    @property
    def by_seed(self) -> "dict[str | None, TrackedRun]":
        """Its runs by their seed."""
        return {run.params.get("seed"): run for run in self.runs}

    def values(self, metric: str) -> list[float]:
        """The metric in each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def mean(self, metric: str) -> float | None:
        """The metric's mean over the runs that have it; None where none has."""
        values = self.values(metric)
        return mean(values) if values else None

    def sd(self, metric: str) -> float | None:
        """The metric's standard deviation over the runs; None for fewer than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Section:
    """Groups of runs that were judged on the same rows, so that their metrics can be compared.

    Attributes:
        name: What sets the rows apart from those of other sections; empty where there is one.
        groups: The groups.
    """

    name: str
    groups: list[Group]


def sections(runs: "Sequence[TrackedRun]") -> list[Section]:
    """Groups of runs, by the data and the split of it that they were judged on."""
    members: dict[tuple[str | None, ...], list[TrackedRun]] = {}
    keys = sorted({key for run in runs for key in run.params if key.startswith("data.split.")})
    keys = [key for key in keys if key not in _FIT_ALONE]
    for run in runs:
        members.setdefault((run.data, *map(run.params.get, keys)), []).append(run)
    first = [group[0] for group in members.values()]
    unlike = ("data.split.", "data.features.")
    data = {key for run in first for key in run.params if key.startswith("data.")}
    files = sorted(key for key in data if not key.startswith(unlike))
    paths = _paths(first, [*files, *keys, _DATA])
    return [
        Section(name=" ".join(path), groups=grouped(group))
        for path, group in zip(paths, members.values(), strict=True)
    ]


def grouped(runs: "Sequence[TrackedRun]") -> list[Group]:
    """Groups runs by all parameters but the seed; of runs alike in both, the latest counts."""
    latest = {tuple(sorted(run.params.items())): run for run in runs}
    keys = sorted({key for run in latest.values() for key in run.params} - set(REPEATED))
    members: dict[tuple[str | None, ...], list[TrackedRun]] = {}
    for run in latest.values():
        members.setdefault(tuple(run.params.get(key) for key in keys), []).append(run)
    groups = list(members.values())
    names = _names([group[0] for group in groups], keys)
    return [Group(name=name, runs=group) for name, group in zip(names, groups, strict=True)]


def find(groups: Sequence[Group], name: str | None) -> Group:
    """The group called `name`, or the first.

    Raises:
        UserError: If no group is called so.
    """
    if name is None:
        return groups[0]
    for group in groups:
        if group.name == name:
            return group
    names = "; ".join(group.name for group in groups)
    raise UserError(f"baseline must be one of: {names}. Got {name}.")


def check_metrics(groups: Sequence[Group], metrics: Sequence[str]) -> None:
    """Refuses metrics of which no run has any.

    Raises:
        UserError: Naming those of the test part that there are.
    """
    if any(group.mean(metric) is not None for group in groups for metric in metrics):
        return
    there = {name for group in groups for run in group.runs for name in run.metrics}
    named = ", ".join(sorted(name for name in there if name.startswith("test/")))
    raise UserError(
        f"metrics must name one at least that a run has ({named or 'none of the test part'}); got "
        f"{', '.join(metrics) or 'none'}. Correct it."
    )


def best(groups: Sequence[Group], metric: str) -> Group | None:
    """The group that validation would choose for a metric of the test part.

    Args:
        groups: Groups that were judged on the same rows.
        metric: Such as `test/rating/rmse`; what is read is `val/rating/rmse`.

    Returns:
        The one with the best mean; None where no run has the metric on the validation part.
    """
    validated = "/".join(["val", *metric.split("/")[1:]])
    sign = -1.0 if lower_is_better(metric) else 1.0
    means = [(mean, group) for group in groups if (mean := group.mean(validated)) is not None]
    return max(means, key=lambda pair: sign * pair[0])[1] if means else None


def _names(runs: "Sequence[TrackedRun]", keys: Sequence[str]) -> list[str]:
    """The decisions that lead to each run: its tasks, then one parameter after another."""
    paths = _paths(runs, [_TASKS, *keys])
    return [" ".join(path) or run.name for run, path in zip(runs, paths, strict=True)]


def _paths(runs: "Sequence[TrackedRun]", keys: Sequence[str]) -> list[list[str]]:
    """The decisions that tell runs apart; what is the same within a branch is not named there."""
    if len(runs) == 1 or not keys:
        return [[] for _ in runs]
    tokens = [_token(run, keys[0]) for run in runs]
    paths: dict[int, list[str]] = {}
    for token in set(tokens):
        branch = [place for place, other in enumerate(tokens) if other == token]
        named = [token] if token and len(branch) < len(runs) else []
        below = _paths([runs[place] for place in branch], keys[1:])
        paths |= {place: named + path for place, path in zip(branch, below, strict=True)}
    return [paths[place] for place in range(len(runs))]


def _token(run: "TrackedRun", key: str) -> str:
    """What a run decided about a parameter; empty where it has none."""
    if key == _TASKS:
        heads = _heads(run.params)
        return "joint" if len(heads) > 1 else "".join(heads)
    if key == _DATA:
        return f"data={run.data[:8]}"
    if key not in run.params:
        return ""
    # By the name of the YAML file that it was chosen by, or else of its class.
    return f"{key.removeprefix(WEIGHTS)}={run.choices.get(key, run.params[key])}"


def _heads(params: Mapping[str, str]) -> frozenset[str]:
    return frozenset(
        key.removeprefix(WEIGHTS)
        for key, value in params.items()
        if key.startswith(WEIGHTS) and float(value) > 0
    )
