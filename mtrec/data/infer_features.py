"""Which features the columns of users and items could be."""

import itertools
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from mtrec.data import names
from mtrec.data.profile import Profile

_SEPARATORS = ("|", ";", ",")
# Numbers with so few values are taken one by one.
_FEW = 12
_BINS = 10


def features_of(
    columns: Mapping[str, Profile],
    num_owners: int,
    *,
    without: str | None,
    bags: Sequence[str],
    unsure: list[str],
) -> dict[str, Any]:
    """Features by name, as config nodes.

    Args:
        columns: The columns of one of users and items, without the ids.
        num_owners: How many users or items there are.
        without: A column that is none, such as the title.
        bags: Columns that hold several labels a cell.
        unsure: Where to say what might be otherwise.
    """
    found: dict[str, Any] = {}
    for name, column in columns.items():
        nested = column.kind in ("lists", "vectors")
        if name == without or (column.num_values < 2 and not nested):
            continue
        node = {"_target_": "mtrec.Categorical"} if name in bags else _feature(column, num_owners)
        if node is None:
            unsure.append(f"{name} was left out: nearly every one has its own.")
            continue
        key = key_of(name, {"rated", "user_id", "item_id", *found})
        found[key] = {"_target_": node.pop("_target_"), "column": name, **node}
    return found


def key_of(name: str, taken: Container[str]) -> str:
    """A key of the config for what reads a column, unlike those that are taken."""
    plain = re.sub(r"\W+", "_", name.lower()).strip("_") or "column"
    further = (f"{plain}_{number}" for number in itertools.count(2))
    return next(key for key in itertools.chain([plain], further) if key not in taken)


def _feature(column: Profile, num_owners: int) -> dict[str, Any] | None:
    """How a column is read; None if it says nothing that owners have in common."""
    if column.kind == "vectors":
        return {"_target_": "mtrec.Vectors"}
    if column.kind == "text" and "://" in column.values[0].as_py():
        return None
    # Texts of several words are read word by word.
    if column.kind == "text" and _words_each(column) >= 4:
        return {"_target_": "mtrec.Text", "max_words": 30, "min_count": 2}
    if column.kind == "numbers" and not _is_code(column):
        values = column.filled()
        apart = (values - values.mean()) / values.std()
        if not column.whole and abs(float(np.mean(apart**3))) < 1:
            return {"_target_": "mtrec.Numeric"}
        return {"_target_": "mtrec.Bucketized", "bins": _BINS}
    if column.kind != "lists" and 2 * column.num_values > num_owners > 2:
        return None
    return {"_target_": "mtrec.Categorical"}


def _is_code(column: Profile) -> bool:
    """Whether numbers only tell groups apart."""
    if not column.whole:
        return False
    digits = np.floor(np.log10(np.maximum(column.distinct, 1))) + 1
    alike = digits.min() == digits.max() > 4
    return column.num_values <= _FEW or names.names_category(column.name) or bool(alike)


def _words_each(column: Profile) -> float:
    sample = column.values[:1000].to_pylist()
    return float(np.mean([len(re.findall(r"\w+", text)) for text in sample]))


def title_of(columns: Mapping[str, Profile], num_items: int) -> str | None:
    """The column that people read of an item; None if there is none."""
    found = {
        name: names.names_title(name)
        for name, p in columns.items()
        if p.kind == "text" and 2 * p.num_values > num_items
    }
    best = max(found, key=lambda name: found[name], default=None)
    return best if best is not None and found[best] else None


def separator_of(
    sides: Mapping[str, Mapping[str, Profile]], given: Mapping[str, Any], *, without: str | None
) -> tuple[str, list[str]]:
    """What stands between labels, and the columns that hold several labels a cell.

    They are texts in which fewer labels than texts occur.
    """
    texts = {n: p for side in sides.values() for n, p in side.items() if p.kind == "text"}
    texts.pop(without or "", None)
    marks = (given["bag_separator"],) if "bag_separator" in given else _SEPARATORS
    bags = {mark: [name for name, p in texts.items() if _is_bag(p, mark)] for mark in marks}
    best = max(bags, key=lambda mark: len(bags[mark]))
    return best, list(given.get("bag_columns", bags[best]))


def _is_bag(column: Profile, mark: str) -> bool:
    cells = column.values.to_pylist()
    several = [cell for cell in cells if mark in cell]
    labels = {label.strip() for cell in cells for label in cell.split(mark)}
    return len(several) > 0.05 * len(cells) and len(labels) < len(cells)
