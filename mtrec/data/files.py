"""The files of a table, CSV, Parquet or Arrow, one or many, local or at any fsspec address.

They are read chunk by chunk, so that no more than a chunk need be in memory.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrec.data.arrow_columns import in_schema, plain, together
from mtrec.data.table_file import TableFile
from mtrec.errors import UserError

# Rows of a chunk of Parquet, and bytes of one of CSV.
_CHUNK_ROWS, _CHUNK_BYTES = 1 << 18, 1 << 23
_DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Files:
    """Where the rows of a table lie, in the order of the files' names.

    Attributes:
        option: The option that named them, such as `items`.
        path: What it named.
        system: The fsspec file system that has them.
        places: The files, as `system` calls them.
    """

    option: str
    path: str
    system: Any
    places: Sequence[str]

    @classmethod
    def of(cls, path: str, *, option: str) -> "Files":
        """Finds a file, all files of a folder or those that a pattern such as `log/*.csv` names.

        Args:
            path: CSV (`.csv`, `.tsv`), Parquet (`.parquet`, `.pq`) or Arrow (`.arrow`, `.feather`)
                files, CSV compressed or not; a local path, or an address such as `s3://bucket/log`.
                Between cells of CSV stands what is most frequent in the header: comma, tab,
                semicolon or bar.
            option: The option that named it.

        Raises:
            UserError: Nothing is there, or the file system cannot be reached.
        """
        from fsspec.core import url_to_fs

        try:
            system, place = url_to_fs(path)
            if system.isdir(place):
                found = [p for p in sorted(system.find(place)) if _is_data(p, within=place)]
            elif system.exists(place):
                found = [place]
            else:
                found = sorted(system.glob(place))
        except Exception as error:  # file systems have errors of their own
            raise _unreadable(option, path, error) from error
        if not found:
            raise UserError(
                f"`{option}` must be CSV, Parquet or Arrow files; nothing is at {path}. "
                f"Correct `{option}`."
            )
        return cls(option=option, path=path, system=system, places=found)

    def fingerprint(self) -> dict[str, list[Any]]:
        """For each file by name what changes with its contents, as JSON values."""
        return {place: _changes(self.system.info(place)) for place in self.places}

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[TableFile]:
        """The rows in order, at least one chunk a file.

        Args:
            columns: Which columns to read; `None` reads them all.

        Raises:
            UserError: A file cannot be read, or two of its columns have one name.
        """
        for place in self.places:
            path = self.path if len(self.places) == 1 else self._name(place)
            with _reported(self.option, path):
                names, chunks = self._open(place, columns)
            rows, first = _next(chunks, self.option, path), 0
            while rows is not None:
                yield TableFile(self.option, path, names, rows, first)
                first += len(rows)
                rows = _next(chunks, self.option, path)

    def whole(self, *, most_rows: int | None = None) -> TableFile:
        """All rows at once.

        Args:
            most_rows: How many are enough; no chunk is read beyond. None reads them all.

        Raises:
            UserError: As `chunks`, or a column holds lists in one file alone.
        """
        import pyarrow as pa

        chunks, rows = [], 0
        for chunk in self.chunks():
            chunks.append(chunk)
            rows += len(chunk.rows)
            if most_rows is not None and rows >= most_rows:
                break
        schema = together([chunk.rows.schema for chunk in chunks], option=self.option)
        table = pa.concat_tables([in_schema(chunk.rows, schema) for chunk in chunks])
        return TableFile(self.option, self.path, schema.names, table, first=0)

    def _name(self, place: str) -> str:
        local = "file" in self.system.protocol
        return place if local else str(self.system.unstrip_protocol(place))

    def _open(self, place: str, columns: Sequence[str] | None) -> tuple[list[str], Iterator[Any]]:
        read = _reader(place) or _read_csv
        return read(self.system.open(place, compression=_compression(place)), place, columns)


def _is_data(place: str, *, within: str) -> bool:
    """Whether a file of a folder is a table, and none of what Spark and others keep beside."""
    names = Path(place).parts[len(Path(within).parts) :]
    return not any(name.startswith((".", "_")) for name in names) and _reader(place) is not None


def _reader(place: str) -> Callable[..., tuple[list[str], Iterator[Any]]] | None:
    """What reads a file, by its name."""
    suffixes = Path(place).suffixes[-1:]
    if _compression(place):
        suffixes = Path(place).suffixes[-2:]
    for known, read in (
        ((".parquet", ".pq"), _read_parquet),
        ((".arrow", ".feather"), _read_arrow),
        ((".csv", ".tsv"), _read_csv),
    ):
        if set(known) & set(suffixes):
            return read
    return None


def _compression(place: str) -> str | None:
    from fsspec.utils import infer_compression

    return infer_compression(place)


def _read_parquet(
    file: Any, place: str, columns: Sequence[str] | None
) -> tuple[list[str], Iterator[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    names = opened.schema_arrow.names
    wanted = _among(names, columns)

    def chunks() -> Iterator[Any]:
        yield opened.schema_arrow.empty_table().select(wanted)
        for batch in opened.iter_batches(_CHUNK_ROWS, columns=wanted):
            yield pa.Table.from_batches([batch])

    return names, chunks()


def _read_arrow(
    file: Any, place: str, columns: Sequence[str] | None
) -> tuple[list[str], Iterator[Any]]:
    import pyarrow as pa

    opened = pa.ipc.open_file(file)
    names = opened.schema.names
    wanted = _among(names, columns)

    def chunks() -> Iterator[Any]:
        yield opened.schema.empty_table().select(wanted)
        for number in range(opened.num_record_batches):
            yield pa.Table.from_batches([opened.get_batch(number)]).select(wanted)

    return names, chunks()


def _read_csv(
    file: Any, place: str, columns: Sequence[str] | None
) -> tuple[list[str], Iterator[Any]]:
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True)
    # A buffer of a chunk's size is made, however little there is; what is compressed has no size.
    size = min(_CHUNK_BYTES, getattr(file, "size", None) or _CHUNK_BYTES)
    blocks = csv.ReadOptions(block_size=size)
    names = csv.open_csv(file, read_options=blocks, parse_options=parse).schema.names
    wanted = _among(names, columns)
    file.seek(0)
    opened = csv.open_csv(
        file,
        read_options=blocks,
        parse_options=parse,
        # As text, so that `007` stays an id and a cell that is no number can be named.
        convert_options=csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(names, pa.string())
        ),
    )

    def chunks() -> Iterator[Any]:
        yield opened.schema.empty_table()
        for batch in opened:
            yield pa.Table.from_batches([batch])

    return names, chunks()


def _delimiter(file: Any) -> str:
    """What stands between the names in the header of a CSV file, which is then at its start."""
    header = file.readline().decode(errors="replace")
    file.seek(0)
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=unquoted.count)


def _among(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Returns those of `columns` that the file has; one that it lacks is named when it is used."""
    import pyarrow as pa

    if len(set(names)) < len(names):
        raise pa.ArrowInvalid("two of its columns have one name")
    return [name for name in names if columns is None or name in columns]


def _next(chunks: Iterator[Any], option: str, path: str) -> Any:
    with _reported(option, path):
        rows = next(chunks, None)
        return None if rows is None else plain(rows)


@contextmanager
def _reported(option: str, path: str) -> Iterator[None]:
    """Says of which option and file an error is that comes of reading."""
    try:
        yield
    except Exception as error:  # file systems and compressions have errors of their own
        raise _unreadable(option, path, error) from error


def _unreadable(option: str, path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"`{option}` must be a CSV file in UTF-8, a Parquet or an Arrow file; {path} cannot be "
        f"read ({reason}). Write it again, or set `{option}` to another file."
    )


def _changes(info: dict[str, Any]) -> list[Any]:
    """Size, and what tells that a file was written anew: the time, or the store's own tag."""
    tags = ("mtime", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified")
    return [info.get("size"), *(str(info[tag]) for tag in tags if tag in info)]
