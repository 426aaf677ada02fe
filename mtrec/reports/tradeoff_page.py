"""A trade-off as one HTML page that needs nothing beside it; the template lies beside this file."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from mtrec.reports.style import BLUE, GREEN, GREY, INK, ORANGE, metric_name
from mtrec.reports.tradeoff import Against, Axis, Tradeoff
from mtrec.reports.tradeoff_figure import tradeoff_figure

if TYPE_CHECKING:
    from mtrec.config import TradeoffConfig


def page(found: Tradeoff, *, title: str, how: "TradeoffConfig") -> str:
    """Returns the page.

    Args:
        found: The trade-off.
        title: What was compared.
        how: How differences were tested.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"name": _name, "signed": _signed, "places": _places, "p": _p_value}
    return environment.get_template("tradeoff_page.html.jinja").render(
        found=found,
        title=title,
        how=how,
        cards=list(_cards(found)),
        figure=_svg(found),
        reach=[_reach(found, side) for side in (0, 1)],
        colors={"positive": GREEN, "negative": ORANGE, "": GREY},
        blue=BLUE,
        grey=GREY,
        ink=INK,
    )


def _name(axis: Axis) -> str:
    return metric_name(axis.metric.rsplit("/", 1)[-1])


def _svg(found: Tradeoff) -> str:
    text = io.StringIO()
    tradeoff_figure(found).savefig(text, format="svg", metadata={"Date": None})
    # What stands before the element belongs to a file of its own.
    return text.getvalue()[text.getvalue().index("<svg") :]


def _cards(found: Tradeoff) -> Iterator[dict[str, str]]:
    for side, axis in enumerate(found.axes):
        best = found.best(axis)
        if best is None:
            continue
        against = best.against[side].found
        change = f" ({_signed(against.value)} to {axis.head} alone)" if against else ""
        yield {
            "title": f"{_name(axis)} of the joint setting that validation chooses",
            "value": f"{best.place[side]:.4f}",
            "detail": f"{best.group.name}{change}",
        }
    survive = sum(against.survives for against in found.tested)
    lost = [point.group.name for point in found.joint if point.transfers("negative")]
    yield {
        "title": "joint settings with negative transfer",
        "value": f"{len(lost)} of {len(found.joint)}",
        "detail": f"{survive} of {len(found.tested)} differences survive Holm's correction",
    }
    twins = found.area_of_twins
    yield {
        "title": "hypervolume beyond the baselines",
        "value": f"{found.area:.5f}",
        "detail": "" if twins is None else f"{twins:.5f} with two models, one a task",
    }


def _reach(found: Tradeoff, side: int) -> float:
    """The largest distance of an interval's end from 0."""
    intervals = (point.against[side].found for point in found.joint)
    return max((max(abs(d.low), abs(d.high)) for d in intervals if d), default=0.0) or 1.0


def _places(against: Against, reach: float) -> list[float]:
    """Where an interval's low end, value and high end are drawn, better to the right."""
    found = against.found
    ends = (found.low, found.value, found.high) if found else ()
    return [round(110 + 104 * against.axis.sign * end / reach, 1) for end in ends]


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")
