"""Checks on a dataset before anything is trained; each failure names column, row and remedy."""

from typing import Any

import numpy as np

from mtrec.data.columns import Texts
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

# Seconds since 1970 of 1900 and of 2100: what lies beyond was counted in another unit.
EARLIEST, LATEST = -2_208_988_800, 4_102_444_800


def check(dataset: Dataset) -> None:
    """Raises for the first thing in the data that training could not use.

    Rows are counted from 1, as in the files: row r of a table of users or items is row r of its
    columns, and row r of the interactions is element r - 1. A rating of NaN means that the row has
    none.

    Args:
        dataset: What a source handed over.

    Raises:
        UserError: There are no interactions, or all are of one user or one item, so that nothing
            can be told apart; an id comes twice, is empty or holds a line
            break; an interaction has no user or item; a
            rating is outside of the scale; a number is infinite; a time is before 1900 or after
            2100.
    """
    if not len(dataset.interactions["user"]):
        raise UserError(
            f"{dataset.name} must have interactions; {dataset.source} has none. "
            "Set `interactions` to a file with at least one row a user."
        )
    for table, key in (("users", dataset.user_key), ("items", dataset.item_key)):
        check_ids(table, key, getattr(dataset, table)[key][1:])
        for name, column in getattr(dataset, table).items():
            _check_finite(table, name, column)
    _check_rows("user", dataset.interactions["user"], dataset.num_users)
    _check_rows("item", dataset.interactions["item"], dataset.num_items)
    for name in ("user", "item"):
        _check_several(name, dataset.interactions[name])
    _check_ratings(dataset.interactions["rating"], dataset.rating_scale)
    check_times(dataset.interactions["timestamp"])


def check_ids(table: str, key: str, known: Texts) -> None:
    """Raises for the first id that is there twice, is empty or has a line break.

    Args:
        table: `users` or `items`.
        key: The column.
        known: The ids of its rows, from the first on.
    """
    coded = known.arrow().dictionary_encode()
    codes, distinct = coded.indices.to_numpy(), len(coded.dictionary)
    if distinct < len(codes):
        _, first = np.unique(codes, return_index=True)
        row = int(np.setdiff1d(np.arange(len(codes)), first)[0])
        raise UserError(
            f"column {key!r} of `{table}` must hold each id once; {known[row]!r} is in "
            f"rows {first[codes[row]] + 1} and {row + 1}. Leave one of them out."
        )
    if len(empty := np.flatnonzero(np.diff(known.offsets) == 0)):
        raise UserError(
            f"column {key!r} of `{table}` must hold an id in every row; row {empty[0] + 1} is "
            "empty. Fill it in, or leave the row out."
        )
    # What serves the ids keeps one a line.
    if len(broken := np.flatnonzero(_lines_broken(known))):
        raise UserError(
            f"column {key!r} of `{table}` must hold ids without a line break; got "
            f"{known[int(broken[0])]!r} in row {broken[0] + 1}. Rename it."
        )


def _lines_broken(ids: Texts) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.match_substring_regex(ids.arrow(), r"[\r\n]").to_numpy(zero_copy_only=False)


def _check_finite(table: str, name: str, column: Any) -> None:
    if column.dtype.kind == "f" and len(infinite := np.argwhere(np.isinf(column))):
        raise UserError(
            f"column {name!r} of `{table}` must hold finite numbers or nothing; got "
            f"{column[tuple(infinite[0])]} in row {infinite[0][0]}. Correct or empty it."
        )


def _check_rows(name: str, rows: np.ndarray, count: int) -> None:
    if len(outside := np.flatnonzero((rows < 1) | (rows > count))):
        raise UserError(
            f"column {name!r} of the interactions must hold row numbers from 1 to {count}; got "
            f"{rows[outside[0]]} in row {outside[0] + 1}. Add it to the table of {name}s."
        )


def _check_several(name: str, rows: np.ndarray) -> None:
    if rows.min() == rows.max():
        raise UserError(
            f"the interactions must be of two {name}s at least; all {len(rows)} are of the same "
            f"{name}. Check `{name}_key`, or give `interactions` more rows."
        )


def check_times(times: np.ndarray, *, before: int = 0, path: str = "") -> None:
    """Raises for the first time that is before 1900 or after 2100.

    Args:
        times: Seconds since 1970, `[rows]`.
        before: How many rows of the file come before them.
        path: The file, if they are of one.
    """
    outside = np.flatnonzero((times < EARLIEST) | (times > LATEST))
    if not len(outside):
        return
    received = int(times[outside[0]])
    units = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
    likely = [unit for unit, part in units.items() if 0 < received // part < LATEST]
    remedy = f"Divide them, if they are {likely[0]}" if likely else "Correct it"
    raise UserError(
        "column 'timestamp' of `interactions` must hold seconds since 1970, from the year 1900 "
        f"to 2100; got {received} in row {before + outside[0] + 1}{path and f' of {path}'}. "
        f"{remedy}, or set `timestamp`=null to "
        "do without times."
    )


def _check_ratings(ratings: np.ndarray, scale: tuple[float, float]) -> None:
    low, high = scale
    # NaN, no rating, is on neither side.
    if len(outside := np.flatnonzero((ratings < low) | (ratings > high))):
        raise UserError(
            f"column 'rating' of `interactions` must lie from {low:g} to {high:g}; got "
            f"{ratings[outside[0]]:g} in row {outside[0] + 1}. Correct it, or set "
            "`rating_scale`."
        )
