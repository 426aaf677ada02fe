"""Draws what `specialists.py --runs` printed: how far joint answers lie above each specialist.

python experiments/ta_feng/figure.py told.txt specialists.png
"""

import re
import sys
from pathlib import Path

from mtrec.reports.style import BLUE, GREY, INK, metric_name, style, titled_figure

METRICS = ("recall_at_10", "ndcg_at_10")


def read(told: str) -> dict[str, tuple[str, list[tuple[str, float, float, float]]]]:
    """Of each metric what joint answers reach, and name, difference and interval of each other."""
    number = r"([+-]\d\.\d+)"
    found: dict[str, tuple[str, list[tuple[str, float, float, float]]]] = {}
    for line in told.splitlines():
        if joint := re.match(r"joint (\S+) (.*)", line):
            rows = found.setdefault(joint[1], (joint[2], []))[1]
        elif less := re.match(rf"  less (.*) {number} \[{number}, {number}\]", line):
            rows.append((less[1], float(less[2]), float(less[3]), float(less[4])))
    return found


def main(told: Path, output: Path) -> None:
    found = read(told.read_text())
    names = [name for name, *_ in found[METRICS[0]][1]]
    with style():
        figure = titled_figure(
            "Ta Feng: the joint model's answers less each specialist's",
            "next baskets of known customers, test part; bars are 95 % intervals over customers",
            height=1.7 + 0.3 * len(names),
        )
        axes = figure.subplots(1, len(METRICS), sharey=True)
        for axis, metric in zip(axes, METRICS, strict=True):
            reached, rows = found[metric]
            for place, (_, value, low, high) in enumerate(rows):
                span = [[value - low], [high - value]]
                axis.errorbar(value, place, xerr=span, fmt="o", color=BLUE)
                text = f"{value:+.4f}"
                axis.annotate(text, (high, place), (6, 0), textcoords="offset points", va="center")
            axis.axvline(0, color=INK, linewidth=1)
            axis.set_title(f"{metric_name(metric)}, joint {reached}")
            axis.set_xlim(left=min(0.0, *(low for *_, low, _ in rows)) - 0.004, right=0.115)
            axis.grid(visible=True, axis="x")
            axis.grid(visible=False, axis="y")
            axis.tick_params(axis="y", length=0, color=GREY)
        axes[0].set_yticks(range(len(names)), [f"less {name}" for name in names])
        axes[0].invert_yaxis()
        figure.savefig(output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
