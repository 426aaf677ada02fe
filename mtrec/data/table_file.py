"""Rows of a user's own file as typed columns; what cannot be typed is named by row.

Rows are counted from 1, after the header.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrec.data.arrow_columns import (
    EXACT,
    NUMBER,
    YES,
    YES_OR_NO,
    all_match,
    is_list,
    is_number,
    iso,
    iso_type,
    names_alone,
    without_blanks,
)
from mtrec.data.columns import Bags, Columns, Texts
from mtrec.errors import UserError

# Options that need name no column.
_OPTIONAL = ("rating", "timestamp", "negative")
# Seconds of what a number may count since 1970.
UNITS = {"W": 604_800, "D": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class TableFile:
    """Rows of a file, all of them or a chunk.

    Attributes:
        option: The option that named the file, such as `items`.
        path: The file.
        columns: Names of all its columns.
        rows: A `pyarrow.Table` of the columns that were asked for; those of a CSV file are text.
            Columns stay in the chunks that they were read in, and texts are large strings, so that
            a column of them may exceed 2 GiB.
        first: How many rows of the file are before these.
    """

    option: str
    path: str
    columns: Sequence[str]
    rows: Any
    first: int

    def column(self, name: str, *, named_by: str) -> Any:
        """Returns a column as a `pyarrow.ChunkedArray`.

        Args:
            name: Its name.
            named_by: The option that named it, for the message when it is missing.

        Raises:
            UserError: The file has no such column, or it holds lists.
        """
        column = self._named(name, named_by)
        if is_list(column.type):
            raise UserError(
                f"column {name!r} of `{self.option}`, which `{named_by}` names, must hold one "
                f"value a row; in {self.path} it holds lists. Set `{named_by}` to another."
            )
        return column

    def cells(self, name: str, *, named_by: str) -> Any:
        """Returns a column, also one of lists, in which blank cells are null."""
        return without_blanks(self._named(name, named_by))

    def _named(self, name: str, named_by: str) -> Any:
        if name not in self.columns:
            self._refuse_delimiter(name)
            without = f", or `{named_by}`=null to do without" if named_by in _OPTIONAL else ""
            raise UserError(
                f"`{self.option}` must have the column {name!r} that `{named_by}` names; "
                f"{self.path} has {', '.join(self.columns)}. Set `{named_by}` to one of them"
                f"{without}."
            )
        return self.rows.column(name)

    def _refuse_delimiter(self, name: str) -> None:
        """Raises if all names stand in one, split by what no file of ours is."""
        words = re.split(r"(\W+)", self.columns[0])
        if len(self.columns) == 1 < len(words) and name in words:
            between = "spaces" if words[1].isspace() else words[1]
            raise UserError(
                f"`{self.option}` must have cells split by commas, tabs, semicolons or bars; those "
                f"of {self.path} seem to be split by {between}. Write it with commas."
            )

    def ids(self, name: str, *, named_by: str, optional: bool = False) -> Any:
        """Returns an id column: int64, or large strings without spaces around them.

        Blank cells, if there may be any, are null.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name, named_by=named_by)
        kind = column.type
        if pa.types.is_floating(kind):  # whole numbers beside a missing one, mostly
            rule = "a whole number, below 2^53 where the column holds fractions, or text"
            self._refuse(pc.greater(pc.abs(column), EXACT), column, name, rule, "Write it as text")
            ids = self._cast(column, pa.int64(), name, rule)
        elif pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
            ids = column.cast(pa.int64())
        else:
            ids = without_blanks(column.cast(pa.large_string()))
        if not optional:
            self._refuse(ids.is_null(), column, name, "an id", "Fill it in")
        return ids

    def ratings(self, name: str, *, named_by: str, scale: tuple[float, float] | None) -> np.ndarray:
        """Returns a rating column, float32, NaN where the cell is empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = without_blanks(self.column(name, named_by=named_by))
        if all_match(column, YES_OR_NO):
            numbers = pc.match_substring_regex(column, YES).cast(pa.float64())
        else:
            numbers = self._cast(column, pa.float64(), name, "a number or empty")
        # A missing rating is an empty cell; a NaN is a slip of whatever wrote the file. What is too
        # large for a float32 would be infinite too.
        odd = pc.fill_null(pc.invert(pc.is_finite(numbers.cast(pa.float32(), safe=False))), False)
        self._refuse(odd, column, name, "a finite number or empty", "Correct or empty it")
        if scale is not None:
            low, high = scale
            outside = pc.fill_null(pc.or_(pc.less(numbers, low), pc.greater(numbers, high)), False)
            rule = f"from {low:g} to {high:g}, or empty,"
            self._refuse(outside, column, name, rule, "Correct it, set `rating_scale`")
        return _floats(numbers)

    def time_type(self, name: str, *, named_by: str) -> Any:
        """The Arrow type that the text of a timestamp column is read as, by its first row.

        None without a row of text.
        """
        import pyarrow as pa

        column = self.column(name, named_by=named_by)[:1]
        if not len(column) or not pa.types.is_large_string(column.type):
            return None
        return pa.float64() if all_match(column, NUMBER) else iso_type(column)

    def times(self, name: str, kind: Any, *, named_by: str) -> np.ndarray:
        """Returns a timestamp column as int64 seconds, from numbers, dates or text.

        Args:
            name: Its name.
            kind: The type to read text as, that `time_type` has of the first text of all; or what
                `strptime` takes, such as `%m/%d/%Y`, or one of `UNITS`.
            named_by: The option that named it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = without_blanks(self.column(name, named_by=named_by))
        rule = "seconds since 1970 or a date such as 2024-05-31T12:00:00"
        if isinstance(kind, str):
            rule = f"a time as `timestamp_format`={kind} says"
        self._refuse(pc.is_null(column), column, name, rule, "Fill it in")
        if not len(column):
            return np.zeros(0, np.int64)
        if isinstance(kind, str) and kind not in UNITS:
            column = column.cast(pa.large_string())
            times = pc.strptime(column, format=kind, unit="s", error_is_null=True)
            self._refuse(pc.is_null(times), column, name, rule, "Correct it")
        elif isinstance(kind, str):
            times = pc.multiply(self._cast(column, pa.float64(), name, rule), UNITS[kind])
        else:
            column, kind = _moments(column, kind)
            times = self._cast(column, kind, name, rule)
        if pa.types.is_timestamp(times.type):
            return times.cast(pa.int64()).to_numpy(zero_copy_only=False)
        # What no int64 holds either; NaN is below nothing.
        self._refuse(pc.invert(pc.less(pc.abs(times), 2.0**63)), column, name, rule, "Correct it")
        return np.floor(times.to_numpy(zero_copy_only=False)).astype(np.int64)

    def feature(self, name: str) -> np.ndarray | Texts:
        """Returns any other column: numbers as float64 (empty: NaN), the rest as text.

        Whole numbers that a float64 does not tell apart are text too: they only name something.
        """
        import pyarrow as pa

        column = self.rows.column(name)
        if all_match(column, NUMBER) and not _codes(column):
            column = without_blanks(column)
        elif not is_number(column.type):
            return self.text(name)
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return self.text(name) if names_alone(column, numbers) else numbers

    def text(self, name: str) -> Texts:
        """Returns any column as text, `""` where the cell is empty."""
        return Texts.of_arrow(self.rows.column(name))

    def bag(self, name: str, separator: str) -> Bags:
        """Returns the labels of each row, from a list column or separated text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.rows.column(name)
        if is_list(column.type):
            return Bags.of_arrow(column)
        return Bags.of_arrow(pc.split_pattern(column.cast(pa.large_string()), separator))

    def vectors(self, name: str) -> np.ndarray:
        """Returns a column of lists of numbers, `[rows, F]` float32, NaN where there is none."""
        import pyarrow.compute as pc

        column = self.rows.column(name)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        width = int(lengths.max(initial=0))
        rule = f"a list of as many numbers as in other rows ({width}), or nothing,"
        self._refuse((lengths != 0) & (lengths != width), column, name, rule, "Correct it")
        found = np.full((len(lengths), width), np.nan, np.float32)
        numbers = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        found[lengths != 0] = numbers.reshape(-1, width) if width else 0.0
        return found

    def features(
        self, *, without: str, texts: Sequence[str], bags: Sequence[str], separator: str
    ) -> Columns:
        """Returns every column but `without`, by name; lists of fractions as vectors.

        Args:
            without: The id column.
            texts: Columns that are text even where every cell is a number.
            bags: Columns that are bags; list columns are bags without being named.
            separator: What stands between two labels in a text column that is a bag.
        """
        import pyarrow as pa

        columns: Columns = {}
        for field in self.rows.schema:
            if field.name == without:
                continue
            if is_list(field.type) and pa.types.is_floating(field.type.value_type):
                columns[field.name] = self.vectors(field.name)
            elif field.name in bags or is_list(field.type):
                columns[field.name] = self.bag(field.name, separator)
            elif field.name in texts:
                columns[field.name] = self.text(field.name)
            else:
                columns[field.name] = self.feature(field.name)
        return columns

    def _cast(self, column: Any, to: Any, name: str, rule: str) -> Any:
        """Casts a column, or names the first cell that resists."""
        import pyarrow as pa

        try:
            return column.cast(to)
        except pa.ArrowException:
            resists = [not _casts(cell, to) for cell in column]
            self._refuse(resists, column, name, rule, "Correct it")
            raise

    def _refuse(self, bad: Any, column: Any, name: str, rule: str, remedy: str) -> None:
        """Raises `UserError` for the first row in which `bad` holds."""
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            cell = column[int(rows[0])].as_py()
            received = "an empty cell" if cell in (None, "") else repr(cell)
            raise UserError(
                f"column {name!r} of `{self.option}` must be {rule} in every row; got {received} "
                f"in row {self.first + rows[0] + 1} of {self.path}. {remedy}, or leave the row out."
            )


def _moments(column: Any, text_type: Any) -> tuple[Any, Any]:
    """A column of times without parts of a second, and the type to read it as."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_large_string(column.type):
        return (iso(column) if pa.types.is_timestamp(text_type) else column), text_type
    if pa.types.is_timestamp(column.type):
        column = pc.floor_temporal(column, unit="second")
    if pa.types.is_temporal(column.type):
        return column, pa.timestamp("s")
    return column, pa.int64() if pa.types.is_integer(column.type) else pa.float64()


def _casts(cell: Any, to: Any) -> bool:
    import pyarrow as pa

    try:
        cell.cast(to)
    except pa.ArrowException:
        return False
    return True


def _codes(column: Any) -> bool:
    """Whether a number has a leading zero, as postal codes have: then they are no numbers."""
    import pyarrow.compute as pc

    return pc.any(pc.match_substring_regex(column, r"^\s*0\d")).as_py()


def _floats(column: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite number is refused by its row
        return column.to_numpy(zero_copy_only=False).astype(np.float32)
