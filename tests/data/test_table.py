"""A user's own files: what comes out of them, and which cell is named when one is wrong."""

import datetime
import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from mtrec.data import table
from mtrec.errors import UserError

LOG = (
    "who,what,stars,when,ignored\n"
    "007,b,4,1700000000,x\n"
    "anna,a,,1700000001,x\n"
    "007,a,1.5,1700000002,x\n"
)
ITEMS = (
    "what,name,tags,price,weight,postcode\n"
    'a,"Amélie, the",comedy| drama,1.5,3,02139\n'
    "b,1984,drama,,4,55105\n"
    "c,Unseen,,2e1,,00501\n"
)
USERS = "who,group\nanna,f\n007,m\n"


@pytest.fixture
def folder(tmp_path):
    for name, text in {"log.csv": LOG, "items.csv": ITEMS, "users.csv": USERS}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def load(folder, **changed):
    arguments = {
        "interactions": str(folder / "log.csv"),
        "items": str(folder / "items.csv"),
        "users": str(folder / "users.csv"),
        "user_key": "who",
        "item_key": "what",
        "rating": "stars",
        "labels": [],
        "negative": None,
        "timestamp": "when",
        "timestamp_format": None,
        "context": [],
        "request": None,
        "user_columns": [],
        "item_columns": [],
        "user_vectors": {},
        "item_vectors": {},
        "title": "name",
        "rating_scale": [1, 5],
        "bag_columns": ["tags"],
        "bag_separator": "|",
        "cache_dir": str(folder / "cache"),
        "memory_budget_mib": 512,
    }
    return table.load(**{**arguments, **changed})


def test_three_csv_files_become_one_dataset(folder):
    data = load(folder)

    assert data.users["who"].tolist() == ["", "anna", "007"]
    assert data.users["group"].tolist() == ["", "f", "m"]
    assert data.items["what"].tolist() == ["", "a", "b", "c"]
    # A title is text even where a cell looks like a number.
    assert data.items[data.title].tolist() == ["", "Amélie, the", "1984", "Unseen"]
    assert data.items["tags"].tolist() == [[], ["comedy", "drama"], ["drama"], []]
    np.testing.assert_array_equal(data.items["price"], np.float32([np.nan, 1.5, np.nan, 20]))
    np.testing.assert_array_equal(data.items["weight"], np.float32([np.nan, 3, 4, np.nan]))
    # Leading zeros mark a code; as numbers they would be lost.
    assert data.items["postcode"].tolist() == ["", "02139", "55105", "00501"]
    # Sorted by user, then by time.
    assert data.interactions["user"].tolist() == [1, 2, 2]
    assert data.interactions["item"].tolist() == [1, 2, 1]
    np.testing.assert_array_equal(data.interactions["rating"], np.float32([np.nan, 4, 1.5]))
    assert data.interactions["timestamp"].tolist() == [1700000001, 1700000000, 1700000002]
    assert {name: column.dtype.name for name, column in data.interactions.items()} == {
        "user": "int32",
        "item": "int32",
        "rating": "float32",
        "timestamp": "int64",
    }
    assert (data.name, data.rating_scale) == ("log", (1.0, 5.0))


def test_without_files_of_users_and_items_the_ids_come_from_the_interactions(folder):
    data = load(
        folder, items=None, users=None, title=None, rating=None, timestamp=None, bag_columns=[]
    )

    assert data.users["who"].tolist() == ["", "007", "anna"]
    assert data.items["what"].tolist() == ["", "b", "a"]
    assert data.title == "what"
    assert data.interactions["item"].tolist() == [1, 2, 2]
    assert np.isnan(data.interactions["rating"]).all()
    assert data.interactions["timestamp"].tolist() == [0, 0, 0]


def test_the_scale_is_that_of_the_data_unless_it_is_given(folder):
    assert load(folder, rating_scale=None).rating_scale == (1.5, 4.0)


def test_parquet_gives_the_same_dataset_as_csv(folder):
    text = {"who": str, "what": str, "postcode": str, "name": str}
    for name in ("log", "items", "users"):
        frame = pd.read_csv(folder / f"{name}.csv", dtype=text)
        frame.to_parquet(folder / f"{name}.parquet")
    rows = pa.parquet.read_table(folder / "items.parquet").to_pydict()
    rows["tags"] = [
        ["comedy", "drama"],
        ["drama"],
        None,
    ]  # a list column is a bag of its own accord
    pa.parquet.write_table(pa.table(rows), folder / "items.parquet")

    data = load(
        folder,
        interactions=str(folder / "log.parquet"),
        items=str(folder / "items.parquet"),
        users=str(folder / "users.parquet"),
        bag_columns=[],
    )

    assert data.digest == load(folder).digest


def test_a_folder_of_parquet_files_a_compressed_csv_and_tabs_are_read_too(folder):
    (folder / "parts").mkdir()
    frame = pd.read_csv(folder / "log.csv", dtype={"who": str})
    frame[:2].to_parquet(folder / "parts" / "part-0.parquet")
    frame[2:].to_parquet(folder / "parts" / "part-1.parquet")
    (folder / "users.csv.gz").write_bytes(gzip.compress(USERS.encode()))
    (folder / "items.tsv").write_text("what\tname\na\tx,y\nb\tz\n")

    data = load(
        folder,
        interactions=str(folder / "parts"),
        users=str(folder / "users.csv.gz"),
        items=str(folder / "items.tsv"),
        bag_columns=[],
    )

    assert data.interactions["user"].tolist() == [1, 2, 2]
    assert data.items["name"].tolist() == ["", "x,y", "z"]


def test_numeric_and_categorical_parquet_ids_are_text(folder):
    rows = {
        "who": pa.array([7.0, 8.0]),
        "what": pa.array(["x", "y"]).dictionary_encode(),
        "stars": pa.array([1, 2], pa.int8()),
    }
    pa.parquet.write_table(pa.table(rows), folder / "log.parquet")

    data = load(
        folder,
        interactions=str(folder / "log.parquet"),
        items=None,
        users=None,
        title=None,
        timestamp=None,
        bag_columns=[],
    )

    assert data.users["who"].tolist() == ["", "7", "8"]
    assert data.items["what"].tolist() == ["", "x", "y"]
    assert data.interactions["rating"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1717156800", "1717156801"),
        ("1717156800.25", "1717156801.75"),
        ("2024-05-31T12:00:00", "2024-05-31 12:00:01"),
        ("2024-05-31T12:00:00Z", "2024-05-31T14:00:01+02:00"),
    ],
)
def test_times_are_seconds_or_dates(folder, first, second):
    (folder / "log.csv").write_text(f"who,what,stars,when\n007,a,1,{first}\nanna,b,2,{second}\n")

    # Anna is the first user.
    assert load(folder).interactions["timestamp"].tolist() == [1717156801, 1717156800]


def test_parquet_dates_are_times(folder):
    when = datetime.datetime(2024, 5, 31, 12, 0, 0)
    rows = {"who": ["007", "anna"], "what": ["a", "b"], "stars": [1.0, 2.0], "when": [when] * 2}
    pa.parquet.write_table(pa.table(rows), folder / "log.parquet")

    data = load(folder, interactions=str(folder / "log.parquet"))

    assert data.interactions["timestamp"].tolist() == [1717156800] * 2


def test_a_true_nan_in_parquet_is_refused_while_a_missing_value_is_no_rating(folder):
    rows = {"who": ["007", "007"], "what": ["a", "b"], "when": [1, 2]}
    rows["stars"] = pa.array([None, float("nan")], pa.float32())
    pa.parquet.write_table(pa.table(rows), folder / "log.parquet")

    with pytest.raises(UserError, match=r"'stars' .* got nan in row 2"):
        load(folder, interactions=str(folder / "log.parquet"))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (",4,", ",great,", r"column 'stars' of `interactions` .* got 'great' in row 1 of"),
        (",1.5,", ",inf,", r"column 'stars' .* got 'inf' in row 3"),
        (",1.5,", ",nan,", r"column 'stars' .* got 'nan' in row 3"),
        (",1.5,", ",1e39,", r"column 'stars' .* must be a finite number .* got '1e39' in row 3"),
        (",1.5,", ",5.5,", r"column 'stars' .* must be from 1 to 5, .* got '5\.5' in row 3"),
        (",1.5,", ",0,", r"column 'stars' .* got '0' in row 3 .*`rating_scale`"),
        ("1700000001", "", r"column 'when' .* got an empty cell in row 2"),
        ("1700000001", "noon", r"column 'when' .* got 'noon' in row 2"),
        ("1700000001", "1e300", r"column 'when' .* got '1e300' in row 2"),
        ("anna,a", ",a", r"column 'who' .* got an empty cell in row 2"),
        ("anna,a", "bob,a", r"column 'who' .* `users` has; got 'bob' in row 2 of .*log\.csv"),
        ("007,b", "007,z", r"column 'what' .* `items` has; got 'z' in row 1 .*Add it to"),
        ("who,", "user,", r"`interactions` must have the column 'who' that `user_key`"),
        ("stars,", "score,", r"must have the column 'stars' that `rating` names; .* has who,"),
        ("what,stars", "who,stars", r"two of its columns have one name"),
        (",x\n", "\n", r"`interactions` must be a CSV .* cannot be read"),
    ],
)
def test_what_is_wrong_in_the_interactions_is_named(folder, old, new, named):
    (folder / "log.csv").write_text(LOG.replace(old, new, 1))

    with pytest.raises(UserError, match=named):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("c,Un", "a,Un", r"column 'what' of `items` .* 'a' is in rows 1 and 3"),
        ("b,1984", ",1984", r"column 'what' of `items` .* an empty cell in row 2"),
        ("what,", "id,", r"`items` must have the column 'what' that `item_key`"),
        ("name", "label", r"`title` must name a column of the items; got 'name'"),
        ("tags", "topics", r"`bag_columns` must name columns .* got 'tags'"),
    ],
)
def test_what_is_wrong_in_the_items_is_named(folder, old, new, named):
    (folder / "items.csv").write_text(ITEMS.replace(old, new, 1))

    with pytest.raises(UserError, match=named):
        load(folder)


def test_files_that_are_not_tables_are_named(folder):
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("who,what,stars,when\n")
    (folder / "latin.csv").write_bytes(LOG.replace("anna", "Zoë").encode("latin-1"))
    (folder / "text.parquet").write_text(LOG)

    for name, reason in {
        "none.csv": "nothing is at",
        "empty.csv": "cannot be read",
        "header.csv": "must have interactions",
        "latin.csv": "UTF-8",
        "text.parquet": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=reason):
            load(folder, interactions=str(folder / name))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (pa.array([b"\xff", b"a"]), r"cannot be read \(Invalid UTF8"),
        (
            pa.array([{"a": 1}, {"a": 2}]),
            r"column 'who' of .* must hold text, numbers .* it holds struct<a: int64>",
        ),
        (pa.array([["a"], ["b"]]), r"column .who. .*, which `user_key` names, must hold one"),
    ],
)
def test_a_column_that_holds_no_ids_is_named(folder, values, named):
    rows = {"who": values, "what": ["a", "b"], "stars": [1.0, 2.0], "when": [1, 2]}
    pyarrow.parquet.write_table(pa.table(rows), folder / "log.parquet")
    with pytest.raises(UserError, match=named):
        load(folder, interactions=str(folder / "log.parquet"), users=None)


def test_text_that_its_writer_left_unmarked_is_text(folder):
    rows = {"who": [b"007", b"anna"], "what": ["a", "b"], "stars": [1.0, 2.0], "when": [1, 2]}
    pyarrow.parquet.write_table(pa.table(rows), folder / "log.parquet")
    data = load(folder, interactions=str(folder / "log.parquet"))
    assert data.interactions["user"].tolist() == [1, 2]  # Anna is the first user


def test_users_and_items_are_two_columns(folder):
    with pytest.raises(UserError, match=r"`user_key` and `item_key` must name two columns"):
        load(folder, user_key="what", users=None)


@pytest.mark.parametrize("scale", [[5, 1], [3, 3], [1, 3, 5]])
def test_a_scale_that_is_none_is_refused(folder, scale):
    with pytest.raises(UserError, match=r"`rating_scale` must be the lowest and the highest"):
        load(folder, rating_scale=scale)


def test_ratings_that_are_all_alike_need_a_scale(folder):
    (folder / "log.csv").write_text("who,what,stars,when\n007,a,1,5\nanna,a,1,6\n")

    with pytest.raises(UserError, match=r"`rating_scale` must be given .* every one is 1\."):
        load(folder, rating_scale=None)


def test_further_labels_are_columns_of_the_interactions(folder):
    (folder / "log.csv").write_text("who,what,stars,when,clicked\n007,b,4,1,1\nanna,a,,2,\n")
    data = load(folder, labels=["clicked"])

    assert data.labels == ["rating", "clicked"]
    np.testing.assert_array_equal(data.interactions["clicked"], np.float32([np.nan, 1]))


def test_items_that_were_shown_and_not_taken_are_rows_of_the_items(folder):
    (folder / "log.csv").write_text("who,what,stars,when,passed\n007,b,4,1,c\nanna,a,,2, \n")
    data = load(folder, negative="passed")

    assert data.interactions["negative"].tolist() == [0, 3]  # Anna is the first user
    assert data.labels == ["rating"]
    # Without a table of items, they are items like those that were taken.
    data = load(folder, negative="passed", items=None, title=None, bag_columns=[])
    assert data.items["what"].tolist() == ["", "b", "a", "c"]
    assert data.interactions["negative"].tolist() == [0, 3]


def test_an_item_that_was_shown_must_be_known_where_items_are_given(folder):
    (folder / "log.csv").write_text("who,what,stars,when,passed\n007,b,4,1,c\nanna,a,,2,z\n")

    with pytest.raises(UserError, match=r"column 'passed' .* `items` has; got 'z' in row 2"):
        load(folder, negative="passed")


def test_a_label_that_is_not_there_or_has_a_name_that_is_taken_is_refused(folder):
    with pytest.raises(UserError, match=r"the column 'clicked' that `labels` names"):
        load(folder, labels=["clicked"])
    with pytest.raises(UserError, match=r"`labels` must not name a column 'user'"):
        load(folder, labels=["user"])


@pytest.mark.parametrize(
    ("form", "cells", "seconds"),
    [
        ("%m/%d/%Y", ["11/1/2000", "1/2/2001", "12/31/2000"], [973036800, 978393600, 978220800]),
        (
            "%d.%m.%y %H:%M",
            ["01.11.00 00:01"] * 2 + ["02.11.00 00:00"],
            [973036860] * 2 + [973123200],
        ),
        ("ms", ["1700000000999", "1700000001000", "5"], [1700000000, 1700000001, 0]),
        ("D", ["0", "1", "11262"], [0, 86400, 973036800]),
    ],
)
def test_times_are_read_as_they_are_written(folder, form, cells, seconds):
    text = LOG
    for old, new in zip(("1700000000", "1700000001", "1700000002"), cells, strict=True):
        text = text.replace(old, new)
    (folder / "log.csv").write_text(text)
    data = load(folder, timestamp_format=form)

    # The second row is anna's, who comes first.
    first, second, third = seconds
    assert data.interactions["timestamp"].tolist() == [second, *sorted((first, third))]


def test_a_time_that_is_written_otherwise_is_named(folder):
    (folder / "log.csv").write_text(LOG.replace("1700000001", "13/13/2000"))
    with pytest.raises(UserError, match=r"'when' .* as `timestamp_format`=%m/%d/%Y says"):
        load(folder, timestamp_format="%m/%d/%Y")
    with pytest.raises(UserError, match=r"got '13/13/2000' in row 2"):
        load(folder, timestamp_format="s")


def test_columns_of_the_log_that_belong_to_users_or_items_go_to_their_tables(folder):
    (folder / "log.csv").write_text(
        "who,what,stars,when,age,kind,shelf\n"
        "007,b,4,1,30,tea|green,5\n"
        "anna,a,,2,,wine,\n"
        "007,a,1.5,3,31,wine,7\n"
        "007,a,1.5,4,31,cider,8\n"
        "anna,a,2,5,40,cider,8\n"
        "anna,a,2,6,40,cider,7\n"
    )
    owned = {"user_columns": ["age"], "item_columns": ["kind", "shelf"], "bag_columns": ["kind"]}
    data = load(folder, items=None, title=None, **owned)

    # anna and 007; what most rows say, an empty cell says nothing.
    np.testing.assert_array_equal(data.users["age"], np.float32([np.nan, 40, 31]))
    assert data.items["kind"].tolist() == [[], ["tea", "green"], ["cider"]]
    # Of two that are as frequent, the one that came first.
    np.testing.assert_array_equal(data.items["shelf"], np.float32([np.nan, 5, 7]))
    # Beside the columns of a file, and nothing of an item that has no row.
    data = load(folder, **{**owned, "bag_columns": ["tags"]})
    assert data.items["kind"].tolist() == ["", "cider", "tea|green", ""]
    with pytest.raises(UserError, match=r"the column 'shoe' that `item_columns` names"):
        load(folder, item_columns=["shoe"])
    (folder / "log.csv").write_text(LOG.replace("ignored", "group"))
    with pytest.raises(UserError, match=r"`user_columns` .* they have 'group' twice"):
        load(folder, user_columns=["group"])


def test_context_and_requests_come_from_the_log_row_by_row(folder):
    (folder / "log.csv").write_text(
        "who,what,stars,when,device,hour,basket\n"
        "007,b,4,7,phone,18,x2\nanna,a,,5,,9.5,x1\n007,a,1.5,8,web,,x2\n007,c,1.5,9,phone,18,x3\n"
    )
    data = load(folder, context=["device", "hour"], request="basket")

    # anna, then 007 by time; row 0 is unknown.
    assert data.requests["device"].tolist() == ["", "", "phone", "web", "phone"]
    np.testing.assert_array_equal(data.requests["hour"], np.float32([np.nan, 9.5, 18, np.nan, 18]))
    first, second, third, fourth = data.interactions["request"].tolist()
    assert second == third != fourth
    assert first not in (second, fourth)
    assert data.labels == ["rating"]
    assert load(folder).requests == {}
    with pytest.raises(UserError, match=r"the column 'shop' that `context` names"):
        load(folder, context=["shop"])


def test_a_byte_order_mark_and_other_delimiters_are_seen_through(folder):
    digest = load(folder).digest
    (folder / "log.csv").write_bytes(b"\xef\xbb\xbf" + LOG.encode())
    (folder / "users.csv").write_text(USERS.replace(",", ";"))
    (folder / "items.csv").write_text(
        'what|name|"tags,a;b,c"|price|weight|postcode\n'
        "a|Amélie, the|comedy; drama|1.5|3|02139\n"
        "b|1984|drama||4|55105\nc|Unseen||2e1||00501\n"
    )
    data = load(folder, bag_columns=["tags,a;b,c"], bag_separator=";")

    assert data.items["tags,a;b,c"].tolist() == [[], ["comedy", "drama"], ["drama"], []]
    assert data.users["group"].tolist() == ["", "f", "m"]
    (folder / "items.csv").write_text(ITEMS)
    assert load(folder).digest == digest


def test_lists_of_fractions_are_vectors_of_items_and_users(folder):
    nan = np.nan

    def written(kind, covers):
        schema = pa.schema([("what", pa.string()), ("cover", kind)])
        rows = pa.table({"what": ["a", "b", "c"], "cover": covers}, schema)
        pa.parquet.write_table(rows, folder / "items.parquet")
        items = str(folder / "items.parquet")
        return load(folder, items=items, title=None, bag_columns=[]).items["cover"]

    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64())):
        found = written(kind, [[0.5, 1.0], None, [2.0, -1.0]])
        np.testing.assert_array_equal(found, [[nan, nan], [0.5, 1], [nan, nan], [2, -1]])
    found = written(pa.list_(pa.float32(), 2), [[0.5, 1.0], [3.0, 0.0], [2.0, -1.0]])
    np.testing.assert_array_equal(found, [[nan, nan], [0.5, 1], [3, 0], [2, -1]])
    with pytest.raises(UserError, match=r"'cover' .* as many numbers .* got \[2.0\] in row 3"):
        written(pa.list_(pa.float64()), [[0.5, 1.0], None, [2.0]])


def test_vectors_in_files_go_to_their_ids(folder):
    np.save(folder / "covers.npy", np.float32([[1, 2], [3, 4], [5, 6]]))
    np.save(folder / "ids.npy", np.array(["c", "elsewhere", "a"]))
    np.save(folder / "faces.npy", np.float64([[0.5]]))
    np.save(folder / "numbers.npy", np.array([7]))
    files = [str(folder / "covers.npy"), str(folder / "ids.npy")]
    nan = np.nan

    data = load(folder, item_vectors={"cover": files})
    np.testing.assert_array_equal(data.items["cover"], [[nan, nan], [5, 6], [nan, nan], [1, 2]])
    np.save(folder / "covers.npy", np.float32([[9, 2], [3, 4], [5, 6]]))
    assert load(folder, item_vectors={"cover": files}).items["cover"][3, 0] == 9
    (folder / "log.csv").write_text(LOG.replace("007", "7"))
    faces = [str(folder / "faces.npy"), str(folder / "numbers.npy")]
    data = load(folder, users=None, user_vectors={"face": faces})
    np.testing.assert_array_equal(data.users["face"], [[nan], [0.5], [nan]])
    (folder / "log.csv").write_text(LOG)
    for wrong, named in (
        (files[:1], "name two files"),
        ([files[0], faces[1]], r"is \[3, 2\] and .* \[1\]"),
        ([files[0], str(folder / "log.csv")], "log.csv cannot be read"),
    ):
        with pytest.raises(UserError, match=rf"^`item_vectors` must .*{named}"):
            load(folder, item_vectors={"cover": wrong})
