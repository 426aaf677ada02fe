"""One CSV or Parquet file of a user's own, as typed columns; what cannot be typed is named by row.

Rows are counted from 1, after the header.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.errors import UserError

_PARQUET = (".parquet", ".pq")
_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_ZONE = r"(Z|[-+]\d\d:?\d\d)$"


@dataclass(frozen=True)
class TableFile:
    """The rows of a file.

    Attributes:
        option: The option that named the file, such as `data.items`.
        path: The file.
        columns: Names of all its columns.
        rows: A `pyarrow.Table` of the columns that were asked for; those of a CSV file are text.
    """

    option: str
    path: str
    columns: Sequence[str]
    rows: Any

    def column(self, name: str, *, named_by: str) -> Any:
        """Returns a column as a `pyarrow.Array`.

        Args:
            name: Its name.
            named_by: The option that named it, for the message when it is missing.

        Raises:
            UserError: The file has no such column.
        """
        if name not in self.columns:
            raise UserError(
                f"{self.option} must have the column {name!r} that {named_by} names; {self.path} "
                f"has {', '.join(self.columns)}. Set {named_by} to one of them."
            )
        return self.rows.column(name).combine_chunks()

    def ids(self, name: str, *, named_by: str, optional: bool = False) -> Any:
        """Returns an id column as text, a `pyarrow.StringArray`; blank cells, if any, are null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name, named_by=named_by)
        if pa.types.is_floating(column.type):  # whole numbers beside a missing one, mostly
            column = self._cast(column, pa.int64(), name, "a whole number or text")
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        blank = pc.equal(pc.fill_null(column, ""), "")
        if optional:
            return pc.if_else(blank, None, column)
        self._refuse(blank, column, name, "an id", "Fill it in")
        return column

    def ratings(self, name: str, *, named_by: str, scale: tuple[float, float] | None) -> np.ndarray:
        """Returns a rating column, float32, NaN where the cell is empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _without_blanks(self.column(name, named_by=named_by))
        numbers = self._cast(column, pa.float64(), name, "a number or empty")
        # A missing rating is an empty cell; a NaN is a slip of whatever wrote the file.
        odd = pc.fill_null(pc.invert(pc.is_finite(numbers)), False)
        self._refuse(odd, column, name, "a finite number or empty", "Correct or empty it")
        if scale is not None:
            low, high = scale
            outside = pc.fill_null(pc.or_(pc.less(numbers, low), pc.greater(numbers, high)), False)
            rule = f"from {low:g} to {high:g}, or empty,"
            self._refuse(outside, column, name, rule, "Correct it, set data.rating_scale")
        return _floats(numbers)

    def times(self, name: str, *, named_by: str) -> np.ndarray:
        """Returns a timestamp column as int64 seconds, from numbers, dates or ISO 8601 text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _without_blanks(self.column(name, named_by=named_by))
        rule = "seconds since 1970 or a date such as 2024-05-31T12:00:00"
        self._refuse(pc.is_null(column), column, name, rule, "Fill it in")
        is_text = pa.types.is_string(column.type)
        if pa.types.is_temporal(column.type) or (is_text and not _all_numbers(column[:1])):
            zoned = is_text and pc.all(pc.match_substring_regex(column, _ZONE)).as_py()
            column = self._cast(column, pa.timestamp("us", "UTC" if zoned else None), name, rule)
            return column.cast(pa.int64()).to_numpy(zero_copy_only=False) // 1_000_000
        numbers = self._cast(column, pa.float64(), name, rule)
        self._refuse(pc.invert(pc.is_finite(numbers)), column, name, rule, "Correct it")
        return np.floor(numbers.to_numpy(zero_copy_only=False)).astype(np.int64)

    def feature(self, name: str) -> np.ndarray:
        """Returns any other column: numbers as float32 (empty: NaN), the rest as text."""
        import pyarrow as pa

        column = self.rows.column(name).combine_chunks()
        if pa.types.is_string(column.type) and _all_numbers(column) and not _codes(column):
            column = _without_blanks(column).cast(pa.float64())
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return _floats(column.cast(pa.float64(), safe=False))
        return self.text(name)

    def text(self, name: str) -> np.ndarray:
        """Returns any column as text, `""` where the cell is empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.rows.column(name).combine_chunks()
        return _strings(pc.fill_null(pc.cast(column, pa.string()), ""))

    def bag(self, name: str, separator: str) -> np.ndarray:
        """Returns labels `[rows, L]`, padded with `""`, from a list column or separated text."""
        column = self.rows.column(name)
        if _is_list(column.type):
            cells = [[str(label) for label in cell or []] for cell in column.to_pylist()]
        else:
            cells = [cell.split(separator) for cell in self.text(name).tolist()]
        labels = [[label.strip() for label in cell if label.strip()] for cell in cells]
        width = max(1, max(map(len, labels), default=1))
        padded = [row + [""] * (width - len(row)) for row in labels]
        return np.array(padded, dtype=str).reshape(len(labels), width)

    def features(
        self, *, without: str, texts: Sequence[str], bags: Sequence[str], separator: str
    ) -> dict[str, np.ndarray]:
        """Returns every column but `without`, by name.

        Args:
            without: The id column.
            texts: Columns that are text even where every cell is a number.
            bags: Columns that are bags; list columns are bags without being named.
            separator: What stands between two labels in a text column that is a bag.
        """
        columns = {}
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
            resists = pa.array([not _casts(cell, to) for cell in column])
            self._refuse(resists, column, name, rule, "Correct it")
            raise

    def _refuse(self, bad: Any, column: Any, name: str, rule: str, remedy: str) -> None:
        """Raises `UserError` for the first row in which `bad` holds."""
        rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
        if len(rows):
            cell = column[int(rows[0])].as_py()
            received = "an empty cell" if cell in (None, "") else repr(cell)
            raise UserError(
                f"column {name!r} of {self.option} must be {rule} in every row; got {received} in "
                f"row {rows[0] + 1} of {self.path}. {remedy}, or leave the row out."
            )


def read_table_file(path: str, *, option: str, columns: Sequence[str] | None = None) -> TableFile:
    """Reads a CSV file (`.csv`, `.tsv`, also `.gz`), a Parquet file or a folder of Parquet files.

    Args:
        path: Where it is.
        option: The option that named it.
        columns: Which columns to read; `None` reads them all.

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
        names, rows = (_read_parquet if is_parquet else _read_csv)(place, columns)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{option} must be a CSV file in UTF-8 or a Parquet file; {path} cannot be read "
            f"({reason}). Write it again, or set {option} to another file."
        ) from error
    return TableFile(option=option, path=path, columns=names, rows=_plain(rows))


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[list[str], Any]:
    from pyarrow import dataset

    files = dataset.dataset(path, format="parquet")
    return files.schema.names, files.to_table(columns=_among(files.schema.names, columns))


def _read_csv(path: Path, columns: Sequence[str] | None) -> tuple[list[str], Any]:
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(
        delimiter="\t" if ".tsv" in path.suffixes else ",", newlines_in_values=True
    )
    with csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    # As text, so that `007` stays an id and a cell that is no number can be named.
    convert = csv.ConvertOptions(
        include_columns=_among(names, columns), column_types=dict.fromkeys(names, pa.string())
    )
    return names, csv.read_csv(path, parse_options=parse, convert_options=convert)


def _among(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Returns those of `columns` that the file has; one that it lacks is named when it is used."""
    import pyarrow as pa

    if len(set(names)) < len(names):
        raise pa.ArrowInvalid("two of its columns have one name")
    return [name for name in names if columns is None or name in columns]


def _plain(rows: Any) -> Any:
    """Turns dictionary-encoded and large text columns into plain text."""
    import pyarrow as pa

    def plain(kind: Any) -> Any:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return pa.string() if is_text else kind

    return rows.cast(pa.schema([(field.name, plain(field.type)) for field in rows.schema]))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


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

    if not pa.types.is_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _all_numbers(column: Any) -> bool:
    """Whether the cells of a text column that are not blank are numbers, and there are some."""
    import pyarrow.compute as pc

    filled = _without_blanks(column).drop_null()
    return len(filled) > 0 and pc.all(pc.match_substring_regex(filled, _NUMBER)).as_py()


def _codes(column: Any) -> bool:
    """Whether a number has a leading zero, as postal codes have: then they are no numbers."""
    import pyarrow.compute as pc

    return pc.any(pc.match_substring_regex(column, r"^\s*0\d")).as_py()


def _floats(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(np.float32)


def _strings(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(str)
