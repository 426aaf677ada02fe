"""A trade-off as one HTML page that needs nothing beside it."""

import io
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from mtrec.reports.style import BLUE, GREEN, GREY, INK, ORANGE, metric_name
from mtrec.reports.tradeoff import Against, Axis, Point, Tradeoff
from mtrec.reports.tradeoff_figure import tradeoff_figure

if TYPE_CHECKING:
    from mtrec.config import TradeoffConfig

_COLORS = {"positive": GREEN, "negative": ORANGE, "": GREY}
_STYLE = f"""
body {{ font: 16px/1.55 system-ui, sans-serif; color: {INK}; background: #fff;
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .6rem; }}
.sub, .why, small {{ color: {GREY}; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 1rem;
  margin: 1.6rem 0; }}
.card {{ border: 1px solid #e6e6e6; border-radius: 10px; padding: .8rem 1rem; }}
.card b {{ display: block; font-size: 1.35rem; line-height: 1.4; }}
figure {{ margin: 0 auto; max-width: 860px; }}
figure svg {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  width: 100%; }}
th, td {{ padding: .45rem .7rem .45rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ececec; }}
th {{ font-weight: 600; vertical-align: bottom; }}
th small {{ font-weight: 400; }}
td.group {{ font-weight: 600; white-space: nowrap; }}
.disc {{ display: inline-block; min-width: 1.5em; padding: 0 .2em; border-radius: 1em; color: #fff;
  text-align: center; background: {GREY}; font-weight: 700; }}
.disc.front {{ background: {BLUE}; }}
.pill {{ display: inline-block; border-radius: 1em; padding: 0 .7em; color: #fff;
  white-space: nowrap; font-size: .8rem; }}
.difference {{ white-space: nowrap; }}
.difference svg {{ display: block; margin: .15rem 0; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.2rem; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0; }}
"""


def page(found: Tradeoff, *, title: str, how: "TradeoffConfig") -> str:
    """Returns the page.

    Args:
        found: The trade-off.
        title: What was compared.
        how: How differences were tested.
    """
    runs = sum(len(point.group.runs) for point in found.points)
    names = " and ".join(f"{_name(axis)} of {axis.head}" for axis in found.axes)
    body = [
        f"<h1>{escape(title)}: what joint training gains and costs</h1>",
        f'<p class="sub">{escape(names)} on the test part; {len(found.points)} groups of '
        f"{runs} runs, mean over seeds.</p>",
        f'<div class="cards">{"".join(_cards(found))}</div>',
        f"<figure>{_svg(found)}</figure>",
        "<h2>Each joint setting against the single tasks</h2>",
        f'<div class="wide">{_joint_table(found)}</div>',
        "<h2>The ends: one task alone</h2>",
        f'<div class="wide">{_single_table(found)}</div>',
        "<h2>How to read this</h2>",
        f"<dl>{''.join(_glossary(found, how))}</dl>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _name(axis: Axis) -> str:
    return metric_name(axis.metric.rsplit("/", 1)[-1])


def _svg(found: Tradeoff) -> str:
    text = io.StringIO()
    tradeoff_figure(found).savefig(text, format="svg", metadata={"Date": None})
    # What stands before the element belongs to a file of its own.
    return text.getvalue()[text.getvalue().index("<svg") :]


def _cards(found: Tradeoff) -> Iterator[str]:
    for side, axis in enumerate(found.axes):
        best = max(found.joint, key=lambda point: point.place[side] * axis.sign)
        against = best.against[side]
        change = f" ({_signed(against.found.value)} to {axis.head} alone)" if against.found else ""
        yield _card(
            f"best {_name(axis)} of a joint setting",
            f"{best.place[side]:.4f}",
            f"{best.group.name}{change}",
        )
    lost = [point.group.name for point in found.joint if point.transfers("negative")]
    yield _card(
        "joint settings with negative transfer",
        f"{len(lost)} of {len(found.joint)}",
        ", ".join(lost) if 0 < len(lost) <= 3 else "see the table",
    )
    twins = found.area_of_twins
    apart = "" if twins is None else f"{twins:.5f} with two models, one a task"
    yield _card("hypervolume beyond the baselines", f"{found.area:.5f}", apart)


def _card(title: str, value: str, detail: str) -> str:
    return (
        f'<div class="card"><small>{escape(title)}</small><b>{escape(value)}</b>'
        f"<small>{escape(detail)}</small></div>"
    )


def _joint_table(found: Tradeoff) -> str:
    heads = ["", "setting", "seeds"]
    for axis in found.axes:
        heads.append(
            f"{_name(axis)}<br><small>and difference to {axis.head} alone"
            "<br>◂ worse · better ▸</small>"
        )
    heads.append("hypervolume")
    reach = [_reach(found, side) for side in (0, 1)]
    rows = []
    for number, point in enumerate(found.joint, start=1):
        front = " front" if point.on_front else ""
        cells = [
            f'<td><span class="disc{front}">{number}</span></td>',
            f'<td class="group">{escape(point.group.name)}</td>',
            f"<td>{len(point.group.runs)}</td>",
        ]
        cells += [
            f"<td>{_value(point, against.axis)} {_pill(against)}"
            f'<div class="difference">{_difference(against, longest)}</div></td>'
            for against, longest in zip(point.against, reach, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}<td>{point.area:.5f}</td></tr>")
    return _table(heads, rows)


def _single_table(found: Tradeoff) -> str:
    rows = []
    for point in found.single:
        cells = [f'<td class="group">{escape(point.group.name)}</td>']
        cells += [f"<td>{len(point.group.runs)}</td>"]
        for axis in found.axes:
            text = _value(point, axis) if point.group.values(axis.metric) else "baseline"
            cells.append(f"<td>{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    baseline = "".join(f"<td>{value:.4f}</td>" for value in found.reference)
    rows.append(f'<tr><td class="group">baselines</td><td></td>{baseline}</tr>')
    return _table(["task", "seeds", *(_name(axis) for axis in found.axes)], rows)


def _table(heads: list[str], rows: list[str]) -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _value(point: Point, axis: Axis) -> str:
    sd = point.group.sd(axis.metric)
    text = f"{point.group.mean(axis.metric):.4f}"
    return text if sd is None else f"{text} <small>± {sd:.4f}</small>"


def _reach(found: Tradeoff, side: int) -> float:
    """The largest distance of an interval's end from 0."""
    intervals = (point.against[side].found for point in found.joint)
    return max((max(abs(d.low), abs(d.high)) for d in intervals if d), default=0.0) or 1.0


def _difference(against: Against, reach: float) -> str:
    """The interval as a bar, better to the right, and in figures."""
    found, color = against.found, _COLORS[against.transfer]
    if found is None:
        return f'<span class="why">{escape(against.why_not)}</span>'
    low, value, high = (
        round(110 + 104 * against.axis.sign * end / reach, 1)
        for end in (found.low, found.value, found.high)
    )
    return (
        '<svg width="220" height="14" role="img" aria-hidden="true">'
        f'<path d="M110 0V14" stroke="#c8c8c8"/><path d="M{low} 7H{high}" stroke="{color}" '
        f'stroke-width="3" stroke-linecap="round"/><circle cx="{value}" cy="7" r="4.5" '
        f'fill="{color}"/></svg><span>{_signed(found.value)} '
        f"<small>[{_signed(found.low)}, {_signed(found.high)}] p {_p(found.p_value)}</small></span>"
    )


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "&lt; 0.001"


def _pill(against: Against) -> str:
    if not against.transfer:
        return ""
    color = _COLORS[against.transfer]
    return f'<span class="pill" style="background:{color}">{against.transfer} transfer</span>'


def _glossary(found: Tradeoff, how: "TradeoffConfig") -> Iterator[str]:
    share = f"{how.confidence:.0%}"
    tests = sum(a.found is not None for point in found.joint for a in point.against)
    yield _entry(
        "to … alone",
        "The difference to runs of that task alone with the same settings and seed, averaged over "
        f"the seeds. The bar and the brackets are its {share} interval: {how.resamples:,} "
        "bootstrap resamples of the test users, each drawn with all rows of both runs. It says "
        "how far other users could move the figure; ± says how far other seeds move it.",
    )
    yield _entry(
        "p",
        "Two-sided sign-flip permutation test over users: how often the difference would be as "
        f"large if each user were as likely to gain as to lose it ({how.resamples:,} flips).",
    )
    yield _entry(
        "transfer",
        f"Negative where the {share} interval is on the worse side of 0 altogether, positive where "
        f"it is on the better side. Of {tests} such intervals, about "
        f"{tests * (1 - how.confidence):.1f} would miss 0 by chance alone.",
    )
    yield _entry(
        "front",
        "Blue numbers: no other group is at least as good in both metrics and better in one. A "
        "single task stands where its own metric and the other's baseline meet.",
    )
    yield _entry(
        "hypervolume",
        "The area between the front (or the one setting) and the baselines "
        f"({' and '.join(f'{v:.4f}' for v in found.reference)}), in units of both metrics; larger "
        "is better.",
    )


def _entry(term: str, text: str) -> str:
    return f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>"
