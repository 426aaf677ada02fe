"""Files that differ from each other, and cells that a type of numbers cannot hold."""

import bz2
import gzip
import io
import lzma
import resource
import signal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from mtrec.data import files, progress, sorted_log, table
from mtrec.data.files import Files
from mtrec.data.infer import propose
from mtrec.errors import UserError


def load(path, **changed):
    arguments = {
        **dict.fromkeys(("items", "users", "negative", "timestamp_format", "title")),
        **{"interactions": str(path / "log"), "user_key": "user_id", "item_key": "item_id"},
        **{"rating": "rating", "labels": [], "timestamp": "timestamp", "rating_scale": [1, 5]},
        **{"user_columns": [], "item_columns": [], "user_vectors": {}, "item_vectors": {}},
        **{"context": [], "request": None, "bag_columns": [], "bag_separator": "|"},
        "cache_dir": str(path / "cache"),
    }
    return table.load(**{**arguments, "memory_budget_mib": 256, **changed})


def write(folder, *tables):
    folder.mkdir()
    for number, rows in enumerate(tables):
        pyarrow.parquet.write_table(pa.table(rows), folder / f"{number}.parquet")


def rows(**changed):
    plain = {"user_id": [1, 2], "item_id": [5, 6], "rating": [1.0, 2.0], "timestamp": [10, 20]}
    return {**plain, **changed}


def test_ids_that_are_numbers_in_one_file_and_text_in_another_stay_apart(tmp_path):
    write(tmp_path / "log", rows(), rows(user_id=["07", "1"]))

    data = load(tmp_path)

    assert data.users["user_id"].tolist() == ["", "1", "2", "07"]
    assert data.interactions["user"].tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("dates_first", [True, False])
def test_each_file_may_write_times_in_its_own_type(tmp_path, dates_first):
    dates = rows(timestamp=pa.array([30_000_000_001, 40_000_000_002], pa.timestamp("ns")))
    numbers = rows(timestamp=[10.5, 20.5])
    write(tmp_path / "log", *([dates, numbers] if dates_first else [numbers, dates]))

    assert sorted(load(tmp_path).interactions["timestamp"].tolist()) == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("first", "then"),
    [([7, 7], [7.5, 8.0]), ([None, None], ["a", "b"]), ([1, 2], ["a", "b"])],
)
def test_a_column_of_the_users_may_have_another_type_in_each_file(tmp_path, first, then):
    write(tmp_path / "log", *(rows(age=cells) for cells in (first, then, then)))

    assert list(load(tmp_path, user_columns=["age"]).users["age"][1:]) == then


def test_a_column_of_lists_in_one_file_alone_is_named(tmp_path):
    write(tmp_path / "log", rows(tags=["a", "b"]), rows(tags=[["a"], ["b"]]))

    with pytest.raises(UserError, match="must hold one kind of cells in all files"):
        load(tmp_path, user_columns=["tags"])


def test_files_of_items_may_differ_in_order_types_and_columns(tmp_path):
    write(tmp_path / "log", rows())
    items = tmp_path / "items"
    write(items, {"item_id": [5], "size": [1]}, {"color": ["red"], "size": [1.5], "item_id": ["6"]})

    found = load(tmp_path, items=str(items)).items

    assert found["item_id"].tolist() == ["", "5", "6"]
    assert found["size"][1:].tolist() == [1.0, 1.5]
    assert found["color"].tolist() == ["", "", "red"]


def test_a_list_of_files_folders_and_patterns_is_read_in_its_order(tmp_path):
    log = "user_id,item_id,rating,timestamp\n{0},5,1,7\n"
    write(tmp_path / "folder", rows(user_id=["c", "d"]))
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(log.format("a").encode()))
    (tmp_path / "y1.csv").write_text(log.format("e"))
    (tmp_path / "y2.csv").write_text(log.format("f"))
    paths = [str(tmp_path / name) for name in ("z.csv.gz", "folder", "y*.csv")]

    data = load(tmp_path, interactions=paths)

    assert data.users["user_id"].tolist() == ["", "a", "c", "d", "e", "f"]
    assert data.name == "z"
    assert data.source == f"{paths[0]} and 2 more"
    assert load(tmp_path, interactions=paths[:2]).num_users == 3


def test_a_table_of_items_may_be_a_list_of_files(tmp_path):
    write(tmp_path / "log", rows())
    write(tmp_path / "items", {"item_id": [6]}, {"item_id": [5]})
    paths = [str(tmp_path / "items" / name) for name in ("1.parquet", "0.parquet")]

    assert load(tmp_path, items=paths).items["item_id"].tolist() == ["", "5", "6"]


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    write(tmp_path / "log", rows())
    folder = str(tmp_path / "log")

    with pytest.raises(UserError, match=r"must name each file once; got .*/0\.parquet twice"):
        load(tmp_path, interactions=[folder, f"{folder}/*.parquet"])
    with pytest.raises(UserError, match="`interactions` must name a file at least; got none"):
        load(tmp_path, interactions=[])


class Following:
    """Notes how far each stage comes."""

    def __init__(self):
        self.stages, self.told = [], []

    def begin(self, stage):
        self.stages.append(stage)

    def advance(self, done, total, unit):
        self.told.append((self.stages[-1].name, done, total, unit))

    def end(self, peak):
        self.stages.pop()

    def should_stop(self):
        return False


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "arrow"])
def test_reading_tells_how_far_it_is_in_each_file(tmp_path, form, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK_ROWS", 10_000)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 1 << 14)
    drawn = np.random.default_rng(0).integers(1, 10**9, 60_000).tolist()
    log = pa.table(rows(user_id=drawn, item_id=drawn, rating=[1.0] * 60_000, timestamp=drawn))
    text = io.BytesIO()
    pa.csv.write_csv(log, text)
    packed = gzip.compress(text.getvalue())
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            pyarrow.parquet.write_table(log, path)
        elif form == "arrow":
            with pa.ipc.new_file(path, log.schema) as file:
                file.write_table(log, max_chunksize=10_000)
        else:
            path.write_bytes(packed if form == "csv.gz" else text.getvalue())

    following = Following()
    with progress.followed_by(following):
        load(tmp_path, interactions=str(tmp_path / f"*.{form}"), rating_scale=None, rating=None)

    size = 2 * (tmp_path / f"a.{form}").stat().st_size / 2**20
    told = [told for name, *told in following.told if name == "reading"]
    read, totals, units = zip(*told, strict=True)
    assert set(units) == {"MiB"}
    assert totals == pytest.approx([size] * len(totals))
    assert list(read) == sorted(read)
    assert len(set(read)) > 6
    assert read[-1] == pytest.approx(size)
    assert ("sorting", 120_000, 120_000, "rows") in following.told


def test_a_long_query_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sorted_log, "_SECONDS_BETWEEN_LOOKS", 0.001)
    write(tmp_path / "log", {n: np.arange(300_000) for n in rows()})

    following = Following()
    with progress.followed_by(following):
        load(tmp_path, rating_scale=None)

    told = [done for name, done, *_ in following.told if name == "sorting"]
    # The rows are written in portions of this size, and in between it is DuckDB that says so.
    assert set(told) - {0, min(sorted_log._ROWS_AT_ONCE, 300_000), 300_000}


def test_what_spark_keeps_beside_its_files_is_no_part_of_a_folder(tmp_path):
    write(tmp_path / "log", rows())
    (tmp_path / "log" / ".0.parquet.crc").write_bytes(b"crc")
    (tmp_path / "log" / "0.parquet.bak").write_bytes(b"old")
    (tmp_path / "log" / "_temporary").mkdir()
    (tmp_path / "log" / "_temporary" / "1.parquet").write_bytes(b"half")

    assert load(tmp_path).interactions["item"].tolist() == [1, 2]
    assert load(tmp_path, interactions=str(tmp_path / "log" / "*.parquet")).name == "log"


def test_large_whole_numbers_of_items_stay_apart(tmp_path):
    write(tmp_path / "log", rows())
    brands, ids = [2**24, 2**24 + 1], [2**60, 2**60 + 1]
    write(tmp_path / "items", {"item_id": [5, 6], "brand": brands, "hash": ids, "share": [0.1, 1]})

    found = load(tmp_path, items=str(tmp_path / "items")).items

    assert found["brand"][1:].tolist() == brands
    assert found["hash"][1:].tolist() == [str(2**60), str(2**60 + 1)]
    # As it is served: 0.1 as a float32 would lie on the other side of a boundary at 0.1.
    assert found["share"][1] == 0.1


def test_ids_written_as_fractions_are_refused_where_they_are_no_longer_apart(tmp_path):
    write(tmp_path / "log", rows(user_id=[2.0**53, 2.0**60]))

    with pytest.raises(UserError, match=r"below 2\^53 .* got 1.15.* in row 2 of .*Write it"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["log.csv.xz", "log.csv.zip", "log.csv.bz2"])
def test_a_damaged_compressed_file_is_named(tmp_path, name):
    text = b"user_id,item_id,rating,timestamp\n" + b"1,2,3,4\n" * 1000
    packed = {"xz": lzma.compress, "bz2": bz2.compress}.get(name[-3:].strip("."), bytes)(text)
    (tmp_path / name).write_bytes(packed[:-40] + b"\x11" * 40)

    with pytest.raises(UserError, match=f"{name} cannot be read"):
        load(tmp_path, interactions=str(tmp_path / name))


def test_true_and_false_are_labels(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,clicked,timestamp\n1,5,True,10\n2,6,,20\n2,5,false,30\n"
    )

    found = load(tmp_path, interactions=str(tmp_path / "log.csv"), rating=None, labels=["clicked"])

    np.testing.assert_array_equal(found.interactions["clicked"], [1, np.nan, 0])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2019-10-01 00:00:00 UTC", "2019-10-01 00:01:00 UTC"),
        ("2019-10-01T02:00:00+02:00", "2019-09-30 23:01:00-01:00"),
        ("2019-10-01 00:00:00+00", "2019-10-01 00:01:00+00"),
        ("2019-10-01T00:00:00.123456789", "2019-10-01T00:01:00"),
    ],
)
def test_moments_with_zones_and_parts_of_a_second_are_inferred_and_read(tmp_path, first, second):
    log = f"user_id,item_id,event_time\n1,5,{first}\n2,6,{second}\n"
    (tmp_path / "log.csv").write_text(log)
    path = str(tmp_path / "log.csv")

    options = propose(Files.of(path, option="interactions").whole().rows).options

    assert (options["timestamp"], options["timestamp_format"]) == ("event_time", None)
    data = load(tmp_path, interactions=path, rating=None, timestamp="event_time")
    assert data.interactions["timestamp"].tolist() == [1_569_888_000, 1_569_888_060]


def test_columns_whose_names_differ_by_signs_alone_are_features_and_heads_each():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 20, 400)
    log = {"user_id": user, "item_id": rng.integers(0, 30, 400), "user age": user % 7}
    log |= {"user-age": user % 5, "retrieval": rng.integers(0, 2, 400)}

    found = propose(pa.table(log))

    assert {name: node["column"] for name, node in found.features["user"].items()} == {
        "user_age": "user age",
        "user_age_2": "user-age",
    }
    assert [(label.column, label.name) for label in found.labels] == [("retrieval", "retrieval_2")]


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "it's full").mkdir()
    write(tmp_path / "log", rows())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        with pytest.raises(UserError, match=r"`cache_dir` must have room .* File too large"):
            load(tmp_path, cache_dir=str(tmp_path / "it's full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert not list((tmp_path / "it's full").iterdir())
    assert load(tmp_path, cache_dir=str(tmp_path / "it's full")).num_users == 2
