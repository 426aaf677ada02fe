"""Users and items without training rows are served as unknown ones."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import asked
from small_data import written_out
from small_model import implicit_squared, rating, recommender, shared_bottom, softmax

from mtrec.model.bags import BagRows, EncodedBags
from mtrec.model.features import Bucketized, Categorical, Text
from mtrec.model.labelled_history import LabelledHistory
from mtrec.model.recommender import Recommender
from mtrec.model.tower import Tower

NAN = np.nan
# Items 4 and 5 and users 4 and 5 are in the tables without rows to train on; the last row is held
# out. Item 3 and user 3 have no rating.
DATA = written_out(
    [(1, 1, 5, 1), (1, 2, 3, 2), (2, 1, 1, 3), (3, 3, NAN, 4), (4, 4, 2, 5)],
    num_users=5,
    num_items=5,
)
FIT = np.arange(4)


def made(heads):
    return recommender(DATA, heads, fit=FIT, dropout=0.1)


def encoded(tower, path):
    """The encoded column, a list a row of what has any number of values."""
    column = tower.encoded[path]
    if isinstance(column, EncodedBags):
        return [v.tolist() for v in np.split(column.values.numpy(), column.offsets[1:-1].numpy())]
    return column.numpy().tolist()


def test_ids_without_training_rows_are_unknown_ones():
    model = made({"retrieval": softmax(dim=4)})
    assert encoded(model.candidate, "candidate/shared/item_id") == [0, 1, 2, 3, 0, 0]
    assert encoded(model.query, "query/shared/user_id") == [0, 1, 2, 3, 0, 0]


def test_ids_without_a_label_are_unknown_to_the_head_that_learns_it():
    model = made({"rating": rating()})
    assert encoded(model.candidate, "candidate/shared/item_id") == [0, 1, 2, 3, 0, 0]
    assert encoded(model.candidate, "candidate/rating/item_id") == [0, 1, 2, 0, 0, 0]
    assert encoded(model.query, "query/rating/user_id") == [0, 1, 2, 0, 0, 0]


@pytest.mark.parametrize("head", [softmax, implicit_squared])
def test_all_items_without_training_rows_look_alike_and_start_at_zeros(head):
    model = made({"retrieval": head(dim=None)})
    vectors = model.candidates(tf.range(6))["retrieval"].numpy()
    np.testing.assert_array_equal(vectors[[4, 5]], vectors[[0, 0]])
    np.testing.assert_array_equal(vectors[0], np.zeros(8))
    assert np.abs(vectors[1:4]).min(axis=1).max() > 0


def test_a_user_without_training_rows_is_predicted_as_an_unknown_one():
    model = made({"rating": rating()})
    nothing = tf.constant([], tf.int32)
    query = model.queries(asked(tf.constant([0, 4, 5]), nothing, nothing))["rating"].numpy()
    np.testing.assert_array_equal(query[1:], query[[0, 0]])


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (Categorical(column="x"), ["", "a", "b", "a", "c", "a"], [0, 1, 2, 1, 0, 1]),
        # The boundaries are 1, 2 and 50.
        (Bucketized(column="x", bins=4), [NAN, 1, 2, 1, 100, 50], [0, 2, 3, 2, 0, 0]),
        # The words are film, new and old.
        (
            Text(column="x", max_words=2, min_count=1),
            ["", "old film", "film", "old", "new film", "new"],
            [[], [3, 1], [1], [3], [0, 1], [0]],
        ),
    ],
)
def test_a_value_that_no_training_row_has_is_unknown(feature, values, expected):
    data = replace(DATA, users={**DATA.users, "x": np.array(values)})
    item_id = Categorical(column="item_id")
    how = {"sharing": shared_bottom(), "dim": 8, "stddev": 0.3}
    model = Recommender(
        query=Tower(features={"shared": {"x": feature}}, **how),
        candidate=Tower(features={"shared": {"item_id": item_id}}, **how),
        heads={"retrieval": softmax()},
    ).adapt(data, FIT, seed=1)
    assert encoded(model.query, "query/shared/x") == expected
    for value, row in zip(values, expected, strict=True):
        sent = model.query.encode_row({"x": value})["query/shared/x"]
        found = sent.values if isinstance(sent, BagRows) else sent[0]
        assert found.numpy().tolist() == row


def test_a_labelled_history_says_nothing_of_items_it_did_not_learn():
    said = LabelledHistory(label="rating", prior=5.0)
    said.adapt(DATA, FIT, named_by="")
    said.create(name="said", dim=4, stddev=0.3, seed=1)
    table = said.table.embeddings.numpy()
    np.testing.assert_array_equal(table[[0, 3, 4, 5]], np.zeros((4, 4)))
    assert (np.abs(table[[1, 2]]) > 0).all()
