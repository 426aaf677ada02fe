"""The files of a table, CSV, Parquet or Arrow, one or many, local or at any fsspec address.

They are read chunk by chunk, so that no more than a chunk need be in memory.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrec.data import progress
from mtrec.data.arrow_columns import in_schema, plain, together
from mtrec.data.table_file import TableFile
from mtrec.errors import UserError

# Rows of a chunk of Parquet, and bytes of one of CSV.
_CHUNK_ROWS, _CHUNK_BYTES = 1 << 18, 1 << 23
_DELIMITERS = (",", "\t", ";", "|")


# What a file yields: rows, and the share of it that is read.
_Chunks = Iterator[tuple[Any, float]]


@dataclass(frozen=True)
class _Place:
    """A file of a table: an fsspec file system, what that calls it, and what people do."""

    system: Any
    path: str
    name: str

    @classmethod
    def of(cls, system: Any, path: str) -> "_Place":
        local = "file" in system.protocol
        return cls(system, path, path if local else str(system.unstrip_protocol(path)))

    def info(self) -> dict[str, Any]:
        return dict(self.system.info(self.path))


@dataclass(frozen=True)
class Files:
    """Where the rows of a table lie, in order.

    Attributes:
        option: The option that named them, such as `items`.
        path: What it named.
        places: The files.
    """

    option: str
    path: str
    places: Sequence[_Place]

    @classmethod
    def of(cls, paths: str | Sequence[str], *, option: str) -> "Files":
        """Finds a file, all files of a folder or those that a pattern such as `log/*.csv` names.

        Args:
            paths: One or a list of those, in order; within a folder or pattern files are ordered by
                name. CSV (`.csv`, `.tsv`), Parquet (`.parquet`, `.pq`) or Arrow (`.arrow`,
                `.feather`) files, CSV compressed or not; a local path, or an address such as
                `s3://bucket/log`. Between cells of CSV stands what is most frequent in the header:
                comma, tab, semicolon or bar.
            option: The option that named it.

        Raises:
            UserError: Nothing is there, a file is named twice, or a file system cannot be reached.
        """
        named = [paths] if isinstance(paths, str) else list(paths)
        if not named:
            raise UserError(f"`{option}` must name a file at least; got none. Set `{option}`.")
        places = [place for path in named for place in _found(path, option)]
        (name, times), *_ = Counter(place.name for place in places).most_common(1)
        if times > 1:
            raise UserError(
                f"`{option}` must name each file once; got {name} twice. Leave one out."
            )
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        return cls(option=option, path=f"{named[0]}{more}", places=places)

    def fingerprint(self) -> dict[str, list[Any]]:
        """For each file by name what changes with its contents, as JSON values."""
        return {place.name: _changes(place.info()) for place in self.places}

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[TableFile]:
        """The rows in order, at least one chunk a file; see `mtrec.data.progress` for how far.

        Args:
            columns: Which columns to read; `None` reads them all.

        Raises:
            UserError: A file cannot be read, or two of its columns have one name.
        """
        sizes = [(place.info().get("size") or 0) / 2**20 for place in self.places]
        for number, place in enumerate(self.places):
            path = self.path if len(self.places) == 1 else place.name
            with _reported(self.option, path):
                names, chunks = _open(place, columns)
            first = 0
            while (found := _next(chunks, self.option, path)) is not None:
                rows, share = found
                done = sum(sizes[:number]) + share * sizes[number]
                progress.advance(done, sum(sizes), "MiB")
                yield TableFile(self.option, path, names, rows, first)
                first += len(rows)

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


def _found(path: str, option: str) -> list[_Place]:
    """The files that a path names."""
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
        raise UserError(
            f"`{option}` must be a path or an address that can be reached; {path} is not "
            f"({_reason(error)}). Correct it, or install or start what it needs."
        ) from error
    if not found:
        where = f"{path} holds none" if system.isdir(place) else f"nothing is at {path}"
        raise UserError(
            f"`{option}` must be CSV, Parquet or Arrow files; {where}. Correct `{option}`."
        )
    return [_Place.of(system, each) for each in found]


def _open(place: _Place, columns: Sequence[str] | None) -> tuple[list[str], _Chunks]:
    """The names of a file's columns, and its rows."""
    return (_reader(place.path) or _read_csv)(place, columns)


def _is_data(place: str, *, within: str) -> bool:
    """Whether a file of a folder is a table, and none of what Spark and others keep beside."""
    names = Path(place).parts[len(Path(within).parts) :]
    return not any(name.startswith((".", "_")) for name in names) and _reader(place) is not None


def _reader(place: str) -> Callable[..., tuple[list[str], _Chunks]] | None:
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


def _read_parquet(place: _Place, columns: Sequence[str] | None) -> tuple[list[str], _Chunks]:
    import pyarrow as pa
    from pyarrow import parquet

    opened = parquet.ParquetFile(place.system.open(place.path))
    names = opened.schema_arrow.names
    wanted = _among(names, columns)

    def chunks() -> _Chunks:
        yield opened.schema_arrow.empty_table().select(wanted), 0.0
        done = 0
        for batch in opened.iter_batches(_CHUNK_ROWS, columns=wanted):
            done += len(batch)
            yield pa.Table.from_batches([batch]), done / opened.metadata.num_rows

    return names, chunks()


def _read_arrow(place: _Place, columns: Sequence[str] | None) -> tuple[list[str], _Chunks]:
    import pyarrow as pa

    opened = pa.ipc.open_file(place.system.open(place.path))
    names = opened.schema.names
    wanted = _among(names, columns)

    def chunks() -> _Chunks:
        yield opened.schema.empty_table().select(wanted), 0.0
        for number in range(opened.num_record_batches):
            rows = pa.Table.from_batches([opened.get_batch(number)]).select(wanted)
            yield rows, (number + 1) / opened.num_record_batches

    return names, chunks()


def _read_csv(place: _Place, columns: Sequence[str] | None) -> tuple[list[str], _Chunks]:
    import pyarrow as pa
    from fsspec.compression import compr
    from pyarrow import csv

    # As it lies there, whose size is known, and unpacked.
    packed = place.system.open(place.path)
    compression = _compression(place.path)
    file = compr[compression](packed, mode="rb") if compression else packed
    parse = csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True)
    size = place.info().get("size")
    # A buffer of a chunk's size is made, however little there is.
    chunk = _CHUNK_BYTES if compression else min(_CHUNK_BYTES, size or _CHUNK_BYTES)
    blocks = csv.ReadOptions(block_size=chunk)
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

    def chunks() -> _Chunks:
        yield opened.schema.empty_table(), 0.0
        for batch in opened:
            yield pa.Table.from_batches([batch]), packed.tell() / size if size else 0.0

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
        twice = next(name for name in names if names.count(name) > 1)
        raise pa.ArrowInvalid(f"two of its columns have one name, {twice!r}")
    return [name for name in names if columns is None or name in columns]


def _next(chunks: _Chunks, option: str, path: str) -> tuple[Any, float] | None:
    with _reported(option, path):
        found = next(chunks, None)
        return found and (plain(found[0], option=option, path=path), found[1])


@contextmanager
def _reported(option: str, path: str) -> Iterator[None]:
    """Says of which option and file an error is that comes of reading."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # file systems and compressions have errors of their own
        raise _unreadable(option, path, error) from error


def _unreadable(option: str, path: str, error: Exception) -> UserError:
    return UserError(
        f"`{option}` must be a CSV file in UTF-8, a Parquet or an Arrow file; {path} cannot be "
        f"read ({_reason(error)}). Write it again, or set `{option}` to another file."
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _changes(info: dict[str, Any]) -> list[Any]:
    """Size, and what tells that a file was written anew: the time, or the store's own tag."""
    tags = ("mtime", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified")
    return [info.get("size"), *(str(info[tag]) for tag in tags if tag in info)]
