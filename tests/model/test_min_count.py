"""Values that few training rows have share one row, which learns from them."""

import numpy as np
import pytest
from small_data import written_out
from small_model import rating, shared_bottom

from mtrec.data.columns import Bags, held
from mtrec.errors import UserError
from mtrec.model.features import Categorical, History
from mtrec.model.pooling import Sqrtn
from mtrec.model.recommender import Recommender
from mtrec.model.tower import Tower


def cut(feature, values, times):
    values = held(values)
    feature.adapt(values)
    feature.cut(feature.encode(values), np.array(times))
    return feature


def test_values_count_by_training_rows_and_those_below_the_count_have_no_row():
    # b is in three rows of the column, but those are in one training row each.
    feature = cut(
        Categorical(column="id", min_count=3), ["", "a", "b", "b", "c", "b"], [0, 5, 1, 1, 2, 1]
    )
    assert feature.vocabulary.values == ["a", "b"]
    assert feature.num_rows == 3
    assert feature.encode(held(["c", "b", "a", "new", ""])).tolist() == [0, 2, 1, 0, 0]


def test_values_of_bags_count_once_for_each_row_that_has_them():
    bags = Bags.of([[], ["x", "y"], ["y"], ["z"]])
    feature = cut(Categorical(column="id", min_count=4), bags, [0, 3, 1, 2])
    assert feature.vocabulary.values == ["y"]


def test_a_count_below_1_is_refused():
    with pytest.raises(UserError, match="`min_count` must be at least 1; got 0"):
        Categorical(column="id", min_count=0)


def test_a_count_above_all_leaves_the_row_of_the_unknown_alone():
    feature = cut(Categorical(column="id", min_count=9), ["", "a"], [0, 5])
    assert feature.num_rows == 1
    assert feature.encode(held(["a"])).tolist() == [0]


def test_items_of_few_training_rows_are_one_to_the_towers():
    rows = [(1 + k % 4, 1, 3, k) for k in range(4)] + [(1, 2, 4, 9), (2, 3, 2, 9), (3, 4, 1, 9)]
    data = written_out(rows, num_items=5)
    item = Categorical(column="item_id", min_count=2)
    query = {"shared": {"history": History(candidate="item_id", pooling=Sqrtn())}}
    model = Recommender(
        query=Tower(features=query, sharing=shared_bottom(layers=()), dim=4, stddev=0.3),
        candidate=Tower(
            features={"shared": {"item_id": item}}, sharing=shared_bottom(), dim=4, stddev=0.3
        ),
        heads={"rating": rating()},
    ).adapt(data, np.arange(6), seed=1)

    # Of the rows to fit, item 1 is in four; items 2 and 3 in one each, 4 and 5 in none.
    assert item.num_rows == 2
    assert model.candidate.encoded["candidate/shared/item_id"].numpy().tolist() == [
        0,
        1,
        0,
        0,
        0,
        0,
    ]
    assert model.candidate.trained_rows["candidate/shared/item_id"].tolist() == [0, 1]
