"""A user's own interactions, with or without tables of items and users."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data.cache import digest_of
from mtrec.data.columns import Columns, Texts, with_unknown
from mtrec.data.dataset import Dataset
from mtrec.data.table_file import Ids, TableFile, read_table_file
from mtrec.data.validate import check
from mtrec.errors import UserError

# Of data without any ratings: nothing is ever compared with it.
_NO_RATING_SCALE = (0.0, 1.0)


def load(
    *,
    interactions: Any,
    items: Any,
    users: Any,
    user_key: str,
    item_key: str,
    rating: str | None,
    labels: list[str],
    negative: str | None,
    timestamp: str | None,
    title: str | None,
    rating_scale: list[float] | None,
    bag_columns: list[str],
    bag_separator: str,
) -> Dataset:
    """Returns the dataset that CSV or Parquet files hold.

    Every column of the items and users files is carried along: numbers as float32 (an empty cell
    becomes NaN), lists and `bag_columns` as bags, all else as text. Users and items have the order
    of their files, or else of their first interaction.

    Args:
        interactions: With one row an interaction: a file, a folder or a pattern of files, or a
            list of these; see `mtrec.data.table_file.read_table_file`.
        items: With one row an item, likewise; `None` takes the ids in `interactions`.
        users: With one row a user, likewise; `None` takes the ids in `interactions`.
        user_key: Column of user ids, in `interactions` and `users`.
        item_key: Column of item ids, in `interactions` and `items`.
        rating: Column of ratings in `interactions`; an empty cell is a row without one. `None`: no
            row has one.
        labels: Further columns of numbers in `interactions` that heads may learn, such as clicks or
            seconds watched; an empty cell is a row without.
        negative: Column of item ids in `interactions`: one that the user was shown with the row and
            did not take; an empty cell is a row without. `None`: no row has one.
        timestamp: Column of times in `interactions`, in seconds or as dates. `None`: all 0.
        title: Column of `items` that people read; `None` takes the ids.
        rating_scale: Lowest and highest rating; `None` takes those in the data.
        bag_columns: Text columns of `items` or `users` that hold several labels a cell.
        bag_separator: What stands between two labels.

    Raises:
        UserError: A file, a column or a cell is not as it must be; the message names it.
    """
    scale = None if rating_scale is None else _checked_scale(rating_scale)
    _check_labels(labels)
    if user_key == item_key:
        raise UserError(
            f"data.user_key and data.item_key must name two columns; got {user_key!r} for both. "
            "Correct one of them."
        )
    named = (user_key, item_key, rating, *labels, negative, timestamp)
    wanted = [name for name in named if name is not None]
    log = read_table_file(interactions, option="data.interactions", columns=wanted)
    user_file = None if users is None else read_table_file(users, option="data.users")
    item_file = None if items is None else read_table_file(items, option="data.items")
    _check_bags(bag_columns, user_file, item_file)
    how = {"texts": [title], "bags": bag_columns, "separator": bag_separator}
    user_ids = {user_key: log.ids(user_key, named_by="data.user_key")}
    item_ids = {item_key: log.ids(item_key, named_by="data.item_key")}
    if negative is not None:
        item_ids[negative] = log.ids(negative, named_by="data.negative", optional=True)
    user_columns, (user,) = _side(log, user_file, user_key, "data.user_key", user_ids, how)
    item_columns, (item, *refused) = _side(log, item_file, item_key, "data.item_key", item_ids, how)
    _check_title(title, item_columns)
    rows: Columns = {
        "user": user,
        "item": item,
        "rating": np.full(len(user), np.nan, dtype=np.float32),
        "timestamp": np.zeros(len(user), dtype=np.int64),
    }
    if rating is not None:
        rows["rating"] = log.ratings(rating, named_by="data.rating", scale=scale)
    if negative is not None:
        (rows["negative"],) = refused
    for name in labels:
        rows[name] = log.ratings(name, named_by="data.labels", scale=None)
    if timestamp is not None:
        rows["timestamp"] = log.times(timestamp, named_by="data.timestamp")
    dataset = Dataset(
        name=Path(log.path.split(", ")[0]).name.split(".")[0],
        users=user_columns,
        items=item_columns,
        interactions=rows,
        user_key=user_key,
        item_key=item_key,
        title=item_key if title is None else title,
        rating_scale=scale or _observed_scale(rows["rating"]),
        source=log.path,
        digest=digest_of(users=user_columns, items=item_columns, interactions=rows),
    )
    check(dataset)
    return dataset


def _side(
    log: TableFile,
    file: TableFile | None,
    key: str,
    named_by: str,
    ids: Mapping[str, Ids],
    how: Mapping[str, Any],
) -> tuple[Columns, list[np.ndarray]]:
    """Returns the columns of the users or the items, and their rows for each of `log`'s `ids`."""
    import pyarrow as pa

    if file is None:
        known = pa.chunked_array([column.values for column in ids.values()]).unique()
    else:
        given = file.ids(key, named_by=named_by)
        known = given.values.take(given.codes)
    columns: Columns = {key: Texts.of_arrow(known)}
    if file is not None:
        columns |= file.features(without=key, **how)
    columns = {name: with_unknown(column) for name, column in columns.items()}
    return columns, [_rows(chosen, known, name, log, file) for name, chosen in ids.items()]


def _rows(chosen: Ids, known: Any, name: str, log: TableFile, file: TableFile | None) -> np.ndarray:
    """Returns the row number of each id, int32, 0 for none, and refuses one that `file` lacks."""
    import pyarrow.compute as pc

    found = pc.fill_null(pc.index_in(chosen.values, value_set=known), -1).to_numpy()
    # The last entry is for rows without an id.
    rows = np.append(found, -1).astype(np.int32)[chosen.codes]
    lacking = np.flatnonzero((chosen.codes >= 0) & (rows < 0))
    if file is not None and len(lacking):
        received = chosen.values[int(chosen.codes[lacking[0]])].as_py()
        raise UserError(
            f"column {name!r} of data.interactions must hold ids that {file.option} has; got "
            f"{received!r} in {log.place(int(lacking[0]))}. "
            f"Add it to {file.path}, or leave the row out."
        )
    return rows + 1


def _check_labels(labels: Sequence[str]) -> None:
    for name in (*Dataset.KEYS, "rating"):
        if name in labels:
            raise UserError(
                f"data.labels must not name a column {name!r}, as interactions have one of their "
                "own. Rename it in the file."
            )


def _check_bags(bag_columns: Sequence[str], *files: TableFile | None) -> None:
    known = [name for file in files if file is not None for name in file.columns]
    for name in bag_columns:
        if name not in known:
            raise UserError(
                f"data.bag_columns must name columns of data.items or data.users; got {name!r}, "
                f"they have {', '.join(known) or 'no columns'}. Correct or remove it."
            )


def _check_title(title: str | None, columns: Columns) -> None:
    if title is not None and title not in columns:
        raise UserError(
            f"data.title must name a column of the items; got {title!r}, they have "
            f"{', '.join(columns)}. Set data.title to one of them."
        )


def _checked_scale(given: Sequence[float]) -> tuple[float, float]:
    if len(given) != 2 or not given[0] < given[1]:
        raise UserError(
            f"data.rating_scale must be the lowest and the highest rating; got {list(given)}. "
            "Set data.rating_scale=[1,5]."
        )
    return float(given[0]), float(given[1])


def _observed_scale(ratings: np.ndarray) -> tuple[float, float]:
    if np.isnan(ratings).all():
        return _NO_RATING_SCALE
    low, high = float(np.nanmin(ratings)), float(np.nanmax(ratings))
    if low == high:
        raise UserError(
            f"data.rating_scale must be given where all ratings are alike; every one is {low:g}. "
            "Set data.rating_scale=[1,5], or data.rating=null if they mean nothing."
        )
    return low, high
