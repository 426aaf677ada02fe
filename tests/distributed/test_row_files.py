"""Tables in files are read by any number of replicas, whatever number wrote them."""

import numpy as np
import pytest
import tensorflow as tf

from mtrec.distributed import row_files
from mtrec.distributed.row_files import RowFiles
from mtrec.distributed.tables import NormalRows


def written(directory, table, replicas):
    """The files of a table that so many replicas hold, in rows of equal number each."""
    each = -(-len(table) // replicas)
    for replica in range(replicas):
        held = np.full((each, *table.shape[1:]), 7, table.dtype)
        held[: len(table[replica::replicas])] = table[replica::replicas]
        row_files.write(
            tf.Variable(held), directory, "t", rows=len(table), replica=replica, replicas=replicas
        )
    return RowFiles(directory, "t")


@pytest.fixture(params=[1, 3, 1000])
def at_once(request, monkeypatch):
    monkeypatch.setattr(row_files, "ROWS_AT_ONCE", request.param)


@pytest.mark.parametrize("table", [np.arange(22.0).reshape(11, 2), np.arange(2), np.arange(11)])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 2), (2, 3)])
def test_each_replica_reads_its_own_rows(tmp_path, at_once, table, before, after):
    files = written(tmp_path, table, before)
    assert files.shape == table.shape
    for replica in range(after):
        variable = tf.Variable(np.full((-(-len(table) // after), *table.shape[1:]), 9, table.dtype))
        row_files.read(variable, files, replica=replica, replicas=after)
        own = table[replica::after]
        np.testing.assert_array_equal(variable.numpy()[: len(own)], own)
        assert (variable.numpy()[len(own) :] == 9).all()


def test_any_rows_are_had_in_the_order_asked_for(tmp_path):
    table = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
    rows = np.array([22, 0, 5, 5, 17])
    np.testing.assert_array_equal(written(tmp_path, table, 4)[rows], table[rows])


@pytest.mark.parametrize("replicas", [1, 4])
def test_all_rows_are_mapped_in_their_order(tmp_path, at_once, replicas):
    table = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
    mapped = row_files.mapped(written(tmp_path, table, replicas), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == table.tobytes()
    (tmp_path / "whole").unlink()
    np.testing.assert_array_equal(mapped, table)


def test_what_is_missing_is_not_taken_for_there(tmp_path):
    written(tmp_path, np.arange(11), 3)
    (tmp_path / "t.00001-of-00003.npy").unlink()
    with pytest.raises(FileNotFoundError):
        RowFiles(tmp_path, "t")
    with pytest.raises(FileNotFoundError, match="no rows of other"):
        RowFiles(tmp_path, "other")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_initial_rows_do_not_depend_on_how_many_are_made_at_once(monkeypatch, size):
    known = np.random.default_rng(1).random(50) < 0.8
    expected = np.random.default_rng(4).standard_normal((50, 6), np.float32) * 0.1
    expected[~known] = 0
    monkeypatch.setattr("mtrec.distributed.tables.ROWS_AT_ONCE", size)
    found = np.asarray(NormalRows(known, dim=6, stddev=0.1, seed=4))
    np.testing.assert_array_equal(found, expected.astype(np.float32))
