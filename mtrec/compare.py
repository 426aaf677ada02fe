"""`python -m mtrec.compare`: the runs of an experiment in a table, and what they trade."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mtrec.config import CompareConfig
from mtrec.jobs.command import command
from mtrec.reports.groups import Group, Section, find, sections

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from mtrec.reports.tradeoff import Against, Tradeoff
    from mtrec.tracking.finished import TrackedRun


@command("compare", folder="compare")
def main(config: CompareConfig) -> None:
    """Prints the table; where runs have both metrics, shows and writes what is traded."""
    from rich.console import Console

    from mtrec.reports.tradeoff import tradeoff
    from mtrec.tracking import finished

    console = Console(highlight=False, markup=False, soft_wrap=True, width=200)
    parts = sections(finished.finished_runs(config.experiment, uri=config.tracking.uri))
    users, pages = users_of(config.tracking.uri), {}
    for part, baseline in zip(parts, baselines(parts, config.baseline), strict=True):
        if part.name:
            console.print(f"\njudged on {part.name}", style="bold")
        print_groups(part.groups, baseline, config.metrics, console)
        found = tradeoff(part.groups, config.tradeoff, users)
        if found is None:
            console.print(
                f"no trade-off to show: no run has {config.tradeoff.x} and {config.tradeoff.y}"
            )
            continue
        print_tradeoff(found, console)
        pages[part.name] = found
    for path in write(pages, config):
        console.print(f"report: {path}")


def baselines(parts: Sequence[Section], name: str | None) -> list[Group]:
    """The group of each section that differences are taken to: the one called `name`, or the first.

    Raises:
        UserError: If no section has a group that is called so.
    """
    named = find([group for part in parts for group in part.groups], name)
    return [
        next((group for group in part.groups if group.name == named.name), part.groups[0])
        for part in parts
    ]


def print_groups(
    groups: Sequence[Group], baseline: Group, metrics: Sequence[str], console: "Console"
) -> None:
    """Mean ± sd of each metric over seeds, and the difference to the baseline."""
    from rich.table import Table

    table = Table("runs", "seeds", *metrics, box=None, header_style="bold")
    for group in groups:
        cells = [cell(group, baseline, metric) for metric in metrics]
        table.add_row(group.name, str(len(group.runs)), *cells)
    console.print(table)
    if len(groups) > 1:
        console.print(f"in brackets: difference to {baseline.name}")


def cell(group: Group, baseline: Group, metric: str) -> str:
    """`mean ± sd (difference)`; without runs that have the metric, nothing."""
    mean, sd, base = group.mean(metric), group.sd(metric), baseline.mean(metric)
    if mean is None:
        return ""
    text = f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
    return text if base is None or group is baseline else f"{text} ({mean - base:+.4f})"


def users_of(uri: str | None) -> "Callable[[TrackedRun], pd.DataFrame | None]":
    """Reads what each test user adds to a run's metrics, each run once."""
    from mtrec.reports import per_user
    from mtrec.tracking import finished
    from mtrec.tracking.run_dir import USERS

    @cache
    def read(run_id: str) -> "pd.DataFrame | None":
        path = finished.artifact(run_id, USERS, uri=uri)
        return None if path is None else per_user.load(path)

    return lambda run: read(run.run_id)


def print_tradeoff(found: "Tradeoff", console: "Console") -> None:
    """Each joint group against its single tasks, and the front."""
    from rich.table import Table

    columns = [f"{axis.metric} to {axis.head} alone" for axis in found.axes]
    table = Table("joint", "front", *columns, "transfer", box=None, header_style="bold")
    for point in found.joint:
        transfers = [
            f"{kind} transfer on {head}"
            for kind in ("negative", "positive")
            for head in point.transfers(kind)
        ]
        cells = [difference(against) for against in point.against]
        table.add_row(
            point.group.name, "yes" if point.on_front else "", *cells, ", ".join(transfers)
        )
    console.print()
    console.print(table)
    baselines = ", ".join(f"{value:.4f}" for value in found.reference)
    twins = found.area_of_twins
    apart = "" if twins is None else f"; {twins:.5f} with a model for each task"
    console.print(f"hypervolume beyond the baselines ({baselines}): {found.area:.5f}{apart}")


def difference(against: "Against") -> str:
    """`value [low, high] p`, or why there is none."""
    found = against.found
    if found is None:
        return against.why_not
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] p {found.p_value:.4f}"


def write(found: "Mapping[str, Tradeoff]", config: CompareConfig) -> list[Path]:
    """Writes a page for each section's trade-off, by its name, and logs them as one run.

    Returns:
        Where the pages are: `compare.html`, then `compare_2.html` and so on.
    """
    if not found:
        return []
    from mtrec.reports.tradeoff_figure import tradeoff_figure
    from mtrec.reports.tradeoff_page import page
    from mtrec.tracking import mlflow_run

    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    tracker = mlflow_run.start(
        uri=config.tracking.uri,
        experiment=config.experiment,
        run_name="compare",
        run_id=None,
        params=asdict(config.tradeoff),
        tags={mlflow_run.REPORT_TAG: "compare"},
        run_dir=directory,
    )
    pages = []
    for number, (name, tradeoff) in enumerate(found.items(), start=1):
        suffix = f"_{number}" if number > 1 else ""
        title = f"{config.experiment}, {name}" if name else config.experiment
        file = f"compare{suffix}.html"
        tracker.log_text(page(tradeoff, title=title, how=config.tradeoff), file)
        tracker.log_figure(tradeoff_figure(tradeoff), f"tradeoff{suffix}")
        pages.append((directory / file).resolve())
    tracker.finish("FINISHED")
    return pages


if __name__ == "__main__":
    main()
