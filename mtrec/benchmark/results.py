"""What a benchmark found: as JSON, as a table and as a picture."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.benchmark.contest import Case, Played, ratios

JSON, TABLE, PICTURE = "results.json", "results.md", "results.png"

Record = dict[str, Any]


def machine() -> Record:
    """The machine and the versions of what mtrec runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ("mtrec", "tensorflow", "keras", "scann", "numpy")
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
        "date": f"{datetime.now():%Y-%m-%d}",
    }


def sentence(found: Mapping[str, Any]) -> str:
    """The machine in a line."""
    libraries = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores (load {found['load']} at the start), "
        f"Python {found['python']}, {libraries}, {found['date']}"
    )


def as_record(
    case: Case,
    played: Mapping[str, Played],
    said: Sequence[str],
    *,
    machine: Record,
    size: Mapping[str, Any],
) -> Record:
    """A case as it is kept, with the machine and the sizes of its row."""
    first = case.contestants[0].name
    return {
        "name": case.name,
        "machine": machine,
        "size": dict(size),
        "unit": case.unit,
        "contestants": {name: vars(one) for name, one in played.items()},
        # Without the first there is nothing to compare with.
        "ratios": ratios(played) if first in played else {},
        "said": list(said),
    }


def replaced(cases: Sequence[Record], record: Record) -> list[Record]:
    """The cases of a row with this one at the end, in place of what fewer or as many played."""

    def stays(case: Record) -> bool:
        others = case["contestants"].keys() - record["contestants"].keys()
        return case["name"] != record["name"] or bool(others)

    return [*filter(stays, cases), record]


def table(record: Mapping[str, Any]) -> str:
    """A case in Markdown: CPU and wall time per unit, and how CPU times compare."""
    unit = record["unit"]
    lines = [
        f"| {record['name']} | on | CPU time per {unit} | wall time | CPU time, first = 1 |",
        "|---|---|---|---|---|",
    ]
    for name, one in record["contestants"].items():
        ratio = record["ratios"].get(name)
        cells = [
            name,
            one["about"]["device"],
            spread(one["cpu"], time_of),
            spread(one["wall"], time_of),
            spread(ratio, lambda r: f"{r:.3g}") if ratio else "1",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        stages = one["found"].get("stages", {})
        lines += [f"| … {n} | | | {time_of(seconds * 1e6)} | |" for n, seconds in stages.items()]
    return "\n".join([*lines, *(f"\n{text}" for text in record["said"])])


def spread(values: Sequence[float], text: Any) -> str:
    """`median (lowest to highest)`."""
    median = text(float(np.median(values)))
    if len(values) == 1:
        return str(median)
    return f"{median} ({text(min(values))} to {text(max(values))})"


def time_of(microseconds: float) -> str:
    """A time as people read it."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"


def load(folder: Path) -> Record:
    """The cases that were measured before, by row."""
    path = folder / JSON
    found: Record = json.loads(path.read_text()) if path.is_file() else {}
    return found


def save(found: Record, folder: Path) -> None:
    """Writes the cases of all rows as JSON, as tables and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(found, indent=1) + "\n")
    pages = []
    for row, cases in found.items():
        pages.append(f"## {row}")
        for where, records in groupby(cases, key=lambda case: sentence(case["machine"])):
            pages += [where, *map(table, records)]
    said = "Medians over rounds in which all take their turn, lowest and highest in brackets."
    (folder / TABLE).write_text("\n\n".join(["# Benchmark", said, *pages]) + "\n")
    _draw(found, folder / PICTURE)


def _draw(found: Record, path: Path) -> None:
    """Each contestant's CPU time over the first's, a line from the lowest to the highest round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (f"{row}: {record['name']}: {name}", values)
        for row, cases in found.items()
        for record in cases
        for name, values in record["ratios"].items()
    ]
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.24 * len(bars)), layout="constrained")
    for place, (_, values) in enumerate(bars):
        axes.plot([min(values), max(values)], [place, place], color="#9aa5b1", linewidth=4)
        axes.plot(np.median(values), place, "o", color="#1f4e79")
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("CPU time, that of the first of the case = 1 (of mtrec, but in evaluation)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
