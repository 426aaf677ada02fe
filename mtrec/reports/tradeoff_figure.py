"""The picture of a trade-off: groups of runs in the plane of two metrics."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtrec.reports.style import (
    BACKING,
    BLUE,
    GREEN,
    GREY,
    INK,
    metric_name,
    note,
    style,
    titled_figure,
)
from mtrec.reports.tradeoff import Point, Tradeoff

_MARGIN = 0.12  # of the span of what is shown


def tradeoff_figure(found: Tradeoff) -> Figure:
    """Returns the plane of both metrics, better to the right and to the top.

    Joint groups carry their numbers, 1 for the first of `found.joint`; single tasks are lines.
    """
    with style():
        detail = "Better is to the right and up. Numbers are rows of the table; bars are ± sd."
        figure = titled_figure("What can be had of both", detail, height=6.4)
        axis = figure.subplots()
        axis.grid(visible=True, axis="both")
        limits = [_limits(found, side) for side in (0, 1)]
        axis.set(xlim=limits[0], ylim=limits[1])
        for side in (0, 1):
            _draw_single(axis, found, side, limits)
        _draw_front(axis, found)
        # Those on the front come last, on top of the others.
        for point in sorted(found.joint, key=lambda point: point.on_front):
            _draw_joint(axis, found, point)
        across, up = (metric_name(side.metric.rsplit("/", 1)[-1]) for side in found.axes)
        axis.set(xlabel=f"{across}, {found.axes[0].head}", ylabel=f"{up}, {found.axes[1].head}")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        _number_joint(figure, axis, found)
    return figure


def _limits(found: Tradeoff, side: int) -> tuple[float, float]:
    """From worse to better: what joint groups and the single task of this axis reach."""
    metric, sign = found.axes[side].metric, found.axes[side].sign
    ends = [
        point.place[side] + step * (point.group.sd(metric) or 0.0)
        for point in found.points
        if point.group.values(metric)
        for step in (-1, 1)
    ]
    low, high = min(ends), max(ends)
    margin = _MARGIN * (high - low) or 0.01
    return (low - margin, high + margin) if sign > 0 else (high + margin, low - margin)


def _draw_single(axis: Axes, found: Tradeoff, side: int, limits: list[tuple[float, float]]) -> None:
    metric, head = found.axes[side].metric, found.axes[side].head
    draw_line, draw_band = (
        (axis.axvline, axis.axvspan) if side == 0 else (axis.axhline, axis.axhspan)
    )
    for point in found.single:
        if not point.group.values(metric):
            continue
        value, sd = point.place[side], point.group.sd(metric) or 0.0
        draw_band(value - sd, value + sd, color=GREEN, alpha=0.1, linewidth=0)
        draw_line(value, color=GREEN, linewidth=1.4, linestyle="--")
        at = (value, limits[1][0]) if side == 0 else (limits[0][0], value)
        offset = (5, 8) if side == 0 else (6, 5)
        note(axis, f"{head} alone {value:.4f}", at, offset, GREEN, bbox=BACKING)


def _draw_front(axis: Axes, found: Tradeoff) -> None:
    places = np.array([point.place for point in found.points if point.on_front])
    places = places[np.argsort(found.axes[0].sign * places[:, 0])]
    axis.plot(*places.T, drawstyle="steps-pre", color=BLUE, alpha=0.35, linewidth=2.5)


def _draw_joint(axis: Axes, found: Tradeoff, point: Point) -> None:
    color = BLUE if point.on_front else GREY
    x_sd, y_sd = (point.group.sd(side.metric) for side in found.axes)
    x, y = point.place
    axis.errorbar(x, y, xerr=x_sd, yerr=y_sd, color=color, elinewidth=0.9, capsize=0, alpha=0.35)
    axis.plot([x], [y], "o", color=color, mec="white", mew=1.0, markersize=9)


def _number_joint(figure: Figure, axis: Axes, found: Tradeoff) -> None:
    """Writes each number beside its point, where neither a point nor a number is in the way."""
    figure.draw_without_rendering()  # now the layout, and so a place in pixels, is known
    points = axis.transData.transform([point.place for point in found.joint])
    pixels = figure.dpi / 72
    taken = list(points)
    for number, (point, place) in enumerate(zip(found.joint, points, strict=True), start=1):
        angles = np.pi / 4 + np.arange(8) * np.pi / 4
        offsets = [
            (radius * float(np.cos(angle)), radius * float(np.sin(angle)))
            for radius in (11, 18, 26)
            for angle in angles
        ]
        around = [place + np.array(offset) * pixels for offset in offsets]
        room = [min(float(np.linalg.norm(there - t)) for t in taken) for there in around]
        enough = [choice for choice, free in enumerate(room) if free > 10 * pixels]
        choice = enough[0] if enough else int(np.argmax(room))
        taken.append(around[choice])
        color = BLUE if point.on_front else INK
        beside: dict[str, Any] = {"ha": "center", "va": "center_baseline", "weight": "bold"}
        beside["size"] = 9.5
        if choice >= len(angles):
            beside["arrowprops"] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7}
        x, y = point.place
        note(axis, str(number), (x, y), offsets[choice], color, **beside)
