"""Checks on a dataset before anything is trained; each failure names column, row and remedy."""

import numpy as np

from mtrec.data.dataset import Dataset
from mtrec.errors import UserError


def check(dataset: Dataset) -> None:
    """Raises for the first thing in the data that training could not use.

    Rows are counted from 1, as in the files: row r of a table of users or items is row r of its
    columns, and row r of the interactions is element r - 1. A rating of NaN means that the row has
    none.

    Args:
        dataset: What a source handed over.

    Raises:
        UserError: There are no interactions; an id comes twice or is empty; an interaction has no
            user or item; a rating is outside of the scale; a number is infinite.
    """
    if not len(dataset.interactions["user"]):
        raise UserError(
            f"{dataset.name} must have interactions; {dataset.source} has none. "
            "Set data.interactions to a file with at least one row a user."
        )
    for table, key in (("users", dataset.user_key), ("items", dataset.item_key)):
        _check_ids(table, key, getattr(dataset, table)[key])
        for name, column in getattr(dataset, table).items():
            _check_finite(table, name, column)
    _check_rows("user", dataset.interactions["user"], dataset.num_users)
    _check_rows("item", dataset.interactions["item"], dataset.num_items)
    _check_ratings(dataset.interactions["rating"], dataset.rating_scale)


def _check_ids(table: str, key: str, ids: np.ndarray) -> None:
    known = ids[1:]
    order = np.argsort(known, kind="stable")
    repeated = order[1:][known[order[1:]] == known[order[:-1]]]
    if len(repeated):
        row = int(repeated.min())
        first = int(np.flatnonzero(known == known[row])[0])
        raise UserError(
            f"column {key!r} of data.{table} must hold each id once; {str(known[row])!r} is in "
            f"rows {first + 1} and {row + 1}. Leave one of them out."
        )
    if len(empty := np.flatnonzero(known == "")):
        raise UserError(
            f"column {key!r} of data.{table} must hold an id in every row; row {empty[0] + 1} is "
            "empty. Fill it in, or leave the row out."
        )


def _check_finite(table: str, name: str, column: np.ndarray) -> None:
    if column.dtype.kind == "f" and len(infinite := np.argwhere(np.isinf(column))):
        raise UserError(
            f"column {name!r} of data.{table} must hold finite numbers or nothing; got "
            f"{column[tuple(infinite[0])]} in row {infinite[0][0]}. Correct or empty it."
        )


def _check_rows(name: str, rows: np.ndarray, count: int) -> None:
    if len(outside := np.flatnonzero((rows < 1) | (rows > count))):
        raise UserError(
            f"column {name!r} of the interactions must hold row numbers from 1 to {count}; got "
            f"{rows[outside[0]]} in row {outside[0] + 1}. Add it to the table of {name}s."
        )


def _check_ratings(ratings: np.ndarray, scale: tuple[float, float]) -> None:
    low, high = scale
    # NaN, no rating, is on neither side.
    if len(outside := np.flatnonzero((ratings < low) | (ratings > high))):
        raise UserError(
            f"column 'rating' of data.interactions must lie from {low:g} to {high:g}; got "
            f"{ratings[outside[0]]:g} in row {outside[0] + 1}. Correct it, or set "
            "data.rating_scale."
        )
