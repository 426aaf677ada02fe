"""Directories that are replaced whole, and what is somebody else's."""

import pytest

from mtrec.errors import UserError
from mtrec.tracking.whole import foreign, refuse_foreign, replacing

OURS = ("data.npy", "parts/*.npy")


def write(directory, text):
    with replacing(directory, OURS) as aside:
        (aside / "data.npy").write_text(text)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def failing_rename(monkeypatch, *, to):
    """Makes the rename of a `.new` directory to its place fail."""
    rename = type(to).rename

    def fail(path, target):
        if path.name == f".{to.name}.new":
            raise OSError("disk on fire")
        return rename(path, target)

    monkeypatch.setattr(type(to), "rename", fail)


def test_a_directory_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    for text in ("first", "second"):
        write(tmp_path / "index", text)
        assert (tmp_path / "index" / "data.npy").read_text() == text
    assert names(tmp_path) == ["index"]


def test_writing_that_fails_leaves_the_old_directory(tmp_path):
    write(tmp_path / "index", "old")

    def write_half():
        with replacing(tmp_path / "index", OURS) as aside:
            (aside / "data.npy").write_text("half")
            raise RuntimeError("out of room")

    with pytest.raises(RuntimeError, match="out of room"):
        write_half()
    assert (tmp_path / "index" / "data.npy").read_text() == "old"
    assert names(tmp_path) == ["index"]


def test_an_error_between_the_two_renames_loses_neither_the_old_nor_the_new(tmp_path, monkeypatch):
    place = tmp_path / "index"
    write(place, "old")
    with monkeypatch.context() as patch:
        failing_rename(patch, to=place)
        with pytest.raises(OSError, match="disk on fire"):
            write(place, "new")
    assert (place / "data.npy").read_text() == "old"
    assert (tmp_path / ".index.new" / "data.npy").read_text() == "new"
    write(place, "newer")
    assert (place / "data.npy").read_text() == "newer"
    assert names(tmp_path) == ["index"]


def test_what_a_killed_job_left_between_the_renames_is_put_back_first(tmp_path):
    place = tmp_path / "index"
    write(place, "old")
    place.rename(tmp_path / ".index.old")
    with replacing(place, OURS):
        assert (place / "data.npy").read_text() == "old"


def test_files_of_somebody_else_are_named_and_stay(tmp_path):
    place = tmp_path / "index"
    write(place, "old")
    (place / "parts").mkdir()
    (place / "parts" / "0.npy").touch()
    refuse_foreign(place, OURS)
    (place / "parts" / "notes.txt").write_text("mine")
    assert foreign(place, OURS) == ["parts/notes.txt"]
    with pytest.raises(UserError, match=r"index must hold nothing but .* it holds parts/notes.txt"):
        write(place, "new")
    assert (place / "parts" / "notes.txt").read_text() == "mine"
    assert (place / "data.npy").read_text() == "old"


def test_a_file_where_a_directory_belongs_is_somebody_elses(tmp_path):
    (tmp_path / "index").write_text("mine")
    assert foreign(tmp_path / "index", OURS) == ["index"]
    assert foreign(tmp_path / "missing", OURS) == []
