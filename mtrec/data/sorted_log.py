"""A log of any size sorted by user and time, its ids numbered, on disk: the door to DuckDB.

DuckDB, unlike a sort of Arrow tables, needs no more memory than it is given, and writes the rest to
disk; see `experiments/scale/README.md`.
"""

import errno
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data import progress
from mtrec.data.arrow_columns import in_schema, together
from mtrec.data.columns import Columns, Texts
from mtrec.errors import UserError

_ROWS_AT_ONCE = 1 << 18
# Of what a process may hold, DuckDB's part; the rest is for Python, and for a chunk being read.
_SHARE_OF_BUDGET = 0.5
# Between looks at how far a query is.
_SECONDS_BETWEEN_LOOKS = 0.25


class LackingIdError(Exception):
    """A row of the log has an id that is not among those given.

    Args:
        column: The column.
        row: The first such row, from 0.
        received: The id.
    """

    def __init__(self, column: str, row: int, received: str) -> None:
        super().__init__(column, row, received)
        self.column, self.row, self.received = column, row, received


class SortedLog:
    """The interactions, out of memory.

    Args:
        connection: Of DuckDB.
        names: The log's columns in order, first those of ids.
        folder: Where columns are written.
        rows: How many rows the log has.
    """

    def __init__(self, connection: Any, names: Sequence[str], folder: Path, rows: int) -> None:
        self._connection = connection
        self._names = names
        self._folder = folder
        self._rows = rows

    @classmethod
    @contextmanager
    def of(
        cls, chunks: Iterable[Any], *, folder: Path, memory_budget_mib: int
    ) -> Iterator["SortedLog"]:
        """Reads a log.

        Args:
            chunks: Tables of Arrow, at least one, that have the same columns: ids as int64 or large
                strings, null for none, and numbers; among them `user`, `item` and `timestamp`. A
                column of several types becomes what all can be, such as text.
            folder: An empty directory, where it is kept and what comes of it is written.
            memory_budget_mib: What this process may hold in memory, in MiB.

        Raises:
            UserError: The memory does not suffice.
            OSError: The folder cannot be written, or its disk is full.
        """
        import duckdb

        try:
            with duckdb.connect(str(folder / "log.duckdb")) as connection:
                limit = max(int(memory_budget_mib * _SHARE_OF_BUDGET), 64)
                connection.execute(f"SET memory_limit='{limit}MiB'")
                connection.execute("SET temp_directory=?", [str(folder)])
                # Of each query it keeps then how far it is, from its first moment, and prints none;
                # in a notebook without ipywidgets it cannot.
                with suppress(duckdb.InvalidInputException):
                    connection.execute("SET enable_progress_bar=true")
                    connection.execute("SET enable_progress_bar_print=false")
                    connection.execute("SET progress_bar_time=0")
                with progress.stage("reading", unit="MiB"):
                    names = _insert(connection, chunks)
                rows = int(connection.sql("SELECT count(*) FROM log").fetchall()[0][0])
                with progress.stage("sorting", total=rows, unit="rows"):
                    yield cls(connection, names, folder, rows)
        except duckdb.OutOfMemoryException as error:
            raise UserError(
                f"`memory_budget_mib` must suffice to sort the interactions; got "
                f"{memory_budget_mib}: {_first_line(error)} Raise it, or make room in {folder}."
            ) from error
        except duckdb.IOException as error:
            raise OSError(errno.EIO, _first_line(error)) from error

    def number(self, name: str, columns: Sequence[str], given: Texts | None) -> Texts:
        """Numbers the ids of `columns` from 1, in the order in which they are given or first come.

        Args:
            name: What has the ids, `user` or `item`.
            columns: Columns of ids, of which the first column's come first.
            given: All ids there may be, each once; None takes those of the log.

        Returns:
            The ids in order, memory-mapped, `""` for the unknown before them.

        Raises:
            LackingIdError: A row has an id that is not given.
        """
        if given is not None:
            import pyarrow as pa

            ids = pa.table({"id": given.arrow(), "code": np.arange(1, len(given) + 1, dtype="i4")})
            self._connection.register("given", ids)
            self._run(f"CREATE TABLE {name}s AS SELECT id, code FROM given")
            self._connection.unregister("given")
            for column in columns:
                self._refuse_lacking(name, column)
        else:
            places = " UNION ALL ".join(
                f"SELECT {self._at(column)} AS id, {order} AS source, min(rowid) AS place FROM log "
                f"WHERE id IS NOT NULL GROUP BY id"
                for order, column in enumerate(columns)
            )
            if len(columns) > 1:
                places = f"SELECT id, min((source, place)) AS place FROM ({places}) GROUP BY id"
            self._run(
                f"CREATE TABLE {name}s AS SELECT id, "
                f"row_number() OVER (ORDER BY place)::INTEGER AS code FROM ({places})"
            )
        return self._texts(name)

    def most_frequent(self, column: str, *, of: str, count: int) -> Any:
        """What most rows of each owner have in a column, or of as frequent values the first.

        Args:
            column: The column.
            of: What owns it, `user` or `item`, whose ids are numbered.
            count: How many of them there are.

        Returns:
            An Arrow array `[count]`, null for those without a value.
        """
        import pyarrow as pa

        values = self._run(
            f"SELECT {of}s.code - 1 AS place, value FROM ("
            f"SELECT {self._at(of)}::{self._type(of)} AS id, {self._at(column)} AS value, "
            f"count(*) AS times, min(rowid) AS first FROM log "
            f"WHERE {self._at(column)} IS NOT NULL GROUP BY ALL) AS found "
            f"JOIN {of}s ON found.id = {of}s.id "
            f"QUALIFY row_number() OVER (PARTITION BY {of}s.code ORDER BY times DESC, first) = 1"
        ).to_arrow_table()
        rows = np.full(count, -1)
        rows[values.column("place").to_numpy()] = np.arange(len(values))
        return values.column("value").take(pa.array(rows, mask=rows < 0))

    def _refuse_lacking(self, name: str, column: str) -> None:
        found = self._run(
            f"SELECT rowid, {self._at(column)}::VARCHAR FROM log ANTI JOIN {name}s "
            f"ON {self._at(column)}::VARCHAR = {name}s.id WHERE {self._at(column)} IS NOT NULL "
            "ORDER BY rowid LIMIT 1"
        ).fetchone()
        if found:
            raise LackingIdError(column, *found)

    def _texts(self, name: str) -> Texts:
        offsets = ColumnFile(self._folder / f"{name}s.offsets.npy", np.int64)
        data = ColumnFile(self._folder / f"{name}s.data.npy", np.uint8)
        offsets.append(np.zeros(2, np.int64))
        end = 0
        for batch in self._batches(f"SELECT id::VARCHAR AS id FROM {name}s ORDER BY code"):
            texts = Texts.of_arrow(batch.column(0)).parts()
            offsets.append(texts["offsets"][1:] + end)
            data.append(texts["data"])
            end += int(texts["offsets"][-1])
        return Texts(offsets.mapped(), data.mapped())

    def sorted(self, numbered: Mapping[str, Sequence[str]], types: Mapping[str, Any]) -> Columns:
        """The log by user, then by time, then as it came.

        Args:
            numbered: What `number` was called with: the columns of ids of each name.
            types: The type of every column that is returned.

        Returns:
            Memory-mapped columns; ids as their numbers, 0 for none.
        """
        owner = {column: name for name, columns in numbered.items() for column in columns}
        joins = " ".join(
            f"LEFT JOIN {name}s AS of_{column} "
            f"ON log.{self._at(column)}::{self._type(name)} = of_{column}.id"
            for column, name in owner.items()
        )
        wanted = ", ".join(
            f"coalesce(of_{name}.code, 0)" if name in owner else f"log.{self._at(name)}"
            for name in types
        )
        files = {
            name: ColumnFile(self._folder / f"{place}.npy", kind)
            for place, (name, kind) in enumerate(types.items())
        }
        ordered = f"ORDER BY of_user.code, log.{self._at('timestamp')}, log.rowid"
        done = 0
        for batch in self._batches(f"SELECT {wanted} FROM log {joins} {ordered}"):
            for file, values in zip(files.values(), batch.columns, strict=True):
                file.append(values.to_numpy(zero_copy_only=False))
            done += len(batch)
            progress.advance(done, self._rows, "rows")
        return {name: file.mapped() for name, file in files.items()}

    def _at(self, name: str) -> str:
        # Numbered: a column may have any name, and DuckDB takes `A` and `a` for one.
        return f"c{self._names.index(name)}"

    def _type(self, name: str) -> str:
        found = self._run(f"SELECT column_type FROM (DESCRIBE {name}s) WHERE column_name = 'id'")
        return str(found.fetchone()[0])

    def _run(self, query: str) -> Any:
        """Runs a query, and tells meanwhile how far it is."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_SECONDS_BETWEEN_LOOKS):
                percent = self._connection.query_progress()  # -1 where DuckDB cannot say
                if percent >= 0:
                    progress.advance(percent / 100 * self._rows, self._rows, "rows")

        watch = threading.Thread(target=tell, daemon=True)
        watch.start()
        try:
            return self._connection.execute(query)
        finally:
            over.set()
            watch.join()

    def _batches(self, query: str) -> Iterator[Any]:
        return iter(self._run(query).to_arrow_reader(_ROWS_AT_ONCE))


class ColumnFile:
    """A one-dimensional `.npy` file that grows.

    Args:
        path: The file, which is written anew.
        kind: The type of its numbers.
    """

    def __init__(self, path: Path, kind: Any) -> None:
        self._path = path
        self._kind = np.dtype(kind)
        self._count = 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        """Writes numbers after those that are there."""
        self._file.write(np.ascontiguousarray(values, self._kind).data)
        self._count += len(values)

    def mapped(self) -> np.ndarray:
        """Ends the file and maps it."""
        self._file.seek(0)
        self._write_header()
        self._file.close()
        # An empty file cannot be mapped.
        return np.load(self._path, mmap_mode="r" if self._count else None, allow_pickle=False)

    def _write_header(self) -> None:
        # NumPy leaves room for the length to grow.
        descr = np.lib.format.dtype_to_descr(self._kind)
        header = {"descr": descr, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _insert(connection: Any, chunks: Iterable[Any]) -> list[str]:
    """Makes the table `log` of the chunks, and returns the names of its columns."""
    import duckdb

    failed: list[Exception] = []

    def batches(alike: Iterable[Any], schema: Any) -> Iterator[Any]:
        try:
            for chunk in alike:
                yield from in_schema(chunk, schema).to_batches()
        except Exception as error:  # DuckDB would keep no more of it than its text
            failed.append(error)
            raise

    schema = None
    # One statement for all chunks in a row that have the same types.
    for types, alike in groupby(chunks, key=lambda chunk: chunk.schema):
        before, schema = schema, together([schema or types, types], option="interactions")
        _make_or_retype(connection, before, schema)
        connection.register("chunks", _reader(schema, batches(alike, schema)))
        try:
            connection.execute("INSERT INTO log SELECT * FROM chunks")
        except duckdb.Error:
            if failed:
                raise failed[0] from None
            raise
        connection.unregister("chunks")
    assert schema is not None
    return list(schema.names)


def _reader(schema: Any, batches: Iterable[Any]) -> Any:
    import pyarrow as pa

    return pa.RecordBatchReader.from_batches(schema, batches)


def _make_or_retype(connection: Any, before: Any, schema: Any) -> None:
    """Has the table `log` with a schema's types, its columns called c0, c1, ..."""
    kinds = connection.from_arrow(schema.empty_table()).types
    if before is None:
        columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate(kinds))
        connection.execute(f"CREATE TABLE log ({columns})")
        return
    for place, (kind, old, new) in enumerate(zip(kinds, before, schema, strict=True)):
        if old.type != new.type:
            connection.execute(f"ALTER TABLE log ALTER c{place} TYPE {kind}")
