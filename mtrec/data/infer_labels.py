"""Which columns of the interactions heads could learn, and what each costs at the start."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrec.data import names
from mtrec.data.infer_features import key_of
from mtrec.data.profile import Profile
from mtrec.errors import UserError

# The most levels of what is a rating by its values alone.
_MOST_LEVELS = 11
# The largest share of zeros of what is an amount by its values alone.
_MOST_ZEROS = 0.9


class Label(NamedTuple):
    """A column that a head could learn.

    Attributes:
        column: Its name.
        name: What to call the head.
        head: `rating`, `binary`, or `log` for a regression on the logarithm.
        cost: What predicting a constant costs a row at best.
        at_least: From where on it is positive, for `binary`.
    """

    column: str
    name: str
    head: str
    cost: float
    at_least: float | None = None


class Labels(NamedTuple):
    """All labels, the column of ratings, and the column of what was taken; see `Proposal`."""

    labels: Sequence[Label]
    rating: str | None
    positive: str | None


def labels_of(rows: Mapping[str, Profile], given: Mapping[str, Any], unsure: list[str]) -> Labels:
    """The labels among columns that belong to the single rows.

    Args:
        rows: Those columns.
        given: Options that are decided.
        unsure: Where to say what might be otherwise.
    """
    found: dict[str, str] = {}
    levelled = []
    for name, column in rows.items():
        chosen = name in given.get("labels", ())
        named = chosen or names.names_amount(name) or names.names_rating(name)
        if name == given.get("rating"):
            found[name] = "rating"
        elif "labels" in given and not chosen:
            continue
        elif column.num_values > 2 and not named and _has_levels(column):
            levelled.append(name)
        elif head := _head(column, named=named, unsure=unsure):
            found[name] = head
    rating = given["rating"] if "rating" in given else _rating(found, given)
    if levelled and not (rating or "rating" in given):
        rating = _only(levelled)
        found[rating] = "rating"
        unsure.append(f"{rating} is a rating, by its few levels alone.")
        levelled = []
    unsure += [f"{name} was left out: a rating has been found." for name in levelled]
    labels: list[Label] = []
    for name in sorted(found, key=lambda name: name != rating):
        taken = {"retrieval", "rating", *(label.name for label in labels)}
        called = "rating" if name == rating else key_of(name, taken)
        labels.append(_label(rows[name], found[name], called))
    marks = [
        (float(np.mean(rows[label.column].filled())), label.column)
        for label in labels
        if label.head == "binary" and names.names_taken(label.column)
    ]
    positive = max(marks)[1] if marks else None
    if positive:
        unsure.append(
            f"{positive} marks what users took: the other rows are of items shown in vain."
        )
    return Labels(labels, rating, positive)


def _only(levelled: Sequence[str]) -> str:
    if len(levelled) > 1:
        raise UserError(
            f"`rating` must be given, as several columns may hold it: {', '.join(levelled)}. "
            "Set `rating` to one of them, or `rating`=null if none does."
        )
    return levelled[0]


def _rating(found: Mapping[str, str], given: Mapping[str, Any]) -> str | None:
    """The column of ratings: the one that is called so most clearly."""
    ratings = [name for name, head in found.items() if head == "rating"]
    ratings = [name for name in ratings if name not in given.get("labels", [])]
    clear = [name for name in ratings if {"rating", "overall"} & set(names.words(name))]
    return next(iter(clear or ratings), None)


def _head(column: Profile, *, named: bool, unsure: list[str]) -> str | None:
    """The head that could learn a column, `rating`, `binary` or `log`, or None."""
    name = column.name
    values = column.filled()
    if column.num_values == 2:
        if not (named or names.names_outcome(name)):
            unsure.append(f"{name} came of the row, as its two values: it may have caused it.")
        return "binary"
    if names.names_rating(name) and not names.names_amount(name):
        if values.min() in (-1, 0) and np.mean(values == values.min()) > 0.3:
            unsure.append(f"{name} is a rating, of which {values.min():g} may mean none.")
        return "rating"
    if not named:
        if not _is_skewed(values):
            unsure.append(f"{name} was left out: neither a rating nor an amount, as it seems.")
            return None
        if (share := np.mean(values == 0)) > _MOST_ZEROS:
            unsure.append(f"{name} was left out: {share:.0%} of the rows have none of it.")
            return None
        unsure.append(f"{name} is an amount, by its values alone.")
    if values.min() < 0:
        unsure.append(f"{name} was left out: an amount below 0 has no logarithm.")
        return None
    return "log"


def _has_levels(column: Profile) -> bool:
    """Whether numbers are a few whole or half ones, of which the low are not the most."""
    few = column.num_values <= _MOST_LEVELS and np.all(2 * column.distinct % 1 == 0)
    return bool(few) and not _is_skewed(column.filled())


def _is_skewed(values: np.ndarray) -> bool:
    """Whether low values are many and high ones far, as with counts."""
    return bool(values.min() >= 0 and values.mean() > np.median(values)) and _skewness(values) > 1


def _skewness(values: np.ndarray) -> float:
    deviation = values.std()
    return float(np.mean(((values - values.mean()) / deviation) ** 3)) if deviation else 0.0


def _label(column: Profile, head: str, name: str) -> Label:
    values = column.filled()
    if head == "binary":
        share = float(np.mean(values == values.max()))
        cost = -share * np.log(share) - (1 - share) * np.log(1 - share)
        return Label(column.name, name, head, float(cost), float(values.max()))
    cost = np.var(np.log1p(values) if head == "log" else values)
    return Label(column.name, name, head, float(cost))
