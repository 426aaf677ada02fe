"""A dataset as one HTML page that needs nothing beside it, and as lines of a terminal."""

import math
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from mtrec.data.facts import Facts, Histogram

# Width and height of a drawing, in pixels.
_WIDTH, _HEIGHT = 320, 130


def lines(facts: Facts) -> list[tuple[str, str]]:
    """Name and value of what is worth a glance."""
    found = [
        ("density", f"{facts.density:.3%} of {facts.users:,} users x {facts.items:,} items"),
        ("times", _span(facts)),
        ("repeats", f"{facts.repeats:.1%} of rows"),
        ("popularity", f"{facts.popularity[10]:.0%} of rows on 10% of items"),
    ]
    for part in facts.parts:
        told = f"{part.cold_users:.1%} cold users, {part.cold_items:.1%} cold items"
        told += f", {part.repeats:.1%} repeats"
        if not math.isnan(part.earlier):
            told += f", {part.earlier:.0%} earlier than the last row to fit"
        found.append((part.name, told))
    found += [("missing", f"{share:.1%} of {name}") for name, share in facts.missing.items()]
    return found + [("leak", sentence) for sentence in facts.leaks]


def page(facts: Facts, *, title: str, source: str) -> str:
    """Returns the page.

    Args:
        facts: What was counted.
        title: The name of the data.
        source: Where it came from.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    points = [
        f"{_WIDTH * place / (len(facts.popularity) - 1):.1f},{_HEIGHT * (1 - share):.1f}"
        for place, share in enumerate(facts.popularity)
    ]
    return environment.get_template("data_page.html.jinja").render(
        facts=facts,
        title=title,
        source=source,
        span=_span(facts),
        curve=" ".join(points),
        bars={label.name: _bars(label) for label in facts.labels},
        width=_WIDTH,
        height=_HEIGHT,
        isnan=math.isnan,
    )


def _span(facts: Facts) -> str:
    if facts.span is None:
        return "none"
    first, last = (datetime.fromtimestamp(second, UTC).date() for second in facts.span)
    return f"{first} to {last}, {(last - first).days + 1:,} days"


def _bars(label: Histogram) -> list[dict[str, float | str]]:
    """Place, size and title of each bar."""
    most, room = max(label.counts), _WIDTH / len(label.counts)
    levels = len(label.edges) == len(label.counts)
    bars: list[dict[str, float | str]] = []
    for place, count in enumerate(label.counts):
        tall = _HEIGHT * count / most
        name = f"{label.edges[place]:g}"
        if not levels:
            name += f" to {label.edges[place + 1]:g}"
        bars.append(
            {
                "x": round(place * room + 0.08 * room, 1),
                "y": round(_HEIGHT - tall, 1),
                "width": round(0.84 * room, 1),
                "height": round(tall, 1),
                "title": f"{name}: {count:,} rows",
            }
        )
    return bars
