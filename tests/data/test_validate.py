"""Each fault in a dataset is named by column, row and remedy."""

from dataclasses import replace

import numpy as np
import pytest

from mtrec.data.dataset import Dataset
from mtrec.data.validate import check
from mtrec.errors import UserError

GOOD = Dataset(
    name="made_up",
    users={"user_id": np.array(["", "u", "v"]), "age": np.float32([np.nan, 20, np.nan])},
    items={"item_id": np.array(["", "a", "b", "c"])},
    interactions={
        "user": np.int32([1, 2, 2]),
        "item": np.int32([3, 1, 2]),
        "rating": np.float32([1, np.nan, 5]),
        "timestamp": np.int64([0, 0, 0]),
    },
    user_key="user_id",
    item_key="item_id",
    title="item_id",
    rating_scale=(1.0, 5.0),
    source="made up",
    digest="",
)


def test_sound_data_with_a_row_that_carries_no_rating_passes():
    check(GOOD)


@pytest.mark.parametrize(
    ("table", "column", "values", "named"),
    [
        ("users", "user_id", np.array(["", "u", "u"]), r"'user_id' of `users` .*rows 1 and 2"),
        ("users", "user_id", np.array(["", "u", ""]), r"'user_id' of `users` .*row 2 is empty"),
        (
            "users",
            "user_id",
            np.array(["", "u", "v\nw"]),
            r"without a line break; got 'v\\nw' in row 2",
        ),
        ("users", "age", np.float32([np.nan, np.inf, 1]), r"'age' of `users` .*inf in row 1"),
        ("items", "item_id", np.array(["", "a", "b", "a"]), r"'a' is in rows 1 and 3"),
        ("interactions", "rating", np.float32([1, 5.5, 2]), r"from 1 to 5; got 5\.5 in row 2"),
        ("interactions", "rating", np.float32([1, 2, -np.inf]), r"got -inf in row 3"),
        ("interactions", "user", np.int32([1, 0, 2]), r"from 1 to 2; got 0 in row 2"),
        ("interactions", "item", np.int32([1, 2, 4]), r"from 1 to 3; got 4 in row 3"),
        ("interactions", "user", np.int32([]), r"must have interactions"),
        ("interactions", "user", np.int32([2, 2, 2]), r"of two users at least; all 3 are of the"),
        ("interactions", "item", np.int32([1, 1, 1]), r"of two items at least; .*`item_key`"),
        (
            "interactions",
            "timestamp",
            np.int64([0, 1_700_000_000, 1_700_000_000_000]),
            r"from the year 1900 to 2100; got 1700000000000 in row 3\. .* they are milliseconds",
        ),
        (
            "interactions",
            "timestamp",
            np.int64([0, 94_670_856_000_000_000, 0]),  # the year 3000000000
            r"got 94670856000000000 in row 2\. Divide them, if they are nanoseconds",
        ),
        (
            "interactions",
            "timestamp",
            np.int64([0, 0, -(10**10)]),
            r"got -10000000000 in row 3",
        ),
    ],
)
def test_a_fault_is_named(table, column, values, named):
    faulty = replace(GOOD, **{table: {**getattr(GOOD, table), column: values}})

    with pytest.raises(UserError, match=named):
        check(faulty)
