"""A log in many files: in which order its rows come out, and what is kept of it, and when."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from mtrec.data import table
from mtrec.data.columns import parts_of
from mtrec.errors import UserError

ROWS = 20_000


def load(path, folder, **changed):
    arguments = {
        "interactions": str(path),
        "items": None,
        "users": None,
        "user_key": "user",
        "item_key": "item",
        "rating": None,
        "labels": ["number"],
        "negative": None,
        "timestamp": "time",
        "timestamp_format": None,
        "user_columns": [],
        "item_columns": [],
        "user_vectors": {},
        "item_vectors": {},
        "title": None,
        "rating_scale": None,
        "context": [],
        "request": None,
        "bag_columns": [],
        "bag_separator": "|",
        "cache_dir": str(folder / "cache"),
        "memory_budget_mib": 256,
    }
    return table.load(**{**arguments, **changed})


def made_up(rows=ROWS):
    """Users as whole numbers, items as texts, few times, and the number of each row."""
    rng = np.random.default_rng(0)
    return {
        "user": rng.integers(500, size=rows) * 7 + 10**12,
        "item": np.array([f"i{n}" for n in rng.integers(300, size=rows)]),
        "time": rng.integers(1_000_000_000, 1_000_000_050, size=rows),
        "number": np.arange(rows, dtype=np.float32),
    }


@pytest.fixture
def log(tmp_path):
    """The rows in 20 Parquet files."""
    columns = made_up()
    (tmp_path / "log").mkdir()
    for part in range(20):
        rows = slice(part * 1000, (part + 1) * 1000)
        chunk = pa.table({name: values[rows] for name, values in columns.items()})
        pa.parquet.write_table(chunk, tmp_path / "log" / f"part-{part:02}.parquet")
    return tmp_path / "log"


def test_rows_are_sorted_by_user_in_order_of_appearance_then_time_then_place(log, tmp_path):
    columns = made_up()
    users, first, user = np.unique(columns["user"], return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first))[user]
    order = np.lexsort((np.arange(ROWS), columns["time"], appearance))

    data = load(log, tmp_path)

    assert data.users["user"].tolist() == ["", *map(str, users[np.argsort(first)])]
    np.testing.assert_array_equal(data.interactions["user"], appearance[order] + 1)
    np.testing.assert_array_equal(data.interactions["timestamp"], columns["time"][order])
    np.testing.assert_array_equal(data.interactions["number"], columns["number"][order])
    items = data.items["item"][data.interactions["item"]].tolist()
    assert items == columns["item"][order].tolist()


def test_all_columns_are_maps_of_files_that_the_cache_keeps(log, tmp_path):
    data = load(log, tmp_path)

    tables = [*data.users.values(), *data.items.values(), *data.interactions.values()]
    arrays = [array for column in tables for array in parts_of(column).values()]
    (kept,) = (tmp_path / "cache").iterdir()
    assert all(str(array.filename).startswith(str(kept)) for array in arrays)


def test_csv_arrow_patterns_and_addresses_give_what_parquet_gives(log, tmp_path):
    whole = pa.parquet.read_table(log)
    pa.feather.write_feather(whole, tmp_path / "rows.arrow", compression="uncompressed")
    pa.csv.write_csv(whole, tmp_path / "rows.csv")
    files = fsspec.filesystem("memory")
    for path in log.iterdir():
        files.pipe(f"/log/{path.name}", path.read_bytes())

    expected = load(log, tmp_path).digest

    for place in (
        log / "part-*.parquet",
        tmp_path / "rows.arrow",
        tmp_path / "rows.csv",
        "memory://log",
    ):
        assert load(place, tmp_path).digest == expected


def test_a_file_that_changes_and_an_option_that_does_make_other_columns(log, tmp_path):
    before = load(log, tmp_path)
    rows = pa.parquet.read_table(log / "part-03.parquet")
    pa.parquet.write_table(rows.slice(1), log / "part-03.parquet")

    after = load(log, tmp_path)

    assert len(after.interactions["user"]) == len(before.interactions["user"]) - 1
    assert load(log, tmp_path, labels=[]).labels == ["rating"]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_what_is_wrong_is_named_by_its_own_file_and_row(log, tmp_path):
    rows = pa.parquet.read_table(log / "part-07.parquet").to_pydict()
    (tmp_path / "items.csv").write_text("item\n" + "\n".join(f"i{n}" for n in range(300)))
    pa.parquet.write_table(
        pa.table(rows | {"item": [*rows["item"][:41], "new", *rows["item"][42:]]}),
        log / "part-07.parquet",
    )
    with pytest.raises(UserError, match=r"'item' .* got 'new' in row 42 of .*part-07\.parquet"):
        load(log, tmp_path, items=str(tmp_path / "items.csv"))

    rows["time"][99] = 1_000_000_000_000
    pa.parquet.write_table(pa.table(rows), log / "part-07.parquet")
    with pytest.raises(
        UserError, match=r"got 1000000000000 in row 100 of .*part-07\.parquet\. Divide"
    ):
        load(log, tmp_path)

    rows["time"][99] = 1_000_000_000
    rows["number"][5] = float("inf")
    pa.parquet.write_table(pa.table(rows), log / "part-07.parquet")
    with pytest.raises(UserError, match=r"'number' .* got inf in row 6 of .*part-07\.parquet"):
        load(log, tmp_path)
    pa.parquet.write_table(pa.table(rows).drop_columns(["time"]), log / "part-07.parquet")
    with pytest.raises(UserError, match=r"'time' that `timestamp` names; .*part-07\.parquet"):
        load(log, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_preparation_that_is_killed_is_not_taken_for_whole_and_is_cleared_away(log, tmp_path):
    code = (
        "import sys, time\nsys.path.insert(0, 'tests/data')\nfrom pathlib import Path\n"
        "from mtrec.data import cache\nfrom test_sorted_log import load\n"
        "def stall(dataset, aside):\n    (aside / 'half').touch()\n    time.sleep(600)\n"
        "cache.write_columns = stall\n"
        f"load({str(log)!r}, Path({str(tmp_path)!r}))"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/.writing-*/written/half")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()

    data = load(log, tmp_path)

    assert len(data.interactions["user"]) == ROWS
    assert [path.name[0] for path in (tmp_path / "cache").iterdir()] != ["."]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_command_prepares_what_a_job_finds_ready(log, tmp_path):
    options = (f"interactions={log}", "user_key=user", "item_key=item", "rating=null")
    command = [sys.executable, "-m", "mtrec.prepare", "data=table", f"data.interactions={log}"]
    command += [f"data.{o}" for o in (*options, "timestamp=time", "labels=[number]")]
    done = subprocess.run(
        [*command, f"data.cache_dir={tmp_path / 'cache'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns

    data = load(log, tmp_path, memory_budget_mib=512)

    assert f"{ROWS:,} interactions of 500 users and 300 items" in done.stdout
    assert data.digest[:12] in done.stdout
    assert kept.stat().st_mtime_ns == before


def test_a_million_ids_are_numbered_without_an_object_for_each(tmp_path):
    count = 1_000_000
    ids = np.random.default_rng(1).permutation(count)
    rows = pa.table({"user": ids, "item": ids % 10, "time": ids, "number": ids.astype("f4")})
    pa.parquet.write_table(rows, tmp_path / "log.parquet")
    tracemalloc.start()
    try:
        data = load(tmp_path / "log.parquet", tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # A text of Python takes more than 50 bytes.
    assert peak < 40 * count
    # Each id comes once, so that users are in the order of the file.
    assert data.num_users == count
    assert data.users["user"][[1, 2, count]].tolist() == [str(ids[n]) for n in (0, 1, -1)]
    np.testing.assert_array_equal(data.interactions["user"], np.arange(1, count + 1))
    np.testing.assert_array_equal(data.interactions["timestamp"], ids)


def test_a_notebook_in_which_duckdb_can_draw_no_bar_sorts_a_log(tmp_path, monkeypatch):
    pa.parquet.write_table(pa.table(made_up(100)), tmp_path / "log.parquet")
    asked = []

    class Connection:
        """One within a Jupyter kernel that lacks ipywidgets."""

        def __init__(self, path):
            self.connection = connect(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.connection.close()

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def execute(self, query, *values):
            if "enable_progress_bar=" in query:
                asked.append(query)
                raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
            return self.connection.execute(query, *values)

    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", Connection)
    dataset = load(tmp_path / "log.parquet", tmp_path)
    assert asked
    assert len(dataset.interactions["user"]) == 100
