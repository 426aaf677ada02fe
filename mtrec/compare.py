"""`python -m mtrec.compare`: the runs of an experiment in a table, mean and sd over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from mtrec.command import command
from mtrec.config import CompareConfig
from mtrec.errors import UserError

if TYPE_CHECKING:
    from mtrec.tracked import TrackedRun

# Parameters that a choice of tasks brings with it.
FOLLOWS_FROM_TASK = ("task.heads.", "task.select_by", "train.select_by")
# Parameters that may differ between the runs of one group.
REPEATED = ("seed", "index.seed", "tracking.run_name", "train.resume")


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: The parameters in which the group differs from the others.
        runs: Its runs, at most one for each seed.
    """

    name: str
    runs: "list[TrackedRun]"

    def values(self, metric: str) -> list[float]:
        """The metric in each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]


@command("compare", folder="compare")
def main(config: CompareConfig) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    from mtrec import tracked

    groups = grouped(tracked.finished_runs(config.experiment, uri=config.tracking.uri))
    baseline = find(groups, config.baseline)
    table = Table("runs", "seeds", *config.metrics, box=None, header_style="bold")
    for group in groups:
        cells = [cell(group, baseline, metric) for metric in config.metrics]
        table.add_row(group.name, str(len(group.runs)), *cells)
    console = Console(highlight=False, soft_wrap=True, width=200)
    console.print(table)
    if len(groups) > 1:
        console.print(f"in brackets: difference to {baseline.name}")


def grouped(runs: "Sequence[TrackedRun]") -> list[Group]:
    """Groups runs by all parameters but the seed; of runs alike in both, the latest counts."""
    latest = {tuple(sorted(run.params.items())): run for run in runs}
    keys = sorted({key for run in latest.values() for key in run.params} - set(REPEATED))
    groups: dict[tuple[str | None, ...], list[TrackedRun]] = {}
    for run in latest.values():
        groups.setdefault(tuple(run.params.get(key) for key in keys), []).append(run)
    differing = [
        place for place in range(len(keys)) if len({values[place] for values in groups}) > 1
    ]
    names = _names([[(keys[place], values[place]) for place in differing] for values in groups])
    return [
        Group(name=name or members[0].name, runs=members)
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _names(differences: "list[list[tuple[str, str | None]]]") -> list[str]:
    """What sets each group apart: the weights of its tasks alone where that is enough."""
    full = [
        [f"{key}={value}" for key, value in group if value is not None] for group in differences
    ]
    short = [[t for t in group if not t.startswith(FOLLOWS_FROM_TASK)] for group in full]
    names = [", ".join(group).replace("task.weights.", "") for group in short]
    distinct = len(set(names)) == len(names)
    return names if distinct else [", ".join(group) for group in full]


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


def cell(group: Group, baseline: Group, metric: str) -> str:
    """`mean ± sd (difference)`; without runs that have the metric, nothing."""
    values, base = group.values(metric), baseline.values(metric)
    if not values:
        return ""
    text = f"{mean(values):.4f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.4f}"
    if base and group is not baseline:
        text += f" ({mean(values) - mean(base):+.4f})"
    return text


if __name__ == "__main__":
    main()
