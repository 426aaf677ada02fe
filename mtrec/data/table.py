"""A user's own interactions, with or without tables of items and users."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data.arrow_columns import plain
from mtrec.data.cache import cached, digest_of, fingerprint
from mtrec.data.columns import Columns, Texts, with_unknown
from mtrec.data.dataset import Dataset
from mtrec.data.files import Files
from mtrec.data.sorted_log import LackingIdError, SortedLog
from mtrec.data.table_file import TableFile
from mtrec.data.table_options import (
    check_bags,
    check_options,
    check_owned,
    check_title,
    checked_scale,
)
from mtrec.data.validate import check, check_ids, check_times
from mtrec.data.vector_files import read_vectors
from mtrec.errors import UserError, require

# Part of the cache key: raise it when the columns below are made in another way.
_COLUMNS_VERSION = 2

# Of data without any ratings: nothing is ever compared with it.
_NO_RATING_SCALE = (0.0, 1.0)


def load(
    *,
    interactions: str | list[str],
    items: str | list[str] | None,
    users: str | list[str] | None,
    user_key: str,
    item_key: str,
    rating: str | None,
    labels: list[str],
    negative: str | None,
    timestamp: str | None,
    timestamp_format: str | None,
    context: list[str],
    request: str | None,
    user_columns: list[str],
    item_columns: list[str],
    user_vectors: dict[str, list[str]],
    item_vectors: dict[str, list[str]],
    title: str | None,
    rating_scale: list[float] | None,
    bag_columns: list[str],
    bag_separator: str,
    cache_dir: str,
    memory_budget_mib: int,
) -> Dataset:
    """Returns the dataset that CSV, Parquet or Arrow files hold, its columns memory-mapped.

    The interactions are sorted by user, then by time, then as the files have them; that needs no
    more memory than is given for it, whatever their number. They are kept in `cache_dir` until a
    file or an option changes. Every column of the items and users files is carried along: numbers
    as float32 (an empty cell becomes NaN), lists and `bag_columns` as bags, all else as text. Users
    and items have the order of their files, or else of their first interaction.

    A file may be a folder of files, a pattern such as `log/*.parquet`, any of these at an address
    that fsspec knows, such as `s3://bucket/log`, or a list of them: see `mtrec.data.files.Files`.

    Args:
        interactions: File with one row an interaction.
        items: File with one row an item; `None` takes the ids in `interactions`.
        users: File with one row a user; `None` takes the ids in `interactions`.
        user_key: Column of user ids, in `interactions` and `users`.
        item_key: Column of item ids, in `interactions` and `items`.
        rating: Column of ratings in `interactions`; an empty cell is a row without one. `None`: no
            row has one.
        labels: Further columns of numbers in `interactions` that heads may learn, such as clicks or
            seconds watched; an empty cell is a row without.
        negative: Column of item ids in `interactions`: one that the user was shown with the row and
            did not take; an empty cell is a row without. `None`: no row has one.
        timestamp: Column of times in `interactions`, in seconds or as dates. `None`: all 0.
        timestamp_format: How they are written, if not in seconds or as ISO 8601: what `strptime`
            takes, such as `%m/%d/%Y`, or what they count since 1970 (D, ms or another unit).
        context: Columns of `interactions` that are known when one asks, such as a device.
        request: Column of `interactions` whose value the rows of one request of a user have alike,
            such as a basket's id. `None`: they have one time.
        user_columns: Columns of `interactions` that belong to the users, such as their age: each
            has there what most of their rows have, or of as frequent values the first.
        item_columns: Columns of `interactions` that belong to the items.
        user_vectors: Further columns of the users by name, each of two local `.npy` files: vectors
            `[rows, F]`, and the ids that they are of.
        item_vectors: The same of the items.
        title: Column of `items` that people read; `None` takes the ids.
        rating_scale: Lowest and highest rating; `None` takes those in the data.
        bag_columns: Text columns of `items` or `users` that hold several labels a cell.
        bag_separator: What stands between two labels.
        cache_dir: Where prepared columns are kept.
        memory_budget_mib: What this process may hold in memory to prepare the interactions, in MiB.

    Raises:
        UserError: A file, a column or a cell is not as it must be; the message names it.
    """
    require("`memory_budget_mib`", memory_budget_mib, least=256)
    options: dict[str, Any] = {
        "user_key": user_key,
        "item_key": item_key,
        "rating": rating,
        "labels": list(labels),
        "negative": negative,
        "timestamp": timestamp,
        "timestamp_format": timestamp_format,
        "context": list(context),
        "request": request,
        "user_columns": list(user_columns),
        "item_columns": list(item_columns),
        "user_vectors": dict(user_vectors),
        "item_vectors": dict(item_vectors),
        "title": title,
        "scale": None if rating_scale is None else checked_scale(rating_scale),
        "bag_columns": list(bag_columns),
        "bag_separator": bag_separator,
    }
    check_options(options)
    sources = {"interactions": interactions, "items": items, "users": users}
    files = {
        name: Files.of(path, option=name) for name, path in sources.items() if path is not None
    }
    key = _key(_name(interactions), files, options)

    def build(folder: Path) -> Dataset:
        return _Preparation(files, folder, memory_budget_mib, **options).dataset(key["name"])

    return cached(cache_dir=cache_dir, key=key, build=build)


def _name(paths: str | list[str]) -> str:
    """What data is called: the first file or folder, or of a pattern the folder it looks in."""
    path = paths if isinstance(paths, str) else paths[0]
    parts = [part for part in Path(path).parts if not set(part) & set("*?[")]
    return parts[-1].split(".")[0] if parts else "table"


def _key(name: str, files: Mapping[str, Files], options: Mapping[str, Any]) -> dict[str, Any]:
    """All that shapes the columns."""
    vectors = [options["user_vectors"], options["item_vectors"]]
    return {
        "name": name,
        "columns": _COLUMNS_VERSION,
        "files": {name: found.fingerprint() for name, found in files.items()},
        "vectors": fingerprint(
            Path(f) for given in vectors for pair in given.values() for f in pair
        ),
        **options,
    }


class _Preparation:
    """Makes a dataset of files in a folder of its own; see `load` for the options."""

    def __init__(
        self, files: Mapping[str, Files], folder: Path, memory_budget_mib: int, **options: Any
    ) -> None:
        self._log = files["interactions"]
        self._side = {name: file.whole() for name, file in files.items() if file is not self._log}
        self._folder = folder
        self._budget = memory_budget_mib
        self._keys = {"user": options["user_key"], "item": options["item_key"]}
        self._options = options
        # The row before each chunk of the log, and where it is read from.
        self._firsts: list[int] = []
        self._chunks: list[tuple[str, int]] = []

    def dataset(self, name: str) -> Dataset:
        """The dataset, named so."""
        options = self._options
        known = {
            side: [*(file.columns if (file := self._side.get(f"{side}s")) else [key])]
            + options[f"{side}_columns"]
            + list(options[f"{side}_vectors"])
            for side, key in self._keys.items()
        }
        for side, columns in known.items():
            check_owned(side, columns)
        check_bags(options["bag_columns"], [*known["item"], *known["user"]])
        check_title(options["title"], known["item"])
        numbered = {"user": ["user"], "item": ["item"]}
        types: dict[str, Any] = {"user": np.int32, "item": np.int32, "rating": np.float32}
        types |= {"timestamp": np.int64, **dict.fromkeys(options["labels"], np.float32)}
        if options["negative"] is not None:
            numbered["item"].append("negative")
            types["negative"] = np.int32
        coded = [f"context{place}" for place in range(len(options["context"]))]
        coded += ["request"] * (options["request"] is not None)
        numbered |= {name: [name] for name in coded}
        types |= dict.fromkeys(coded, np.int32)
        tables: Any = {}
        with SortedLog.of(self._read(), folder=self._folder, memory_budget_mib=self._budget) as log:
            for side in self._keys:
                tables[f"{side}s"] = self._numbered(log, side, numbered[side])
            values = {name: log.number(name, [name], None) for name in coded}
            rows = log.sorted(numbered, types)
        tables["requests"] = {
            name: self._context(name, values[code], rows.pop(code))
            for name, code in zip(options["context"], coded, strict=False)
        }
        dataset = Dataset(
            name=name,
            **tables,
            interactions=rows,
            user_key=self._keys["user"],
            item_key=self._keys["item"],
            title=self._keys["item"] if options["title"] is None else options["title"],
            rating_scale=options["scale"] or _observed_scale(rows["rating"]),
            source=self._log.path,
            digest=digest_of(**tables, interactions=rows),
        )
        check(dataset)
        return dataset

    def _read(self) -> Iterator[Any]:
        """The log as tables of Arrow, every cell checked but for whether its ids are given."""
        import pyarrow as pa

        options = self._options
        named = ("user_key", "item_key", "rating", "negative", "timestamp", "request")
        wanted = [options[name] for name in named if options[name] is not None]
        time_type, first = options["timestamp_format"], 0
        wanted += options["labels"] + options["user_columns"] + options["item_columns"]
        wanted += options["context"]
        for chunk in self._log.chunks(wanted):
            if options["timestamp"] is not None and time_type is None:
                time_type = chunk.time_type(options["timestamp"], named_by="timestamp")
            count = len(chunk.rows)
            self._firsts.append(first)
            self._chunks.append((chunk.path, chunk.first))
            first += count
            yield pa.table(self._typed(chunk, time_type, count))

    def _typed(self, chunk: TableFile, time_type: Any, count: int) -> Columns:
        options = self._options
        columns: Columns = {
            side: chunk.ids(key, named_by=f"{side}_key") for side, key in self._keys.items()
        }
        if options["negative"] is not None:
            columns["negative"] = chunk.ids(options["negative"], named_by="negative", optional=True)
        columns["rating"] = np.full(count, np.nan, np.float32)
        if options["rating"] is not None:
            columns["rating"] = chunk.ratings(
                options["rating"], named_by="rating", scale=options["scale"]
            )
        columns["timestamp"] = np.zeros(count, np.int64)
        if options["timestamp"] is not None:
            columns["timestamp"] = chunk.times(
                options["timestamp"], time_type, named_by="timestamp"
            )
            check_times(columns["timestamp"], before=chunk.first, path=chunk.path)
        for name in options["labels"]:
            columns[name] = chunk.ratings(name, named_by="labels", scale=None)
        if options["request"] is not None:
            columns["request"] = chunk.ids(options["request"], named_by="request")
        for place, name in enumerate(options["context"]):
            chunk.column(name, named_by="context")  # refuses lists
            columns[f"context{place}"] = chunk.cells(name, named_by="context")
        for side in self._keys:
            for name in options[f"{side}_columns"]:
                column = chunk.cells(name, named_by=f"{side}_columns")
                columns[_owned(side, name)] = column
        return columns

    def _numbered(self, log: SortedLog, side: str, columns: Sequence[str]) -> Columns:
        """The columns of the users or the items, whose ids in the log are numbered."""
        import pyarrow as pa

        key, file = self._keys[side], self._side.get(f"{side}s")
        if file is None:
            found: Columns = {key: log.number(side, columns, None)}
        else:
            given = Texts.of_arrow(file.ids(key, named_by=f"{side}_key"))
            check_ids(f"{side}s", key, given)
            found = {key: given} | self._features(file, without=key)
            try:
                log.number(side, columns, given)
            except LackingIdError as error:
                raise self._lacking(error, file) from error
            found = {name: with_unknown(column) for name, column in found.items()}
        for name in self._options[f"{side}_columns"]:
            values = log.most_frequent(_owned(side, name), of=side, count=len(found[key]) - 1)
            rows = plain(pa.table({name: values}), option="interactions", path=self._log.path)
            owned = TableFile("interactions", self._log.path, [name], rows, first=0)
            found[name] = with_unknown(self._features(owned, without="")[name])
        for name, files in self._options[f"{side}_vectors"].items():
            vectors = read_vectors(files, known=found[key][1:], named_by=f"{side}_vectors")
            found[name] = with_unknown(vectors)
        return found

    def _context(self, name: str, values: Texts, rows: np.ndarray) -> Any:
        """A column of the requests, given its distinct values and their numbers from 1, 0: none."""
        import pyarrow as pa

        rows_of_text = pa.table({name: values[1:].arrow()})
        distinct = plain(rows_of_text, option="interactions", path=self._log.path)
        found = TableFile("interactions", self._log.path, [name], distinct, first=0).feature(name)
        return with_unknown(found)[np.concatenate([[0], rows])]

    def _features(self, file: TableFile, *, without: str) -> Columns:
        return file.features(
            without=without,
            texts=[self._options["title"]],
            bags=self._options["bag_columns"],
            separator=self._options["bag_separator"],
        )

    def _lacking(self, error: LackingIdError, file: TableFile) -> UserError:
        chunk = bisect_right(self._firsts, error.row) - 1
        path, before = self._chunks[chunk]
        row = before + error.row - self._firsts[chunk] + 1
        name = self._options[{"negative": "negative"}.get(error.column, f"{error.column}_key")]
        return UserError(
            f"column {name!r} of `interactions` must hold ids that `{file.option}` has; got "
            f"{error.received!r} in row {row} of {path}. "
            f"Add it to {file.path}, or leave the row out."
        )


def _owned(side: str, name: str) -> str:
    """What a column that belongs to the users or items is called in the log, as no label is."""
    return f"{name} of the {side}"


def _observed_scale(ratings: np.ndarray) -> tuple[float, float]:
    # Without a rating, fmin is NaN; an empty log is refused for that.
    low, high = (float(f.reduce(ratings, initial=np.nan)) for f in (np.fmin, np.fmax))
    if np.isnan(low):
        return _NO_RATING_SCALE
    if low == high:
        raise UserError(
            f"`rating_scale` must be given where all ratings are alike; every one is {low:g}. "
            "Set `rating_scale`=[1,5], or `rating`=null if they mean nothing."
        )
    return low, high
