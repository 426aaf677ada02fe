"""Representations are the sums they should be, and heads do not disturb each other."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import asked
from small_data import planted, written_out
from small_model import implicit_squared, rating, recommender, shared_bottom, softmax

from mtrec.data.columns import held
from mtrec.errors import UserError
from mtrec.model.features import Bucketized, Categorical, History, Numeric
from mtrec.model.labelled_history import LabelledHistory
from mtrec.model.pooling import Mean
from mtrec.model.recommender import Recommender
from mtrec.model.sharing import SharedBottom
from mtrec.model.tower import Tower
from mtrec.training.step import TABLE


def tower(features, **changed):
    how = {"layers": [], "activation": "relu", "initializer": "glorot_uniform"}
    return Tower(features=features, dim=4, stddev=0.5, sharing=SharedBottom(**{**how, **changed}))


def weight_of(model, path):
    (found,) = [w.numpy() for w in model.weights if path in w.path]
    return found


@pytest.fixture(scope="module")
def data():
    ages = np.float32([np.nan, 20, 30, 40])
    genders = np.array(["", "F", "M", "F"])
    rows = [(1, 1, 3, 1), (2, 2, 4, 2), (3, 3, 5, 3), (1, 2, 2, 4), (1, 4, 4, 5), (1, 5, 3, 6)]
    return written_out(rows, num_items=5, age=ages, gender=genders)


def featured(data, heads, **changed):
    """A model whose towers have features of every scope."""
    query = {
        "shared": {
            "history": History(candidate="item_id", pooling=Mean()),
            "gender": Categorical(column="gender"),
        },
        "rating": {"age": Numeric(column="age"), "user_id": Categorical(column="user_id")},
    }
    candidate = {
        "shared": {"item_id": Categorical(column="item_id")},
        "rating": {"item_id": Categorical(column="item_id")},
    }
    model = Recommender(query=tower(query, **changed), candidate=tower(candidate), heads=heads)
    return model.adapt(data, np.arange(6), seed=1)


def test_a_representation_is_the_sum_of_its_features(data):
    model = featured(data, {"retrieval": implicit_squared(), "rating": rating(dim=3)})
    gender = weight_of(model, "query_shared_gender")
    item, own_item = (
        weight_of(model, "candidate_shared_item_id"),
        weight_of(model, "candidate_rating_item_id"),
    )
    age, user = (
        weight_of(model, "numeric"),
        weight_of(model, "query_rating_user_id"),
    )
    found = model.queries(
        asked(tf.constant([3, 1, 0]), tf.constant([2, 4, 5, 1]), tf.constant([0, 0, 1, -1]))
    )

    shared = np.stack([(item[2] + item[4]) / 2 + gender[1], item[5] + gender[1], 0 * item[1]])
    np.testing.assert_allclose(found["retrieval"], shared, rtol=1e-5)
    down = weight_of(model, "query_rating/kernel")
    # Ages 20, 30 and 40 have the mean 30 and the deviation 8.16; user 0 has none.
    ages = np.float32([[10], [-10], [0]]) / np.sqrt(200 / 3)
    expected = shared @ down + ages @ age + user[[3, 1, 0]]
    np.testing.assert_allclose(found["rating"], expected, rtol=1e-4, atol=1e-6)

    found = model.candidates(tf.constant([5, 0]))
    np.testing.assert_allclose(found["retrieval"], item[[5, 0]])
    expected = item[[5, 0]] @ weight_of(model, "candidate_rating/kernel") + own_item[[5, 0]]
    np.testing.assert_allclose(found["rating"], expected, rtol=1e-4, atol=1e-6)
    assert not found["retrieval"][1].numpy().any()


def test_layers_are_linear_in_the_end_and_activated_between(data):
    model = featured(data, {"retrieval": implicit_squared()}, layers=[6, 4])
    shared = (
        weight_of(model, "candidate_shared_item_id")[[4]]
        + weight_of(model, "query_shared_gender")[[2]]
    )
    hidden = np.maximum(shared @ weight_of(model, "query_layer_0/kernel"), 0)
    expected = hidden @ weight_of(model, "query_layer_1/kernel")

    found = model.queries(asked(tf.constant([2]), tf.constant([4]), tf.constant([0])))["retrieval"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (expected < 0).any()


def test_an_identity_layer_passes_the_shared_sum_on(data):
    plain = featured(data, {"retrieval": implicit_squared()})
    layered = featured(data, {"retrieval": implicit_squared()}, layers=[4], initializer="identity")
    of = tf.constant([1, 2]), tf.constant([3]), tf.constant([1])

    one, other = plain.queries(asked(*of))["retrieval"], layered.queries(asked(*of))["retrieval"]
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("layers", [(), (7,)])
def test_a_head_more_or_less_changes_no_other_weight(layers):
    data = planted()
    heads = {
        "retrieval": lambda: implicit_squared(),
        "rating": lambda: rating(layers=layers),
        "other": lambda: softmax(dim=5),
    }
    whole = recommender(data, {name: make() for name, make in heads.items()}, layers=(8, 8))
    all_weights = [w.numpy() for w in whole.weights]
    turned = recommender(data, {name: heads[name]() for name in reversed(heads)}, layers=(8, 8))
    for name in heads:
        alone = recommender(data, {name: heads[name]()}, layers=(8, 8))
        assert 0 < len(alone.weights) <= len(all_weights)
        for model in (alone, turned):
            for weight in model.weights:
                assert any(
                    weight.shape == known.shape and np.array_equal(weight.numpy(), known)
                    for known in all_weights
                ), weight.path


def test_another_seed_gives_other_weights():
    data = planted()
    one, same, other = (
        recommender(data, {"rating": rating(layers=[4])}, seed=seed) for seed in (1, 1, 2)
    )
    for first, second, third in zip(one.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
        if first.name == TABLE and "bias" not in first.path:
            assert (first.numpy()[1:] != third.numpy()[1:]).all()


def test_every_weight_is_tracked_once(data):
    model = featured(data, {"retrieval": softmax(dim=2), "rating": rating(dim=3, layers=[5])})
    shapes = sorted(tuple(w.shape) for w in model.weights)

    expected = [(3, 4), (6, 4), (6, 3), (1, 3), (4, 3)]  # gender, item, own item, age, user
    expected += [(4,)]  # in place of a history without items
    expected += [(4, 2), (2,), (4, 3), (3,)] * 2  # projections of both towers
    expected += [(), (4, 1), (6, 1), (9, 5), (5,), (5, 1), (1,)]  # mean, biases and the MLP
    assert shapes == sorted(expected)
    assert len({id(w) for w in model.weights}) == len(model.weights)
    assert len(model.trainable_variables) == len(model.weights)


def test_the_gradient_of_histories_names_only_the_rows_looked_up(data):
    model = featured(data, {"retrieval": implicit_squared()})
    (items,) = [w.value for w in model.weights if "candidate_shared_item_id" in w.path]
    with tf.GradientTape() as tape:
        of = tf.constant([1]), tf.constant([2, 5, 3]), tf.constant([0, 0, -1])
        found = model.queries(asked(*of))
        total = tf.reduce_sum(found["retrieval"])
    gradient = tape.gradient(total, items)

    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.convert_to_tensor(gradient).numpy()
    np.testing.assert_allclose(dense[:, 0], [0, 0, 0.5, 0, 0, 0.5])


def test_a_row_encoded_from_its_values_equals_the_row_of_the_table(data):
    model = featured(data, {"retrieval": implicit_squared(), "rating": rating(dim=3)})
    history = tf.constant([2, 3]), tf.constant([0, 0])
    replaced = model.query.encode_row({"age": 40, "gender": "F", "user_id": "u3"})
    found = model.queries(asked(tf.constant([0]), *history, replaced=replaced))
    expected = model.queries(asked(tf.constant([3]), *history))

    for name in ("retrieval", "rating"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    replaced = model.query.encode_row({"gender": "M"})
    some = model.queries(asked(tf.constant([0]), *history, replaced=replaced))
    assert (some["retrieval"].numpy() != found["retrieval"].numpy()).any()


def test_a_dropped_value_is_served_as_an_unknown_one(data):
    model = featured(data, {"retrieval": implicit_squared(), "rating": rating(dim=3)})
    table = model.query.features["shared"]["gender"].table.embeddings
    table.assign(table + 1.0)  # row 0 too
    model.query.features["shared"]["gender"].dropout = 0.5
    history = tf.constant([2, 3, 4]), tf.constant([0, 1, 1])
    found = model.queries(asked(tf.constant([3, 3]), *history, draw=tf.constant([0.49, 0.5])))
    unknown = model.query.encode_row({"gender": ""})
    dropped, kept = (
        model.queries(asked(tf.constant([3, 3]), *history, replaced=replaced))
        for replaced in ({path: tf.repeat(rows, 2, 0) for path, rows in unknown.items()}, {})
    )

    for head in ("retrieval", "rating"):
        np.testing.assert_array_equal(found[head][0], dropped[head][0])
        np.testing.assert_array_equal(found[head][1], kept[head][1])
        assert (dropped[head][0].numpy() != kept[head][0].numpy()).any()


def test_a_dropped_history_is_served_as_none(data):
    model = recommender(data, {"retrieval": implicit_squared()}, dropout=0.5, pooling="transformer")
    pooling = model.query.poolings["shared"]["history"]
    pooling.nothing.assign(np.arange(8))
    table = model.query.features["shared"]["user_id"].table.embeddings
    table.assign(np.zeros(table.shape))  # the id is dropped as well
    items, owners = tf.constant([2, 3, 4]), tf.constant([0, 1, 1])
    rows = tf.constant([1, 3])
    found = model.queries(asked(rows, items, owners, draw=tf.constant([0.49, 0.5])))["retrieval"]
    kept = model.queries(asked(rows, items, owners))["retrieval"]
    none = model.queries(asked(rows, items[:0], owners[:0]))["retrieval"]

    np.testing.assert_array_equal(found, [none[0], kept[1]])
    assert (none[0].numpy() != kept[0].numpy()).any()


def test_values_that_no_feature_reads_are_refused(data):
    model = featured(data, {"retrieval": implicit_squared()})
    with pytest.raises(UserError, match=r"'zip' must be a column .*: age, gender, user_id"):
        model.query.encode_row({"zip": "1"})


def test_text_for_a_number_is_refused(data):
    model = featured(data, {"retrieval": implicit_squared(), "rating": rating(dim=3)})
    with pytest.raises(UserError, match=r"A value of 'age' must be numbers; got 'old'"):
        model.query.encode_row({"age": "old"})


def built(data, query, candidate, heads=None, **changed):
    model = Recommender(
        query=tower(query, **changed),
        candidate=tower(candidate),
        heads=heads or {"retrieval": implicit_squared()},
    )
    model.adapt(data, np.arange(6), seed=1)


ITEM = {"shared": {"item_id": Categorical(column="item_id")}}


@pytest.mark.parametrize(
    ("query", "candidate", "named"),
    [
        (
            {"shared": {"zip": Categorical(column="zip")}},
            ITEM,
            r"`features.query.shared.zip` reads the column 'zip', .* has user_id, age, gender",
        ),
        (
            {"shared": {"sex": Bucketized(column="gender", bins=2)}},
            ITEM,
            r"`features.query.shared.sex` must read a column of numbers",
        ),
        ({"rating": {}}, ITEM, r"`features.query.shared` must name at least one feature"),
        (ITEM, {"shared": {}}, r"`features.candidate.shared` must name at least one feature"),
        (
            {"shared": {"past": History(candidate="movie", pooling=Mean())}},
            ITEM,
            r"`features.query.shared.past` must pool a feature .*\(item_id\); got 'movie'",
        ),
        (
            {"rating": {"past": History(candidate="item_id", pooling=Mean())}},
            ITEM,
            r"`features.query.rating.past` is a history, .* under `features.query.shared`",
        ),
        (
            {"shared": {"gender": Categorical(column="gender")}},
            {"shared": {"past": History(candidate="item_id", pooling=Mean())}},
            r"`features.candidate.shared.past` is a history",
        ),
    ],
)
def test_features_that_cannot_be_are_refused_by_name(data, query, candidate, named):
    with pytest.raises(UserError, match=named):
        built(data, query, candidate)


def test_dropout_in_the_candidate_tower_is_refused(data):
    item = {"shared": {"item_id": Categorical(column="item_id", dropout=0.1)}}
    with pytest.raises(UserError, match=r"`features.candidate.shared.item_id.dropout` must be 0"):
        built(data, {"shared": {"gender": Categorical(column="gender")}}, item)


def test_towers_of_different_width_are_refused_unless_the_head_has_its_own(data):
    query = {"shared": {"gender": Categorical(column="gender")}}
    with pytest.raises(
        UserError, match=r"ends in 3, the candidate tower in 4.*heads.retrieval.dim"
    ):
        built(data, query, ITEM, layers=[3])
    built(data, query, ITEM, {"retrieval": implicit_squared(dim=2)}, layers=[3])


def test_a_head_narrower_than_one_is_refused():
    with pytest.raises(UserError, match="`dim` must be at least 1; got 0"):
        rating(dim=0)


def rated(data, *, scope="rating", side="query"):
    """A model with a labelled history."""
    features = {
        "query": {"shared": {"user_id": Categorical(column="user_id")}},
        "candidate": {"shared": {"item_id": Categorical(column="item_id")}},
    }
    features[side].setdefault(scope, {})["rated"] = LabelledHistory(label="rating", prior=0.0)
    heads = {"retrieval": implicit_squared(), "rating": rating(dim=3)}
    query, candidate = (tower(features[name]) for name in ("query", "candidate"))
    return Recommender(query=query, candidate=candidate, heads=heads).adapt(
        data, np.arange(4), seed=1
    )


def test_what_users_said_reaches_the_head_it_stands_under_alone(data):
    model = rated(data)
    of = tf.constant([1, 2]), tf.constant([2, 5, 3]), tf.constant([0, 0, 1])
    given = {"rating": tf.constant([5.0, 1.0, np.nan])}
    silent, spoken = model.queries(asked(*of)), model.queries(asked(*of, labels=given))

    assert model.reads == ["rating"]
    np.testing.assert_array_equal(spoken["retrieval"], silent["retrieval"])
    moved = (spoken["rating"] - silent["rating"]).numpy()
    # Item 2 has 4 and 2, item 5 nothing: the mean of all is 3.5.
    y = weight_of(model, "query_rating_rated")
    np.testing.assert_allclose(moved[0], (2 * y[2] - 2.5 * y[5]) / np.sqrt(3), rtol=1e-4)
    assert not moved[1].any()


def test_entries_that_share_an_item_say_the_same_by_their_places(data):
    model = rated(data)
    rows, owners = tf.constant([1, 2]), tf.constant([0, 0, 1])
    labels = {"rating": tf.constant([5.0, 1.0, 3.0])}
    flat = model.queries(asked(rows, tf.constant([2, 4, 2]), owners, labels=labels))
    places = tf.constant([1, 0, 1])
    placed = model.queries(asked(rows, tf.constant([4, 2]), owners, labels=labels, places=places))

    np.testing.assert_allclose(flat["rating"], placed["rating"], rtol=1e-6)


@pytest.mark.parametrize(("side", "scope"), [("query", "shared"), ("candidate", "rating")])
def test_a_labelled_history_stands_under_a_head_of_the_query_tower(data, side, scope):
    with pytest.raises(UserError, match=rf"{side}.{scope}.rated` is a labelled history, which"):
        rated(data, scope=scope, side=side)


def test_a_query_reads_the_context_of_its_request_and_an_unknown_one_is_none(data):
    rows = len(data.interactions["user"])
    stores = np.array(["", *np.random.default_rng(0).choice(["north", "south"], rows - 1), "new"])
    asked_at = replace(data, requests={"store": stores})
    own = {"item_id": Categorical(column="item_id")}
    store, of_head = (Categorical(column="context.store") for _ in range(2))
    how = {"sharing": shared_bottom(), "dim": 8, "stddev": 0.3}
    model = Recommender(
        query=Tower(features={"shared": {"store": store}, "rating": {"store": of_head}}, **how),
        candidate=Tower(features={"shared": own}, **how),
        heads={"retrieval": implicit_squared(), "rating": rating(dim=8)},
    ).adapt(asked_at, np.arange(rows - 1), seed=1)
    nothing = tf.zeros([0], tf.int32), tf.zeros([0], tf.int32)
    requests = np.int32([3, 1, 0, rows])
    found = model.queries(asked(tf.zeros([4], tf.int32), *nothing, requests=requests))

    # The last row trains nothing: a store of it alone is unknown.
    expected = store.table(tf.constant(store.encode(held(stores[[3, 1, 0, 0]]))))
    np.testing.assert_array_equal(found["retrieval"], expected)
    added = found["rating"] - model.query.projections["rating"](expected)
    said = of_head.table(tf.constant(of_head.encode(held(stores[[3, 1, 0, 0]]))))
    np.testing.assert_allclose(added, said, atol=1e-6)
    # What is sent stands for the request.
    sent = model.query.encode_row({"context.store": stores[3]})
    told = model.queries(asked(tf.zeros([1], tf.int32), *nothing, replaced=sent))
    np.testing.assert_array_equal(told["retrieval"][0], found["retrieval"][0])
