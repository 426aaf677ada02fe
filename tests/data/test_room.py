"""Numbers of rows are kept in memory with data in memory, and in files with data in files."""

import pickle
import re
import tempfile

import numpy as np
import pytest

from mtrec.data import room
from mtrec.data.room import Room, counted, of_rows
from mtrec.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 1000, 5000).astype(np.int32)


@pytest.fixture
def column(tmp_path, monkeypatch):
    """A column that is mapped from a file, and looked at a few rows at a time."""
    monkeypatch.setattr(room, "AT_ONCE", 64)
    np.save(tmp_path / "column.npy", VALUES)
    return np.load(tmp_path / "column.npy", mmap_mode="r")


def file_of(array):
    """The map that an array is a view of, or None."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array


@pytest.mark.parametrize(
    "rows", [np.arange(0, 5000, 3), np.array([7, 3, 3]), np.r_[0:100, 101:200], np.zeros(0, int)]
)
def test_some_rows_of_a_mapped_column_are_in_a_file_without_a_name(column, rows, tmp_path):
    found = of_rows(column, rows)

    np.testing.assert_array_equal(found, VALUES[rows])
    assert found.dtype == np.int32
    assert (file_of(found) is not None) == (len(rows) > 0)
    assert not np.shares_memory(found, column)
    assert [file.name for file in tmp_path.iterdir()] == ["column.npy"]
    again = of_rows(found, np.arange(0, len(rows), 2), np.int64)  # of what is in a file itself
    np.testing.assert_array_equal(again, VALUES[rows][::2])
    assert again.dtype == np.int64


def test_consecutive_rows_are_a_view(column):
    for values in (column, VALUES):
        found = of_rows(values, np.arange(100, 4000))
        np.testing.assert_array_equal(found, VALUES[100:4000])
        assert np.shares_memory(found, values)


def test_rows_of_a_column_in_memory_are_in_memory():
    found = of_rows(VALUES, np.array([5, 9]), np.int64)

    assert found.tolist() == VALUES[[5, 9]].tolist()
    assert found.dtype == np.int64
    assert file_of(found) is None


def test_rows_of_a_copy_of_a_mapped_column_are_in_memory(column, monkeypatch):
    # As a worker on Ray has it, which still calls it a map.
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    for copy in (pickle.loads(pickle.dumps(column, protocol=5)), column.copy()):
        assert isinstance(copy, np.memmap)
        assert of_rows(copy, np.array([5, 9])).tolist() == VALUES[[5, 9]].tolist()


@pytest.mark.parametrize("mapped", [True, False])
def test_room_takes_numbers_part_by_part_and_can_be_written(column, mapped):
    made = Room(np.int64, like=column if mapped else VALUES)
    for part in ([1, 2], [], [3]):
        made.append(np.array(part, np.int32))
    found = made.array()
    found[0] = 7

    assert found.tolist() == [7, 2, 3]
    assert (file_of(found) is not None) == mapped


def test_where_no_file_can_be_made_beside_a_column_it_is_among_temporary_ones(column, tmp_path):
    (tmp_path / "column.npy").unlink()
    tmp_path.rmdir()

    assert of_rows(column, np.array([5, 9])).tolist() == VALUES[[5, 9]].tolist()


class Full:
    """A file on a full disk."""

    def write(self, values):
        raise OSError(28, "No space left on device")


def on_a_full_disk(dir=None):
    return Full()


def with_full_temporary_files(dir=None):
    if dir:
        raise OSError(30, "Read-only file system")
    return Full()


def nowhere(dir=None):
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize(
    ("file", "place", "reason"),
    [
        (on_a_full_disk, "beside", "No space left on device"),
        (with_full_temporary_files, "aside", "No space left on device"),
        (nowhere, "beside", "Read-only file system"),
    ],
)
def test_where_there_is_no_room_is_told(column, tmp_path, monkeypatch, file, place, reason):
    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    monkeypatch.setattr(tempfile, "tempdir", "/aside")
    place = {"beside": str(tmp_path), "aside": "/aside"}[place]
    told = rf"writing to {re.escape(place)} failed \({reason}\)\. .* set `cache_dir` to"
    with pytest.raises(UserError, match=told):
        of_rows(column, np.array([5, 9]))


@pytest.mark.parametrize("ordered", [True, False])
def test_numbers_are_counted_as_by_numpy(column, ordered):
    values, rows = np.sort(VALUES) if ordered else column, np.arange(0, 5000, 7)[::-1]

    np.testing.assert_array_equal(counted(values, 1100), np.bincount(values, minlength=1100))
    expected = np.bincount(values[rows], minlength=1100)
    np.testing.assert_array_equal(counted(values, 1100, rows), expected)
    assert not counted(values, 3, np.zeros(0, int)).any()
