"""One CSV or Parquet file of a user's own, as typed columns; what cannot be typed is named by row.

Rows are counted from 1, after the header.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtrec.data.columns import Bags, Columns, Texts
from mtrec.errors import UserError

_PARQUET = (".parquet", ".pq")
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_ZONE = r"(Z|[-+]\d\d:?\d\d)$"
_DELIMITERS = (",", "\t", ";", "|")
# Seconds of what a number may count since 1970.
UNITS = {"W": 604_800, "D": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class Ids(NamedTuple):
    """An id column.

    Attributes:
        codes: Position in `values` of each row's id, int32; -1 for none.
        values: The distinct ids in the order of their first row, a `pyarrow.LargeStringArray`.
    """

    codes: np.ndarray
    values: Any


@dataclass(frozen=True)
class TableFile:
    """The rows of a file.

    Attributes:
        option: The option that named the file, such as `data.items`.
        path: The file.
        columns: Names of all its columns.
        rows: A `pyarrow.Table` of the columns that were asked for; those of a CSV file are text.
            Columns stay in the chunks that they were read in, and texts are large strings, so that
            a column of them may exceed 2 GiB.
    """

    option: str
    path: str
    columns: Sequence[str]
    rows: Any

    def column(self, name: str, *, named_by: str) -> Any:
        """Returns a column as a `pyarrow.ChunkedArray`.

        Args:
            name: Its name.
            named_by: The option that named it, for the message when it is missing.

        Raises:
            UserError: The file has no such column, or it holds lists.
        """
        if name not in self.columns:
            raise UserError(
                f"{self.option} must have the column {name!r} that {named_by} names; {self.path} "
                f"has {', '.join(self.columns)}. Set {named_by} to one of them."
            )
        column = self.rows.column(name)
        if _is_list(column.type):
            raise UserError(
                f"column {name!r} of {self.option}, which {named_by} names, must hold one value a "
                f"row; in {self.path} it holds lists. Set {named_by} to another."
            )
        return column

    def ids(self, name: str, *, named_by: str, optional: bool = False) -> Ids:
        """Returns an id column; blank cells, if there may be any, have the code -1.

        One chunk after the other becomes codes, so that no copy of all the text is made.
        """
        import pyarrow as pa

        column = self.column(name, named_by=named_by)
        whole = column
        if pa.types.is_floating(column.type):  # whole numbers beside a missing one, mostly
            whole = self._cast(column, pa.int64(), name, "a whole number or text")
        ids = _ids(whole)
        if not optional:
            self._refuse(ids.codes < 0, column, name, "an id", "Fill it in")
        return ids

    def ratings(self, name: str, *, named_by: str, scale: tuple[float, float] | None) -> np.ndarray:
        """Returns a rating column, float32, NaN where the cell is empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _without_blanks(self.column(name, named_by=named_by))
        numbers = self._cast(column, pa.float64(), name, "a number or empty")
        # A missing rating is an empty cell; a NaN is a slip of whatever wrote the file. What is too
        # large for a float32 would be infinite too.
        odd = pc.fill_null(pc.invert(pc.is_finite(numbers.cast(pa.float32(), safe=False))), False)
        self._refuse(odd, column, name, "a finite number or empty", "Correct or empty it")
        if scale is not None:
            low, high = scale
            outside = pc.fill_null(pc.or_(pc.less(numbers, low), pc.greater(numbers, high)), False)
            rule = f"from {low:g} to {high:g}, or empty,"
            self._refuse(outside, column, name, rule, "Correct it, set data.rating_scale")
        return _floats(numbers)

    def times(self, name: str, *, named_by: str, form: str | None) -> np.ndarray:
        """Returns a timestamp column as int64 seconds.

        Args:
            name: Its name.
            named_by: The option that named it.
            form: What `strptime` takes, such as `%m/%d/%Y`, or the unit that numbers count since
                1970: W, D, h, m, s, ms, us or ns. None takes seconds, dates and ISO 8601 text.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _without_blanks(self.column(name, named_by=named_by))
        rule = "seconds since 1970 or a date such as 2024-05-31T12:00:00"
        if form is not None:
            rule = f"a time as data.timestamp_format={form} says"
        self._refuse(pc.is_null(column), column, name, rule, "Fill it in")
        if form in UNITS:
            numbers = self._cast(column, pa.float64(), name, rule)
            self._refuse(pc.invert(pc.is_finite(numbers)), column, name, rule, "Correct it")
            seconds = numbers.to_numpy(zero_copy_only=False) * UNITS[form]
            return np.floor(seconds).astype(np.int64)
        if form is not None:
            text = column.cast(pa.large_string())
            moments = pc.strptime(text, format=form, unit="s", error_is_null=True)
            remedy = "Correct it or data.timestamp_format"
            self._refuse(pc.is_null(moments), column, name, rule, remedy)
            return moments.cast(pa.int64()).to_numpy(zero_copy_only=False)
        is_text = pa.types.is_large_string(column.type)
        if pa.types.is_temporal(column.type) or (is_text and not _all_numbers(column[:1])):
            zoned = is_text and pc.all(pc.match_substring_regex(column, _ZONE)).as_py()
            column = self._cast(column, pa.timestamp("us", "UTC" if zoned else None), name, rule)
            return column.cast(pa.int64()).to_numpy(zero_copy_only=False) // 1_000_000
        numbers = self._cast(column, pa.float64(), name, rule)
        # What no int64 holds either; NaN is below nothing.
        self._refuse(pc.invert(pc.less(pc.abs(numbers), 2.0**63)), column, name, rule, "Correct it")
        return np.floor(numbers.to_numpy(zero_copy_only=False)).astype(np.int64)

    def feature(self, name: str) -> np.ndarray | Texts:
        """Returns any other column: numbers as float32 (empty: NaN), the rest as text."""
        import pyarrow as pa

        column = self.rows.column(name)
        if pa.types.is_large_string(column.type) and _all_numbers(column) and not _codes(column):
            column = _without_blanks(column).cast(pa.float64())
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return _floats(column.cast(pa.float64(), safe=False))
        return self.text(name)

    def text(self, name: str) -> Texts:
        """Returns any column as text, `""` where the cell is empty."""
        return Texts.of_arrow(self.rows.column(name))

    def bag(self, name: str, separator: str) -> Bags:
        """Returns the labels of each row, from a list column or separated text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.rows.column(name)
        if _is_list(column.type):
            return Bags.of_arrow(column)
        return Bags.of_arrow(pc.split_pattern(column.cast(pa.large_string()), separator))

    def common(self, name: str, owner: np.ndarray, count: int) -> "TableFile":
        """Returns a column's most frequent value of each owner, or else the earliest, as a file.

        Args:
            name: The column.
            owner: Number of each row's owner, `[rows]` from 0 to `count - 1`.
            count: Number of owners; one without a value has none here.
        """
        import pyarrow as pa

        column = self.rows.column(name)
        codes = np.zeros(len(owner), np.int32)
        if not _is_list(column.type):
            codes = _ids(column).codes
        filled = np.flatnonzero(codes >= 0)
        pairs = owner[filled].astype(np.int64) * (codes.max(initial=0) + 1) + codes[filled]
        distinct, first, times = np.unique(pairs, return_index=True, return_counts=True)
        of = distinct // (codes.max(initial=0) + 1)
        best = np.lexsort((first, -times, of))
        known, place = np.unique(of[best], return_index=True)
        rows = np.full(count, -1)
        rows[known] = filled[first[best[place]]]
        kept = self.rows.select([name]).take(pa.array(rows, mask=rows < 0))
        return replace(self, rows=kept)

    def features(
        self, *, without: str, texts: Sequence[str], bags: Sequence[str], separator: str
    ) -> Columns:
        """Returns every column but `without`, by name.

        Args:
            without: The id column.
            texts: Columns that are text even where every cell is a number.
            bags: Columns that are bags; list columns are bags without being named.
            separator: What stands between two labels in a text column that is a bag.
        """
        columns: Columns = {}
        for field in self.rows.schema:
            if field.name in bags or _is_list(field.type):
                columns[field.name] = self.bag(field.name, separator)
            elif field.name in texts:
                columns[field.name] = self.text(field.name)
            elif field.name != without:
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
                f"column {name!r} of {self.option} must be {rule} in every row; got {received} in "
                f"row {rows[0] + 1} of {self.path}. {remedy}, or leave the row out."
            )


def read_table_file(
    path: str,
    *,
    option: str,
    columns: Sequence[str] | None = None,
    most_rows: int | None = None,
) -> TableFile:
    """Reads a CSV file (also `.gz`), a Parquet file or a folder of Parquet files.

    What stands between the cells of a CSV file is that of comma, tab, semicolon and bar which is
    most frequent in its header.

    Args:
        path: Where it is.
        option: The option that named it.
        columns: Which columns to read; `None` reads them all.
        most_rows: How many rows to read at least, if there are so many; `None` reads them all.

    Raises:
        UserError: Nothing is there, it cannot be read, or two columns have one name.
    """
    import pyarrow as pa

    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(
            f"{option} must be a CSV or Parquet file; nothing is at {path}. Correct {option}."
        )
    is_parquet = place.is_dir() or place.suffix in _PARQUET
    try:
        names, rows = (_read_parquet if is_parquet else _read_csv)(place, columns, most_rows)
        rows = _plain(rows)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{option} must be a CSV file in UTF-8 or a Parquet file; {path} cannot be read "
            f"({reason}). Write it again, or set {option} to another file."
        ) from error
    return TableFile(option=option, path=path, columns=names, rows=rows)


def _read_parquet(
    path: Path, columns: Sequence[str] | None, most_rows: int | None
) -> tuple[list[str], Any]:
    from pyarrow import dataset

    files = dataset.dataset(path, format="parquet")
    wanted = _among(files.schema.names, columns)
    if most_rows is None:
        return files.schema.names, files.to_table(columns=wanted)
    return files.schema.names, files.head(most_rows, columns=wanted)


def _read_csv(
    path: Path, columns: Sequence[str] | None, most_rows: int | None
) -> tuple[list[str], Any]:
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    # As text, so that `007` stays an id and a cell that is no number can be named.
    convert = csv.ConvertOptions(
        include_columns=_among(names, columns), column_types=dict.fromkeys(names, pa.string())
    )
    if most_rows is None:
        return names, csv.read_csv(path, parse_options=parse, convert_options=convert)
    with csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
        read, rows = [], 0
        while rows < most_rows and (batch := next(reader, None)) is not None:
            read.append(batch)
            rows += len(batch)
        return names, pa.Table.from_batches(read, reader.schema)


def _delimiter(path: Path) -> str:
    import pyarrow as pa

    with pa.input_stream(path) as stream:
        header = stream.read(1 << 16).decode(errors="replace").splitlines() or [""]
    unquoted = re.sub(r'"[^"]*"', "", header[0])
    return max(_DELIMITERS, key=unquoted.count)


def _among(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Returns those of `columns` that the file has; one that it lacks is named when it is used."""
    import pyarrow as pa

    if len(set(names)) < len(names):
        raise pa.ArrowInvalid("two of its columns have one name")
    return [name for name in names if columns is None or name in columns]


def _plain(rows: Any) -> Any:
    """Turns dictionary-encoded columns into plain ones, and all text into large strings."""
    import pyarrow as pa

    def plain(field: Any) -> Any:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        try:
            pa.array([], kind.value_type if _is_list(kind) else kind).cast(pa.large_string())
        except pa.ArrowNotImplementedError as error:
            raise pa.ArrowInvalid(
                f"column {field.name!r} holds {kind}, no text, numbers or lists of them"
            ) from error
        is_text = pa.types.is_string(kind) or pa.types.is_string_view(kind)
        # Some writers of Parquet leave text unmarked.
        is_text |= pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return pa.large_string() if is_text else kind

    return rows.cast(pa.schema([(field.name, plain(field)) for field in rows.schema]))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _ids(column: Any) -> Ids:
    """Codes of a column's values as text."""
    import pyarrow as pa

    kind = pa.dictionary(pa.int32(), pa.large_string())
    coded = pa.chunked_array([_coded(chunk) for chunk in column.chunks], kind)
    coded = coded.unify_dictionaries()
    codes = [c.indices.fill_null(-1).to_numpy().astype(np.int32) for c in coded.chunks]
    return Ids(
        codes=np.concatenate(codes) if codes else np.zeros(0, np.int32),
        values=coded.chunk(0).dictionary if codes else pa.array([], pa.large_string()),
    )


def _coded(chunk: Any) -> Any:
    """Codes of a chunk's trimmed texts; blank ones are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(chunk.cast(pa.large_string()))
    return pc.if_else(pc.equal(text, ""), None, text).dictionary_encode()


def _casts(cell: Any, to: Any) -> bool:
    import pyarrow as pa

    try:
        cell.cast(to)
    except pa.ArrowException:
        return False
    return True


def _without_blanks(column: Any) -> Any:
    """Makes blank cells of a text column null, and trims the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_large_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _all_numbers(column: Any) -> bool:
    """Whether the cells of a text column that are not blank are numbers, and there are some."""
    import pyarrow.compute as pc

    filled = _without_blanks(column).drop_null()
    return len(filled) > 0 and pc.all(pc.match_substring_regex(filled, NUMBER)).as_py()


def _codes(column: Any) -> bool:
    """Whether a number has a leading zero, as postal codes have: then they are no numbers."""
    import pyarrow.compute as pc

    return pc.any(pc.match_substring_regex(column, r"^\s*0\d")).as_py()


def _floats(column: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite number is refused by its row
        return column.to_numpy(zero_copy_only=False).astype(np.float32)
