"""Room for numbers of every row: in memory with data in memory, in a file with data in files.

A worker whose columns are mapped from files then holds no array of all rows, of which there may be
10^8: what the system keeps of files it takes back where memory is short.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtrec.errors import UserError

# Rows that are looked at together.
AT_ONCE = 1 << 20


class Room:
    """An array that is made part by part, in a file where a column is mapped from one.

    The file has no name, lies in the folder of that one, or among temporary files if none can be
    made there, and ends with the array.

    Args:
        kind: The type of the array.
        like: The column.

    Raises:
        UserError: If no file can be made.
    """

    def __init__(self, kind: Any, *, like: np.ndarray) -> None:
        self._kind = np.dtype(kind)
        self._folder = _folder(like)
        self._file: IO[bytes] | None = None
        if self._folder is not None:
            self._file, self._place = _unnamed(self._folder)
        self._parts = [np.zeros(0, self._kind)]

    def append(self, values: np.ndarray) -> None:
        """Adds numbers at the end.

        Raises:
            UserError: If there is no room for them.
        """
        values = np.ascontiguousarray(values, self._kind)
        if self._file is None:
            self._parts.append(values)
            return
        try:
            self._file.write(values.data)
            self._file.flush()
        except OSError as error:
            raise _no_room(self._place, error) from error

    def array(self) -> np.ndarray:
        """All numbers; nothing can be added any more."""
        if self._file is None:
            return np.concatenate(self._parts)
        with self._file as file:
            if not file.tell():  # nothing cannot be mapped
                return self._parts[0]
            mapped = _Mapped(file, self._kind, "r+", shape=(file.tell() // self._kind.itemsize,))
        mapped.folder = self._folder
        return np.asarray(mapped)


class _Mapped(np.memmap):
    """An array in a file without a name, whose folder is remembered."""

    folder: Path | None = None


def of_rows(column: np.ndarray, rows: np.ndarray, kind: Any = None) -> np.ndarray:
    """What a column has in some rows, `[N]`: a view of consecutive ones, or a copy in its `Room`.

    Args:
        column: Numbers of `[rows]`.
        rows: Row numbers, `[N]`.
        kind: The type of what is returned; None for the column's own.
    """
    column = np.asarray(column)
    kind = column.dtype if kind is None else np.dtype(kind)
    if kind == column.dtype and len(rows) and _consecutive(rows):
        return column[rows[0] : rows[-1] + 1]
    if _folder(column) is None:
        return column[rows].astype(kind, copy=False)
    found = Room(kind, like=column)
    for part in parts(len(rows)):
        found.append(column[rows[part]])
    return found.array()


def copied(numbers: np.ndarray, *, like: np.ndarray) -> np.ndarray:
    """A copy in a `Room`, to be put in another order."""
    room = Room(numbers.dtype, like=like)
    for part in parts(len(numbers)):
        room.append(numbers[part])
    return room.array()


def counted(column: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
    """How often a column has each number below `count`, in all rows or some, `[count]`."""
    column, found = np.asarray(column), np.zeros(count, np.int64)
    for part in parts(len(column if rows is None else rows)):
        values = column[part] if rows is None else column[rows[part]]
        least = values.min()  # few numbers lie between, where rows are sorted
        times = np.bincount(values - least)
        found[least : least + len(times)] += times
    return found


def parts(count: int, *, overlap: int = 0) -> Iterator[slice]:
    """Consecutive parts of `count` rows, each with the first `overlap` rows of the next one."""
    for start in range(0, count, AT_ONCE):
        yield slice(start, min(start + AT_ONCE + overlap, count))


def _consecutive(rows: np.ndarray) -> bool:
    if rows[-1] - rows[0] != len(rows) - 1:
        return False
    return all((np.diff(rows[part]) == 1).all() for part in parts(len(rows), overlap=1))


def _folder(column: np.ndarray) -> Path | None:
    """The folder of the file that a column is mapped from; None for one in memory."""
    one: Any = column
    while isinstance(one, np.ndarray):
        if isinstance(one, _Mapped):
            return one.folder
        if isinstance(one, np.memmap) and one.filename is not None:  # or it is a copy of one
            return Path(one.filename).parent
        one = one.base
    return None


def _unnamed(folder: Path) -> tuple[IO[bytes], Path]:
    """A file without a name, and the folder that it is in."""
    try:
        return tempfile.TemporaryFile(dir=folder), folder
    except OSError:  # it is another's, who lets it be read alone
        pass
    try:
        return tempfile.TemporaryFile(), Path(tempfile.gettempdir())
    except OSError as error:
        raise _no_room(folder, error) from error


def _no_room(place: Path, error: OSError) -> UserError:
    return UserError(
        "A few numbers of every row must have room in files beside the columns, or among temporary "
        f"files where none can be made there; writing to {place} failed ({error.strerror}). Make "
        "room there, or set `cache_dir` to a directory with room that can be written."
    )
