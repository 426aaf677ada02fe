"""Rows of tables in files: of R files of one table, file p holds each row r with r % R = p.

A process reads the rows that it asks for, and writes and fills variables some rows at a time, so
that no process ever holds more of a table than its replicas do.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

# Rows that are read or written at once.
ROWS_AT_ONCE = 16_384


class RowFiles:
    """A table `[rows, ...]` in files, which are mapped into memory and not read.

    Args:
        directory: Where the files are.
        name: Name of the table.

    Attributes:
        shape: Shape of the whole table.

    Raises:
        FileNotFoundError: If a file is missing.
    """

    def __init__(self, directory: Path, name: str) -> None:
        first = next(directory.glob(f"{name}.00000-of-*.npy"), None)
        if first is None:
            raise FileNotFoundError(f"{directory} holds no rows of {name}.")
        replicas = int(first.stem.rsplit("-", 1)[1])
        self._files = [
            np.load(directory / _file(name, replica, replicas), mmap_mode="r")
            for replica in range(replicas)
        ]
        self.shape = (sum(len(file) for file in self._files), *self._files[0].shape[1:])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Those rows, `[n, ...]`."""
        found = np.empty((len(rows), *self.shape[1:]), self._files[0].dtype)
        for replica, file in enumerate(self._files):
            held = rows % len(self._files) == replica
            found[held] = file[rows[held] // len(self._files)]
        return found


def write(
    variable: tf.Variable, directory: Path, name: str, *, rows: int, replica: int, replicas: int
) -> Path:
    """Writes what one replica holds of a table.

    Args:
        variable: The replica's rows; what is beyond the table's last row is left out.
        directory: Where to write.
        name: Name of the table.
        rows: Rows of the whole table.
        replica: The replica.
        replicas: Replicas that hold rows, R.

    Returns:
        The file.
    """
    path = directory / _file(name, replica, replicas)
    count = len(range(replica, rows, replicas))
    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(variable.dtype.as_numpy_dtype)),
            "fortran_order": False,
            "shape": (count, *variable.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for places in _some(count):
            # Reading the variable would copy all of it.
            part = tf.raw_ops.ResourceGather(
                resource=variable.handle, indices=places, dtype=variable.dtype
            )
            file.write(part.numpy().tobytes())
    return path


def read(variable: tf.Variable, files: RowFiles, *, replica: int, replicas: int) -> None:
    """Gives one of so many replicas its rows, however many others wrote the files."""
    for places in _some(len(range(replica, files.shape[0], replicas))):
        put(variable, places, files[places.astype(np.int64) * replicas + replica])


def mapped(files: RowFiles, path: Path) -> tf.Tensor:
    """All rows in their order: a tensor that is the file `path`, which is written, in memory.

    Memory that maps a file is the system's to drop and to read again.
    """
    with path.open("wb") as file:
        for rows in _some(files.shape[0]):
            file.write(files[rows].tobytes())
    # A tensor shares memory that can be written to, which here would leave the file as it is.
    whole = np.memmap(path, np.float32, "c", shape=files.shape)
    return tf.experimental.dlpack.from_dlpack(whole.__dlpack__())


def put(variable: tf.Variable, places: np.ndarray, values: np.ndarray) -> None:
    """Writes `values [n, ...]` at places of a variable, without a copy of it."""
    with tf.device(variable.device):
        tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=places, updates=values)


def _some(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield np.arange(start, min(start + ROWS_AT_ONCE, count), dtype=np.int32)


def _file(name: str, replica: int, replicas: int) -> str:
    return f"{name}.{replica:05d}-of-{replicas:05d}.npy"
