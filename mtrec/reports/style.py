"""How every figure looks: colours, text, and the names of metrics."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# From the palette of Okabe and Ito, which people of any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_COLORS = (BLUE, ORANGE, GREEN, PURPLE)
INK, GREY = "#262626", "#767676"
WIDTH = 8.0  # Inches; 1200 pixels, so that the text stays readable at 800.
_STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": "figure",
    "figure.facecolor": "white",
    "font.size": 11,
    "text.color": INK,
    # A group may be called $5-$10; two dollars are no formula.
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#EBEBEB",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "errorbar.capsize": 3,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
BACKING = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
_NAMES = {"rmse": "RMSE", "mae": "MAE", "mrr": "MRR", "ndcg": "NDCG", "rmse_clipped": "RMSE"}


def style() -> AbstractContextManager[None]:
    """Returns the context in which figures are drawn."""
    return matplotlib.rc_context(_STYLE)


def titled_figure(title: str, detail: str, *, height: float, width: float = WIDTH) -> Figure:
    """Returns an empty figure with a heading and a line below it; sizes are in inches."""
    figure = Figure(figsize=(width, height))
    # Room in inches at the edges and for the title, and as a share of the panels between them.
    area = (0, 0, 1, 1 - 0.68 / height)
    room = {"w_pad": 0.12, "h_pad": 0.1, "hspace": 0.05, "wspace": 0.03}
    figure.set_layout_engine("constrained", rect=area, **room)
    figure.suptitle(title, x=0.015, y=1 - 0.14 / height, ha="left", size=13.5, weight="bold")
    figure.text(0.015, 1 - 0.42 / height, detail, color=GREY, va="top", size=11)
    return figure


def cycle(number: int) -> list[str]:
    """Returns a colour for each of a number of things, the first ones again after the last."""
    return [_COLORS[position % len(_COLORS)] for position in range(number)]


def metric_name(metric: str) -> str:
    """Returns how a metric is written in text: `ndcg_at_10` as NDCG@10."""
    name, _, k = metric.partition("_at_")
    text = _NAMES.get(name, name.replace("_", " "))
    return f"{text}@{k}" if k else text


def note(
    axis: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    color: str,
    **options: Any,
) -> None:
    """Writes a label beside a point; the offset is in points of text."""
    axis.annotate(text, point, offset, textcoords="offset points", color=color, **options)
