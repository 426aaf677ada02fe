"""What was before, worked out by the model of histories, is what training reads of the log."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_data import all_rows, written_out

from mtrec.data.before import Before
from mtrec.data.histories import Histories
from mtrec.data.inputs import HistoryInputs, PairInputs, QueryInputs
from mtrec.errors import UserError
from mtrec.model.own_items import OwnItems

NOW = 10**6


def purchases(**changed):
    """30 rows of 4 users and 5 items, some at one moment."""
    rng = np.random.default_rng(4)
    columns = (rng.integers(1, 5, 90), rng.integers(1, 6, 90), rng.integers(1, 6, 90))
    rows = zip(*columns, rng.integers(1, 25, 90) * 3600, strict=True)
    return replace(written_out(list(rows), num_items=6), **{"repeats": True} | changed)


def feature(data, units=3, dim=4):
    made = OwnItems(units=units)
    made.adapt(data, all_rows(data), named_by="heads.again.features.own")
    made.create(name="again/own", dim=dim, stddev=0.1, seed=1)
    return made


def test_histories_tell_the_same_numbers_as_the_log():
    data = purchases()
    known = Histories.of(data, all_rows(data))
    users = np.array([3, 0, 1, 4])
    query, items = np.repeat(np.arange(4), 7), np.tile(np.arange(7), 4)
    told = QueryInputs.of(users, known, time=np.full(4, NOW))
    found = feature(data)._of_histories(PairInputs(told, query, items))

    expected = Before(known, data.num_items).of(users[query], items, np.full(28, NOW))
    np.testing.assert_array_equal(found, expected)
    assert expected[:, 0].max() > 2


def test_pairs_are_asked_about_at_their_own_times_where_they_have_some():
    data = purchases()
    known = Histories.of(data, all_rows(data))
    told = QueryInputs.of(np.array([1]), known, time=np.array([NOW]))
    query, items = np.zeros(2, int), np.array([2, 3])
    made = feature(data)
    late, later = (
        made._of_histories(PairInputs(told, query, items, time=np.full(2, NOW + more)))
        for more in (0, 500)
    )
    assert (later - late)[:, 1].numpy().tolist() == [500, 500]


def test_of_a_new_user_counts_are_known_and_the_time_is_the_usual_one():
    data = purchases()
    made = feature(data)
    history = HistoryInputs(np.array([2, 5, 2, 3]), np.zeros(4, int))
    told = QueryInputs(np.zeros(1, int), history, time=np.array([NOW]))
    found = made._of_histories(PairInputs(told, np.zeros(3, int), np.array([2, 5, 4])))

    usual = float(made.usual.value)
    assert found[:, :5].numpy().tolist() == [
        [2, usual, 0, 1, 4],
        [1, usual, 0, 2, 4],
        [0, 0, 0, 0, 4],
    ]


def test_the_feature_is_a_hidden_layer_over_logarithms_and_zero_of_what_is_not_had():
    data = purchases()
    made = feature(data)
    numbers = np.array([[3, 50.0, 400.0, 4, 12, 900.0, 5], [0, 0, 0, 0, 12, 900.0, 5]], np.float32)
    told = PairInputs(None, np.zeros(2, int), np.ones(2, int), before=tf.constant(numbers))
    found = made.call(told).numpy()

    usual = float(made.usual.value)
    of_item = (900 + usual) / 6
    of_pair = (400 + of_item) / 3
    inputs = [np.log(4), np.log(4 / 13), np.log(5)]
    inputs += [np.log(50 / gap + 0.01) for gap in (usual, of_item, of_pair)]
    inputs += [np.log(of_item / usual)]
    hidden, out = (layer.get_weights() for layer in made.layers)
    expected = np.maximum(inputs @ hidden[0] + hidden[1], 0) @ out[0] + out[1]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert (found[1] == 0).all()


def test_data_without_repeats_is_refused():
    with pytest.raises(UserError, match=r"`heads.again.features.own` counts .* `repeats`=true"):
        feature(purchases(repeats=False))
