"""The cache gives back what was built, and never a damaged copy of it."""

import dataclasses

import numpy as np
import pytest

from mtrec.data.cache import cached, digest_of, fingerprint
from mtrec.data.columns import parts_of
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

KEY = {"name": "small", "seed": 1}


def small(_=None, title="Heat (1995)"):
    tables = {
        "users": {"user_id": np.array(["", "7"])},
        "items": {
            "movie_id": np.array(["", "3"]),
            "a/title": np.array(["", title]),
            "genres": np.array([["", ""], ["Crime", "Thriller"]]),
            "year": np.array([np.nan, 1995], np.float32),
        },
        "interactions": {
            "user": np.array([1], np.int32),
            "item": np.array([1], np.int32),
            "rating": np.array([4], np.float32),
            "timestamp": np.array([881250949], np.int64),
        },
    }
    return Dataset(
        name="small",
        **tables,
        user_key="user_id",
        item_key="movie_id",
        title="a/title",
        rating_scale=(1.0, 5.0),
        source="made up",
        digest=digest_of(**tables),
    )


def never(_):
    raise AssertionError("the cache should have answered")


def only_directory(cache_dir):
    (directory,) = cache_dir.iterdir()
    return directory


def test_a_second_call_returns_the_same_dataset_from_memory_maps(tmp_path):
    cached(cache_dir=str(tmp_path), key=KEY, build=small)

    again = cached(cache_dir=str(tmp_path), key=KEY, build=never)

    expected = small()
    for field in dataclasses.fields(Dataset):
        if field.name not in ("users", "items", "interactions"):
            assert getattr(again, field.name) == getattr(expected, field.name)
            continue
        columns = getattr(again, field.name)
        assert list(columns) == list(getattr(expected, field.name))
        for name, column in getattr(expected, field.name).items():
            for part, values in parts_of(column).items():
                found = parts_of(columns[name])[part]
                assert isinstance(found, np.memmap)
                assert found.dtype == values.dtype
                np.testing.assert_array_equal(found, values)


def test_the_first_call_returns_memory_maps_too(tmp_path):
    dataset = cached(cache_dir=str(tmp_path), key=KEY, build=small)

    assert isinstance(dataset.items["a/title"].data, np.memmap)


def test_another_key_is_built_anew(tmp_path):
    cached(cache_dir=str(tmp_path), key=KEY, build=small)

    other = cached(
        cache_dir=str(tmp_path), key={**KEY, "seed": 2}, build=lambda _: small(title="Ran")
    )

    assert other.items["a/title"][1] == "Ran"
    kept = cached(cache_dir=str(tmp_path), key=KEY, build=never)
    assert kept.items["a/title"][1] == "Heat (1995)"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-3]),
        lambda file: file.write_bytes(b"garbage"),
    ],
    ids=["missing", "empty", "cut off", "garbage"],
)
@pytest.mark.parametrize("name", ["interactions.2.values.npy", "about.json"])
def test_a_damaged_file_has_the_columns_built_again(tmp_path, name, damage):
    cached(cache_dir=str(tmp_path), key=KEY, build=small)
    damage(only_directory(tmp_path) / name)
    built = []

    dataset = cached(cache_dir=str(tmp_path), key=KEY, build=lambda _: built.append(1) or small())

    assert built == [1]
    assert dataset.interactions["rating"][0] == 4
    cached(cache_dir=str(tmp_path), key=KEY, build=never)


def test_one_flipped_bit_has_the_columns_built_again(tmp_path):
    cached(cache_dir=str(tmp_path), key=KEY, build=small)
    file = only_directory(tmp_path) / "interactions.2.values.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    dataset = cached(cache_dir=str(tmp_path), key=KEY, build=small)

    assert dataset.interactions["rating"][0] == 4


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def fail(_):
        raise UserError("no data")

    with pytest.raises(UserError, match="no data"):
        cached(cache_dir=str(tmp_path), key=KEY, build=fail)

    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_cut_off_is_not_taken_for_a_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("mtrec.data.cache.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cached(cache_dir=str(tmp_path), key=KEY, build=small)
    monkeypatch.undo()

    built = []
    cached(cache_dir=str(tmp_path), key=KEY, build=lambda _: built.append(1) or small())

    assert built == [1]


def test_columns_are_never_unpickled(tmp_path):
    cached(cache_dir=str(tmp_path), key=KEY, build=small)
    file = only_directory(tmp_path) / "users.0.data.npy"
    np.save(file, np.array(["", {}], dtype=object), allow_pickle=True)

    dataset = cached(cache_dir=str(tmp_path), key=KEY, build=small)

    assert dataset.users["user_id"].tolist() == ["", "7"]


def test_a_cache_directory_that_is_a_file_is_refused_by_its_option(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match=r"`cache_dir` must be a directory"):
        cached(cache_dir=str(tmp_path / "file"), key=KEY, build=small)


def test_the_digest_follows_contents_names_types_and_shapes_but_not_order():
    one, two = np.array([1, 2], np.int32), np.array([3.0, 4.0], np.float32)
    digest = digest_of(users={"a": one, "b": two}, items={"c": one})

    assert digest == digest_of(items={"c": one}, users={"b": two, "a": one})
    for users in (
        {"a": one, "b": two + 1},
        {"a": one, "x": two},
        {"a": one, "b": two.view(np.int32)},
        {"a": one, "b": two[:, None]},
    ):
        assert digest != digest_of(users=users, items={"c": one})


def test_the_fingerprint_changes_with_a_file_and_leaves_out_what_is_missing(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("1")
    before = fingerprint([file, tmp_path / "none.csv"])
    file.write_text("22")

    assert list(before) == [str(file)]
    assert fingerprint([file]) != before
