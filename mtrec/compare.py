"""`python -m mtrec.compare`: the runs of an experiment in a table, and what they trade."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mtrec.config import CompareConfig
from mtrec.jobs.command import command
from mtrec.reports.groups import Group, Section, best, check_metrics, find, sections

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
    check_metrics([group for part in parts for group in part.groups], config.metrics)
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
    chosen = {metric: best(groups, metric) for metric in metrics}
    for group in groups:
        marks = [" *" if group is chosen[metric] and len(groups) > 1 else "" for metric in metrics]
        cells = [cell(group, baseline, m) + mark for m, mark in zip(metrics, marks, strict=True)]
        table.add_row(group.name, str(len(group.runs)), *cells)
    console.print(table)
    if len(groups) > 1:
        console.print(f"in brackets: difference to {baseline.name}; *: best on the validation part")


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
    survive = sum(against.survives for against in found.tested)
    if found.tested:
        console.print(f"{survive} of {len(found.tested)} differences survive Holm's correction")
    console.print(f"hypervolume beyond the baselines ({baselines}): {found.area:.5f}{apart}")


def difference(against: "Against") -> str:
    """`value [low, high] p, Holm p`, or why there is none."""
    found = against.found
    if found is None:
        return against.why_not
    interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
    return f"{found.value:+.4f} {interval} p {found.p_value:.4f}, Holm {against.p_holm:.4f}"


def write(found: "Mapping[str, Tradeoff]", config: CompareConfig) -> list[Path]:
    """Writes a page for each section's trade-off, by its name, and logs them as one run.

    Returns:
        Where the pages are: `compare.html`, then `compare_2.html` and so on.
    """
    if not found:
        return []
    from mtrec.reports.tradeoff_figure import tradeoff_figure
    from mtrec.reports.tradeoff_page import page
    from mtrec.tracking import mlflow_run, run_dir, ui

    directory = Path(config.output)
    run_dir.make(directory, option="output")
    tracker = mlflow_run.tracker(uri=config.tracking.uri, run_dir=directory, run_id=None)
    tracker.begin(
        experiment=config.experiment,
        run_name="compare",
        params=asdict(config.tradeoff),
        tags={mlflow_run.REPORT_TAG: "compare"},
    )
    pages, notes = [], []
    for number, (name, tradeoff) in enumerate(found.items(), start=1):
        suffix = f"_{number}" if number > 1 else ""
        title = f"{config.experiment}, {name}" if name else config.experiment
        file = f"compare{suffix}.html"
        tracker.log_text(page(tradeoff, title=title, how=config.tradeoff), file)
        tracker.log_figure(tradeoff_figure(tradeoff), f"tradeoff{suffix}")
        pages.append((directory / file).resolve())
        tracker.log_summary(summary(tradeoff, suffix))
        notes.append(tradeoff_note(tradeoff, f"{title} (`{file}` under Artifacts)"))
    tracker.set_note("\n\n".join(notes))
    tracker.finish("FINISHED")
    print(f"see: {ui.how_to_open(directory, config.tracking.uri)}")
    return pages


def summary(found: "Tradeoff", suffix: str) -> dict[str, float]:
    """What MLflow keeps of a trade-off: hypervolumes, and what the best on validation reach."""
    values = {f"hypervolume{suffix}": found.area}
    if found.area_of_twins is not None:
        values[f"hypervolume_of_single_tasks{suffix}"] = found.area_of_twins
    for side, axis in enumerate(found.axes):
        point = found.best(axis)
        if point:
            values[f"best{suffix}/{axis.metric}"] = point.place[side]
    return values


def tradeoff_note(found: "Tradeoff", title: str) -> str:
    """A trade-off in Markdown."""
    metrics = " | ".join(axis.metric.removeprefix("test/") for axis in found.axes)
    lines = [f"**{title}**", "", f"| runs | {metrics} | |"]
    lines.append("|:--|--:|--:|:--|")
    chosen = {axis.metric: found.best(axis) for axis in found.axes}
    for point in found.points:
        told = ["on the front"] if point.on_front else []
        told += [f"best {n.split('/')[-1]} by validation" for n, b in chosen.items() if b is point]
        cells = (f"{place:.4f} &nbsp;" for place in point.place)
        name = f"[{point.group.name}]({point.group.runs[0].url})"
        lines.append(f"| {name} &nbsp;| {' | '.join(cells)} | {', '.join(told)} |")
    survive = sum(against.survives for against in found.tested)
    lines += ["", f"Hypervolume beyond the baselines {found.area:.5f}; {survive} of "]
    lines[-1] += f"{len(found.tested)} differences survive Holm's correction."
    return "\n".join(lines)


if __name__ == "__main__":
    main()
