"""What a dataset and its split are like, counted before anything is trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtrec.data.columns import Bags, Texts
from mtrec.data.copies import first_copies
from mtrec.data.dataset import Dataset
from mtrec.data.leaks import leak
from mtrec.data.marks import ascending, is_among
from mtrec.data.requests import CONTEXT, numbers
from mtrec.data.split import Split

# Points of the popularity curve, bars of a histogram, and rows that equality is looked for in.
_POINTS, _BARS, _SAMPLE = 101, 20, 200_000


class Part(NamedTuple):
    """A held-out part; shares are of its rows.

    Attributes:
        name: `validation` or `test`.
        rows: Its rows.
        cold_users: Share whose user has no row that the model may know.
        cold_items: The same of items.
        repeats: Share whose user is known to have taken the item before.
        earlier: Share that is earlier than the last row to fit; NaN without times.
    """

    name: str
    rows: int
    cold_users: float
    cold_items: float
    repeats: float
    earlier: float


class Histogram(NamedTuple):
    """A label: the share of rows that have it, its mean, and how many rows are in each bar.

    Attributes:
        name: The label.
        filled: Share of rows that have it.
        mean: Its mean.
        edges: Bar b is from `edges[b]` to `edges[b + 1]`; where a bar is a value, that value.
        counts: Rows of each bar.
        logarithmic: Whether bars are as wide on the scale of log(1 + label).
    """

    name: str
    filled: float
    mean: float
    edges: Sequence[float]
    counts: Sequence[int]
    logarithmic: bool


@dataclass(frozen=True)
class Facts:
    """See `facts_of`.

    Attributes:
        rows: Interactions.
        users: Users that have some.
        items: Items that have some.
        density: Share of all pairs of these that occur.
        span: First and last time, seconds since 1970; None without times.
        repeats: Share of rows whose user has an earlier row of the item.
        copies: Rows that are like an earlier one in every column.
        parts: The held-out parts.
        missing: Share without a value, by column, where there are some.
        popularity: Share of the rows that the most popular items have, at 0, 1, ... 100 % of them.
        labels: A histogram each.
        leaks: Sentences about what a model should not know, and would.
    """

    rows: int
    users: int
    items: int
    density: float
    span: tuple[int, int] | None
    repeats: float
    copies: int
    parts: Sequence[Part]
    missing: Mapping[str, float]
    popularity: Sequence[float]
    labels: Sequence[Histogram]
    leaks: Sequence[str]


def facts_of(dataset: Dataset, parts: Split) -> Facts:
    """Counts what the data is like; every column is looked at once."""
    log = {name: np.asarray(column) for name, column in dataset.interactions.items()}
    pairs = log["user"].astype(np.int64) * (dataset.num_items + 1) + log["item"]
    distinct = len(ascending(pairs))
    counts = np.bincount(log["item"], minlength=dataset.num_items + 1)[1:]
    users, items = len(np.unique(log["user"])), int(np.count_nonzero(counts))
    rows, times = len(pairs), log["timestamp"]
    first = first_copies(log)
    timed = rows and times.min() < times.max()
    labels = [label for label in dataset.labels if np.isfinite(log[label]).any()]
    return Facts(
        rows=rows,
        users=users,
        items=items,
        density=distinct / (users * items),
        span=(int(times.min()), int(times.max())) if timed else None,
        repeats=1 - distinct / rows,
        copies=int(np.count_nonzero(first != np.arange(rows))),
        parts=list(_held_out(log, pairs, parts, bool(timed))),
        missing=dict(_missing(dataset, labels)),
        popularity=_curve(counts),
        labels=[_histogram(name, log[name]) for name in labels],
        leaks=[*_shared_rows(first, parts), *_tell_labels(dataset, log, labels)],
    )


def _held_out(
    log: Mapping[str, np.ndarray], pairs: np.ndarray, parts: Split, timed: bool
) -> Iterator[Part]:
    known = {"validation": parts.fit, "test": parts.train}
    for name, before in known.items():
        rows = getattr(parts, name)
        if not len(rows):
            continue
        last = log["timestamp"][parts.fit].max()
        yield Part(
            name=name,
            rows=len(rows),
            cold_users=float(np.mean(~np.isin(log["user"][rows], log["user"][before]))),
            cold_items=float(np.mean(~np.isin(log["item"][rows], log["item"][before]))),
            repeats=float(np.mean(is_among(pairs[rows], pairs[before]))),
            earlier=float(np.mean(log["timestamp"][rows] < last)) if timed else float("nan"),
        )


def _missing(dataset: Dataset, labels: Sequence[str]) -> Iterator[tuple[str, float]]:
    for table in ("users", "items"):
        for name, column in getattr(dataset, table).items():
            share = _share_empty(column)
            if share:
                yield f"{table}.{name}", share
    for name in labels:
        share = float(np.mean(np.isnan(dataset.interactions[name])))
        if share:
            yield f"interactions.{name}", share


def _share_empty(column: Any) -> float:
    """Of the known users or items."""
    if isinstance(column, Texts | Bags):
        return float(np.mean(np.diff(column.offsets)[1:] == 0)) if len(column) > 1 else 0.0
    known = np.asarray(column)[1:]
    return float(np.mean(np.isnan(known))) if len(known) and known.dtype.kind == "f" else 0.0


def _curve(counts: np.ndarray) -> list[float]:
    taken = np.concatenate([[0], np.cumsum(np.sort(counts[counts > 0])[::-1])])
    places = np.linspace(0, len(taken) - 1, _POINTS)
    shares = np.interp(places, np.arange(len(taken)), taken / taken[-1])
    return [float(share) for share in shares]


def _histogram(name: str, column: np.ndarray) -> Histogram:
    values = column[np.isfinite(column)].astype(np.float64)
    levels, counts = np.unique(values, return_counts=True)
    edges, long_tail = levels, False
    if len(levels) > _BARS:
        low, high = values.min(), values.max()
        # Counts and amounts have a long tail, which even bars would not show.
        long_tail = bool(low >= 0 and high > 20 * np.median(values))
        edges = np.linspace(low, high, _BARS + 1)
        if long_tail:
            edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), _BARS + 1))
            edges[[0, -1]] = low, high  # which rounding has moved
        counts, _ = np.histogram(values, edges)
    filled, mean = float(len(values) / len(column)), float(values.mean())
    return Histogram(name, filled, mean, edges.tolist(), counts.tolist(), long_tail)


def _shared_rows(first: np.ndarray, parts: Split) -> Iterator[str]:
    """A row is in a part, and its like in another."""
    part = np.zeros(len(first), np.int8)
    part[parts.validation], part[parts.test] = 1, 2
    for number, name in ((1, "validation"), (2, "test")):
        shared = int(np.count_nonzero((part == number) & (part[first] != number)))
        if shared:
            yield f"rows of {name} that are like one of another part in every column: {shared:,}."


def _tell_labels(
    dataset: Dataset, log: Mapping[str, np.ndarray], labels: Sequence[str]
) -> Iterator[str]:
    """A feature of users, items or requests, or another label, tells a label."""
    step = max(1, len(log["user"]) // _SAMPLE)
    sample = {name: column[::step] for name, column in log.items()}
    others: dict[str, np.ndarray] = {}
    for table, owner in (("users", "user"), ("items", "item")):
        for name, column in getattr(dataset, table).items():
            if _numbers(column):
                others[f"{table}.{name}"] = column[sample[owner]]
    others |= {label: sample[label] for label in labels}
    for place, label in enumerate(labels):
        for name, values in others.items():
            if name not in labels[: place + 1]:
                yield from _told(leak(name, label, sample[label], numbers=values))
    if not dataset.requests:
        return
    request = numbers(log["user"], log["timestamp"], log.get("request"))
    rows = np.arange(1, len(request) + 1)[:: max(1, len(request) // _SAMPLE)]
    for name, column in dataset.requests.items():
        codes = np.full(len(request), -1)
        codes[rows - 1] = np.unique(np.asarray(column[rows]), return_inverse=True)[1]
        held = column[1:] if _numbers(column) else None
        for label in labels:
            truth, found = log[label], f"{CONTEXT}{name}"
            told = leak(found, label, truth, numbers=held, codes=codes, request=request)
            yield from _told(told)


def _numbers(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biuf"


def _told(found: str | None) -> Iterator[str]:
    if found:
        yield found
