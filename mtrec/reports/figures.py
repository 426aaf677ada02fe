"""The figures of a run, as matplotlib figures that no global state has a part in."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from mtrec.reports.style import (
    BACKING,
    BLUE,
    GREY,
    INK,
    ORANGE,
    WIDTH,
    cycle,
    metric_name,
    note,
    style,
    titled_figure,
)

_CUTOFFS = (1, 5, 10, 20, 50, 100)
# The metric by which a task is shown, where it has one of these.
_MAIN_METRICS = ("ndcg_at_10", "recall_at_10", "rmse")


def loss_curves(history: Sequence[Mapping[str, float]], *, selected_epoch: int) -> Figure:
    """Returns each task's training loss above its main validation metric, by epoch.

    Args:
        history: One mapping per epoch: `epoch`, `train/<task>/loss`, `val/<task>/<metric>`. A
            missing value leaves a gap.
        selected_epoch: The epoch whose weights were kept; it is marked in every panel.
    """
    keys = list({key: None for entry in history for key in entry})
    tasks = [key.split("/")[1] for key in keys if _is_task_loss(key)]
    with style():
        detail = f"training loss above, validation metric below; epoch {selected_epoch} selected"
        figure = titled_figure("Training", detail, height=5.6)
        axes = figure.subplots(2, len(tasks), sharex=True, squeeze=False)
        for (upper, lower), task, color in zip(axes.T, tasks, cycle(len(tasks)), strict=True):
            _draw_history(upper, history, f"train/{task}/loss", selected_epoch, color)
            upper.set(title=task, ylabel="training loss")
            metric = _main_metric(task, keys)
            _draw_history(lower, history, f"val/{task}/{metric}", selected_epoch, color)
            lower.set(xlabel="epoch", ylabel=f"validation {metric_name(metric)}")
            lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        figure.align_ylabels()
    return figure


def recall_curve(metrics: Mapping[str, float], *, split: str, head: str) -> Figure:
    """Returns recall at growing cut-offs, of the model and of recommending what is popular.

    Args:
        metrics: Holds `<split>/<head>/recall_at_k` and `baseline/<split>/<head>/recall_at_k` for
            the cut-offs 1, 5, 10, 20, 50 and 100; one that is missing is left out.
        split: `train`, `val` or `test`.
        head: The retrieval head.
    """
    with style():
        detail = f"{split} split, exact over the whole catalogue"
        figure = titled_figure("Recall@k", detail, height=4.8)
        axis = figure.subplots()
        prefix = f"{split}/{head}/recall_at_"
        model = {k: metrics[f"{prefix}{k}"] for k in _CUTOFFS if f"{prefix}{k}" in metrics}
        prefix = f"baseline/{prefix}"
        popular = {k: metrics[f"{prefix}{k}"] for k in _CUTOFFS if f"{prefix}{k}" in metrics}
        _draw_recall(axis, model, "model", BLUE, "-", (-4, 5))
        _draw_recall(axis, popular, "most popular", GREY, "--", (4, -13))
        axis.set_xscale("log")
        axis.set_xticks(_CUTOFFS, [str(k) for k in _CUTOFFS])
        axis.xaxis.set_minor_locator(NullLocator())
        top = max([*model.values(), *popular.values(), 0.01])
        axis.set(xlim=(0.62, 118), ylim=(-0.07 * top, 1.1 * top))
        axis.set(xlabel="k, length of the recommended list", ylabel="recall, mean over users")
    return figure


def calibration(table: Sequence[Mapping[str, float]], *, head: str) -> Figure:
    """Returns the reliability diagram of what a head predicts, above the number of rows behind it.

    Args:
        table: One mapping per bin of predictions: `predicted` and `observed` (the means of the
            bin's predictions and of its true values), `count`, and `stderr` of `observed`.
        head: The head.
    """
    return _reliability(
        table,
        f"Calibration: {head}",
        "predictions are off by {gap:.3f} on average over the bins, weighted by count",
        labels=("mean prediction of the bin", "mean true value"),
    )


def spread(table: Sequence[Mapping[str, float]], *, head: str) -> Figure:
    """Returns how large errors are where a head foretells small and large ones.

    Args:
        table: As for `calibration`, of foretold spreads and root mean square errors.
        head: The head.
    """
    return _reliability(
        table,
        f"Spread: {head}",
        "foretold errors are off by {gap:.3f} on average over the bins, weighted by count",
        labels=("foretold spread of the bin", "root mean square error"),
    )


def _reliability(
    table: Sequence[Mapping[str, float]], title: str, detail: str, *, labels: tuple[str, str]
) -> Figure:
    """Returns what was seen above what was predicted, and the number of rows behind it."""
    predicted, observed, count, stderr = (
        np.array([row[name] for row in table], dtype=float)
        for name in ("predicted", "observed", "count", "stderr")
    )
    interval = np.nan_to_num(1.96 * stderr)
    low = min(predicted.min(), (observed - interval).min())
    high = max(predicted.max(), (observed + interval).max())
    ends = (low - 0.04 * (high - low) - 0.01, high + 0.04 * (high - low) + 0.01)
    gap = float(np.average(np.abs(observed - predicted), weights=count))
    with style():
        figure = titled_figure(title, detail.format(gap=gap), height=5.8)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.grid(visible=True, axis="x")
        upper.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.2, label="perfect")
        bars = upper.errorbar(
            predicted, observed, yerr=interval, color=BLUE, fmt="-o", elinewidth=1.2
        )
        bars.set_label("model, with 95 % interval")
        upper.set(xlim=ends, ylim=ends, ylabel=labels[1])
        upper.legend(loc="upper left")
        lower.bar(predicted, count, width=0.6 * _spacing(predicted), color=BLUE, alpha=0.45)
        lower.set(xlabel=labels[0], ylabel="rows")
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        figure.align_ylabels()
    return figure


def predicted_against_true(
    counts: np.ndarray, *, predicted_edges: np.ndarray, ratings: np.ndarray
) -> Figure:
    """Returns a heat map of how the predictions for each true rating are spread.

    Args:
        counts: Number of predictions `[ratings, bins]`.
        predicted_edges: Edges of the bins of predictions `[bins + 1]`, rising.
        ratings: The true ratings `[ratings]`, rising.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    centres = (predicted_edges[:-1] + predicted_edges[1:]) / 2
    means = np.where(totals[:, 0] > 0, shares @ centres, np.nan)
    places = np.arange(len(ratings))
    edges = np.arange(len(ratings) + 1) - 0.5
    with style():
        detail = "how the predictions for each true rating are spread; each column sums to 100 %"
        figure = titled_figure("Predicted against true rating", detail, height=5.6)
        axis = figure.subplots()
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        mesh = axis.pcolormesh(edges, predicted_edges, 100 * shares.T, cmap="Blues")
        axis.vlines(edges[1:-1], *predicted_edges[[0, -1]], color="white", linewidth=2)
        exact: dict[str, Any] = {"label": "exact prediction", "clip_on": False}
        axis.plot(places, ratings, "_", color=ORANGE, markersize=34, mew=2.5, **exact)
        mean: dict[str, Any] = {"label": "mean prediction", "mec": "white"}
        axis.plot(places, means, "o", color=INK, markersize=8, **mean)
        counted = zip(ratings, totals[:, 0], strict=True)
        axis.set_xticks(places, [f"{rating:g}\nn {total:,.0f}" for rating, total in counted])
        axis.set(ylim=predicted_edges[[0, -1]], xlabel="true rating", ylabel="predicted rating")
        axis.tick_params(length=0)
        axis.legend(loc="lower right", markerscale=0.7)
        figure.colorbar(mesh, label="share of the column (%)").outline.set_visible(False)
    return figure


def slices(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Returns bars of each metric by slice, with the baseline marked on them.

    Args:
        rows: One mapping per bar: `slice` (such as `items`), `value` (such as `head`), `metric`,
            `model`, `baseline` (None where there is none) and `count`. The order is kept.
    """
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        groups.setdefault(str(row["slice"]), {})[str(row["value"])] = None
    places, headings = _bar_places(groups)
    metrics = list(dict.fromkeys(str(row["metric"]) for row in rows))
    depth = max(places.values()) + 0.6
    with style():
        detail = "bars: model, black ticks: baseline, n: size of the slice"
        width = WIDTH * max(1.0, len(metrics) / 2)
        figure = titled_figure("Slices", detail, height=1.5 + 0.27 * depth, width=width)
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric, color in zip(axes, metrics, cycle(len(metrics)), strict=True):
            _draw_bars(axis, [row for row in rows if row["metric"] == metric], places, color)
            axis.set_title(metric_name(metric), weight="bold")
            axis.set_ylim(depth, -0.6)
            axis.set_yticks(list(places.values()), [_label(value) for _, value in places])
            axis.tick_params(axis="y", length=0, labelleft=axis is axes[0])
        for name, place in headings.items():
            beside = {"xycoords": axes[0].get_yaxis_transform(), "ha": "right", "weight": "bold"}
            note(axes[0], _label(name), (0, place), (-6, 0), INK, va="center", **beside)
    return figure


def _label(text: str) -> str:
    """The beginning of a text of the user's own, which may be any, in one line."""
    line = " ".join(text[:41].split())
    return line if len(text) <= 40 else f"{line[:39]}…"


def _is_task_loss(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == "train" and parts[2] == "loss"


def _main_metric(task: str, keys: Sequence[str]) -> str:
    """Returns the validation metric that stands for a task, `loss` where it has no metric."""
    found = [key.split("/", 2)[2] for key in keys if key.startswith(f"val/{task}/")]
    known = [name for name in _MAIN_METRICS if name in found]
    return next(iter(known + [name for name in found if name != "loss"]), "loss")


def _draw_history(
    axis: Axes, history: Sequence[Mapping[str, float]], key: str, selected_epoch: int, color: str
) -> None:
    points = {int(entry["epoch"]): entry.get(key, np.nan) for entry in history}
    axis.plot(list(points), list(points.values()), color=color, marker="o", markersize=3.5)
    axis.axvline(selected_epoch, color=GREY, linewidth=1.0, linestyle=":")
    value = points.get(selected_epoch, np.nan)
    if np.isfinite(value):
        axis.plot([selected_epoch], [value], "o", color="white", mec=color, mew=2, markersize=8)
        # On the side where there is room.
        late = 2 * selected_epoch > min(points) + max(points)
        look = {"ha": "right" if late else "left", "bbox": BACKING}
        note(axis, f"{value:.3g}", (selected_epoch, value), (-8 if late else 8, 9), color, **look)
    axis.margins(y=0.15)


def _draw_recall(
    axis: Axes,
    points: Mapping[int, float],
    name: str,
    color: str,
    style: str,
    offset: tuple[float, float],
) -> None:
    if not points:
        return
    axis.plot(list(points), list(points.values()), color=color, linestyle=style, marker="o")
    side = "right" if offset[0] < 0 else "left"
    for k, value in points.items():
        note(axis, f"{value:.3f}", (k, value), offset, color, ha=side, size=9.5)
    note(axis, name, (k, value), (9, 3), color, va="center", weight="bold")


def _bar_places(
    groups: Mapping[str, Mapping[str, None]],
) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Returns the heights of the bars and of the heading above each group of them."""
    places: dict[tuple[str, str], float] = {}
    headings: dict[str, float] = {}
    place = 0.0
    for group, values in groups.items():
        headings[group] = place
        for value in values:
            place += 1.0
            places[group, value] = place
        place += 1.3
    return places, headings


def _draw_bars(
    axis: Axes,
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[tuple[str, str], float],
    color: str,
) -> None:
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x")
    _write_row(axis, 0.0, ("model", "baseline", "n"))
    for row in rows:
        place = places[str(row["slice"]), str(row["value"])]
        axis.barh(place, row["model"], height=0.72, color=color)
        baseline = "–"
        if row["baseline"] is not None:
            axis.plot([row["baseline"]] * 2, [place - 0.4, place + 0.4], color=INK)
            baseline = f"{row['baseline']:.3f}"
        _write_row(axis, place, (f"{row['model']:.3f}", baseline, f"{row['count']:,.0f}"))
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(2))
    axis.spines["bottom"].set_visible(False)


def _write_row(axis: Axes, place: float, texts: Sequence[str]) -> None:
    """Writes the figures of one bar at the right of it."""
    beside = {"xycoords": axis.get_yaxis_transform(), "ha": "right", "va": "center", "size": 9.5}
    for text, offset, color in zip(texts, (38, 88, 128), (INK, INK, GREY), strict=True):
        note(axis, text, (1.0, place), (offset, 0), color, **beside)


def _spacing(values: np.ndarray) -> float:
    """Returns the smallest gap between rising values, or what can still be seen of it."""
    if len(values) < 2:
        return 0.1
    return max(float(np.diff(values).min()), 0.02 * float(np.ptp(values)))
