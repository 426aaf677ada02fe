"""Each kind of feature by hand, missing and unknown values included."""

import zlib

import numpy as np
import pytest
import tensorflow as tf

from mtrec.data.columns import Ragged, held
from mtrec.data.vocabulary import Vocabulary, as_text
from mtrec.distributed.weights import seed_for
from mtrec.errors import UserError
from mtrec.model.bags import gather, on_device
from mtrec.model.features import (
    Bucketized,
    Categorical,
    Hashed,
    Numeric,
    Text,
)
from mtrec.model.timestamp import Timestamp
from mtrec.model.vectors import Vectors


def adapted(feature, values, dim=3):
    feature.adapt(held(values))
    feature.create(name="side/scope/name", dim=dim, stddev=0.5, seed=1)
    return feature


def looked_up(feature, values, rows=None):
    """What the feature is called with for some rows of a column, or all."""
    rows = np.arange(len(values)) if rows is None else rows
    return gather(on_device(feature.encode(held(values))), tf.constant(rows), times=None)


def embedded(feature, values):
    return feature(looked_up(feature, values)).numpy()


def table(feature):
    return feature.table.embeddings.numpy()


def test_text_of_numbers_has_no_fraction_and_a_missing_number_is_empty():
    found = as_text(np.float32([5, 0.1, np.nan, -2, 16_777_216]))

    assert found.tolist() == ["5", "0.1", "", "-2", "16777216"]
    assert as_text(np.array(["a", ""])).tolist() == ["a", ""]
    assert as_text(np.array([3, 4])).tolist() == ["3", "4"]


def test_a_vocabulary_numbers_values_as_they_first_appear():
    vocabulary = Vocabulary(np.array(["", "z", "a", "z", "m"]))

    assert len(vocabulary) == 4
    rows = vocabulary.rows(np.array(["a", "z", "new", ""]))
    assert rows.tolist() == [2, 1, 0, 0]
    assert rows.dtype == np.int32
    # Of bags, those of each entry.
    assert vocabulary.rows([["m", "new"], [], ["a", "", "z"]]).tolist() == [3, 0, 2, 1]


def test_an_empty_vocabulary_knows_nothing():
    vocabulary = Vocabulary(np.array(["", ""]))

    assert len(vocabulary) == 1
    assert vocabulary.rows(np.array(["a", ""])).tolist() == [0, 0]


def test_a_categorical_looks_up_its_value_and_takes_zeros_for_an_unknown_one():
    feature = adapted(Categorical(column="gender"), ["", "F", "M", "F"])
    rows = table(feature)

    assert rows.shape == (3, 3)
    assert not rows[0].any()
    np.testing.assert_array_equal(embedded(feature, ["M", "F", "", "other"]), rows[[2, 1, 0, 0]])
    assert rows[1:].any(axis=1).all()


def test_a_categorical_of_numbers_takes_nan_for_missing():
    feature = adapted(Categorical(column="code"), np.float32([np.nan, 7, 3, np.nan]))

    assert len(table(feature)) == 3
    assert feature.encode(np.float32([3, np.nan, 8])).tolist() == [2, 0, 0]
    assert feature.encode(np.array(["7"])).tolist() == [1]


def test_a_bag_is_the_mean_of_its_known_values():
    feature = adapted(Categorical(column="genres"), [["", ""], ["war", "love"], ["love", ""]])
    war, love = table(feature)[1:]
    found = embedded(feature, [["war", "love"], ["love", ""], ["", ""], ["new", "war"]])

    np.testing.assert_allclose(found, [(war + love) / 2, love, 0 * war, war], rtol=1e-6)


def test_a_bag_without_values_has_a_gradient_of_zeros():
    feature = adapted(Categorical(column="genres"), [[], ["war", "love"]])
    rows = looked_up(feature, [[], ["war", "other"]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(feature(rows))
    gradient = tf.convert_to_tensor(tape.gradient(total, feature.table.embeddings.value))

    np.testing.assert_array_equal(gradient, [[0, 0, 0], [1, 1, 1], [0, 0, 0]])


def test_a_row_of_many_values_costs_their_number_and_no_more():
    rng = np.random.default_rng(0)
    tags = [[f"t{tag}" for tag in rng.choice(900, 500 if row == 7 else 2)] for row in range(2000)]
    encoded = Categorical(column="tags")
    encoded.adapt(held(tags))
    found = on_device(encoded.encode(held(tags)))

    assert found.values.shape == (500 + 1999 * 2,)
    some = gather(found, tf.constant([3, 7, 3]), times=None)
    assert some.owners.numpy().tolist() == [0] * 2 + [1] * 500 + [2] * 2
    assert found.most.numpy()[[0, 1, 2, 2000]].tolist() == [0, 500, 502, 4498]
    assert gather(found, tf.constant([], tf.int32), times=None).values.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "times", "looked_up"),
    [
        ([3, 4], 1, 5),
        ([1, 2], 1, 5),  # as many as the two longest rows have
        ([3, 3, 4], 2, 10),  # each of the two longest twice
        ([3, 3, 4, 4], 2, 10),
        ([3, 3, 3], None, 9),
        ([], 2, 0),
        ([], None, 0),
    ],
)
def test_replicas_look_up_as_many_values_as_any_rows_can_have(rows, times, looked_up):
    offsets, values = np.array([0, 0, 1, 1, 4, 6]), np.array([1, 1, 2, 3, 4, 5])
    column = on_device(Ragged(offsets, values))

    class OfTwo:
        num_replicas_in_sync = 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_replica_context", OfTwo)
        found = gather(column, tf.constant(rows, tf.int32), times=times)
    assert len(found.values) == looked_up
    known = found.values.numpy()[found.values.numpy() > 0]
    expected = [values[offsets[row] : offsets[row + 1]] for row in rows]
    assert known.tolist() == np.concatenate([[], *expected]).tolist()


def test_a_hashed_value_is_its_crc_modulo_the_bins():
    feature = adapted(Hashed(column="zip", bins=7), ["", "94110"])
    expected = [zlib.crc32(b"94110") % 7 + 1, zlib.crc32(b"new") % 7 + 1, 0]

    assert feature.encode(np.array(["94110", "new", ""])).tolist() == expected
    assert feature.encode(np.float32([np.nan, 94110])).tolist() == [0, expected[0]]
    assert table(feature).shape == (8, 3)
    assert not embedded(feature, [""]).any()


def test_a_hashed_bag_has_the_hashes_of_its_labels():
    feature = adapted(Hashed(column="tags", bins=5), [[]])
    a, b = (zlib.crc32(label) % 5 + 1 for label in (b"a", b"b"))

    offsets, values = feature.encode(held([["a"], [], ["b", "a"]]))
    assert (offsets.tolist(), values.tolist()) == ([0, 1, 1, 3], [a, b, a])


def test_buckets_lie_between_quantiles():
    # The quartiles of 1..9 are 3, 5 and 7; a value on a boundary belongs above it.
    feature = adapted(Bucketized(column="age", bins=4), [np.nan, *range(1, 10)])

    assert feature.boundaries.tolist() == [3, 5, 7]
    assert table(feature).shape == (5, 3)
    found = feature.encode(np.array([1, 2.9, 3, 5, 6.9, 7, 100, -100, np.nan]))
    assert found.tolist() == [1, 1, 2, 3, 3, 4, 4, 1, 0]
    assert not embedded(feature, [np.nan]).any()


def test_buckets_hold_about_equally_many_rows():
    values = np.random.default_rng(0).exponential(size=1000)
    feature = adapted(Bucketized(column="income", bins=10), values)

    assert np.bincount(feature.encode(values), minlength=11).tolist() == [0, *[100] * 10]


def test_a_column_with_few_values_has_fewer_buckets():
    feature = adapted(Bucketized(column="flag", bins=10), [0, 0, 0, 0, 0, 1])

    assert len(set(feature.encode(np.array([0, 1])).tolist())) == 2
    assert len(table(feature)) == len(feature.boundaries) + 2


def test_a_column_of_missing_values_has_one_bucket():
    feature = adapted(Bucketized(column="age", bins=10), [np.nan, np.nan])

    assert feature.encode(np.array([np.nan, 3])).tolist() == [0, 1]


def test_text_is_the_mean_of_its_known_words():
    titles = ["", "The Red House", "the house, the dog", "Red!"]
    feature = adapted(Text(column="title", max_words=3, min_count=2), titles)
    # "the", "house" and "red" are in two titles; "dog" is in one.
    house, red, the = table(feature)[1:]

    assert np.diff(feature.encode(["Red dog the house", "", "DOG"]).offsets).tolist() == [3, 0, 1]
    found = embedded(feature, ["Red dog the house", "", "DOG"])
    np.testing.assert_allclose(found, [(red + the) / 2, 0 * the, 0 * the], rtol=1e-6)
    np.testing.assert_allclose(embedded(feature, ["house"]), [house], rtol=1e-6)


def test_text_without_frequent_words_is_zeros():
    feature = adapted(Text(column="title", max_words=2, min_count=5), ["", "a b"])

    assert not embedded(feature, ["a b"]).any()


def test_a_number_is_standardised_and_zero_where_missing():
    feature = adapted(Numeric(column="age"), [np.nan, 10, 30])
    kernel = feature.kernel.numpy()

    assert feature.encode(np.array([10, 30, 40, np.nan])).ravel().tolist() == [-1, 1, 2, 0]
    expected = np.float32([[-1], [2], [0]]) @ kernel
    np.testing.assert_allclose(embedded(feature, [10, 40, np.nan]), expected, rtol=1e-6)
    assert kernel.any()


def test_a_constant_or_missing_number_is_finite():
    assert adapted(Numeric(column="x"), [4, 4]).encode(np.array([4, 5])).ravel().tolist() == [0, 1]
    missing = adapted(Numeric(column="x"), [np.nan, np.nan])
    assert missing.encode(np.array([np.nan])).ravel().tolist() == [0]


def test_a_moment_is_its_place_in_the_span_its_hour_and_its_weekday():
    day = 86_400
    feature = adapted(Timestamp(column="seen"), [np.nan, 7 * day, 21 * day])
    noon = feature.encode(np.array([14.5 * day]))[0]  # half a day after the middle of the span
    start = feature.encode(np.array([7 * day, 21 * day]))

    week = 2 * np.pi * 0.5 / 7
    np.testing.assert_allclose(noon, [1 / 14, 0, -1, np.sin(week), np.cos(week)], atol=1e-5)
    np.testing.assert_allclose(start, [[-1, 0, 1, 0, 1], [1, 0, 1, 0, 1]], atol=1e-5)


def test_a_missing_moment_is_zeros():
    feature = adapted(Timestamp(column="seen"), [0, 5, np.nan, 9])

    assert (feature.first, feature.last) == (5, 9)
    assert not feature.encode(np.array([0, np.nan])).any()
    assert not embedded(feature, [0.0]).any()
    nothing = adapted(Timestamp(column="seen"), [0, 0])
    assert np.isfinite(nothing.encode(np.array([0, 4]))).all()


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (Categorical(column="x", dropout=0.3), [["a", ""], ["b", "a"]]),
        (Hashed(column="x", bins=3, dropout=0.3), ["a", "b"]),
        (Bucketized(column="x", bins=2, dropout=0.3), [1.0, 9.0]),
        (Text(column="x", max_words=2, min_count=1, dropout=0.3), ["a b", "b"]),
        (Numeric(column="x", dropout=0.3), [1.0, 9.0]),
        (Timestamp(column="x", dropout=0.3), [1.0, 9.0]),
    ],
)
def test_a_value_is_dropped_where_the_draw_is_below_the_rate(feature, values):
    encoded = looked_up(adapted(feature, values), values, [1] * 1000)
    draw = np.linspace(0, 1, 1001, dtype=np.float32)[:-1]
    found = feature(feature.dropped(encoded, tf.constant(draw))).numpy()

    known = embedded(feature, values)[1]
    assert known.any()
    assert not found[:300].any()
    np.testing.assert_allclose(found[301:], np.broadcast_to(known, found[301:].shape), rtol=1e-6)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_keeps_nothing_is_refused(dropout):
    with pytest.raises(UserError, match="`dropout` of the feature of 'x' must be at least 0 and"):
        Categorical(column="x", dropout=dropout)


@pytest.mark.parametrize("encoded", [[1, 2, 1], [[1, 2], [2, 0]]])
def test_the_gradient_of_a_table_names_only_the_rows_looked_up(encoded):
    feature = adapted(Categorical(column="x"), [f"v{row}" for row in range(1000)])

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(feature(tf.constant(encoded)))
        return tape.gradient(total, feature.table.embeddings.value)

    found = gradient()
    assert isinstance(found, tf.IndexedSlices)
    assert found.indices.shape[0] == np.size(encoded)


def test_a_table_starts_with_the_deviation_asked_for_and_zeros_in_row_0():
    values = [f"v{row}" for row in range(4000)]
    rows = table(adapted(Categorical(column="x"), values, dim=8))

    assert rows[1:].std() == pytest.approx(0.5, rel=0.03)
    assert rows[1:].mean() == pytest.approx(0.0, abs=0.02)
    assert not rows[0].any()


def test_seeds_differ_by_name_and_by_seed():
    seeds = {seed_for(seed, name) for seed in (1, 2) for name in ("a", "b")}

    assert len(seeds) == 4
    assert seed_for(1, "a") == seed_for(1, "a")


@pytest.mark.parametrize(
    ("feature", "values", "named"),
    [
        (Numeric(column="x"), np.array(["", "a"]), "of numbers, one value a row; 'x' holds text"),
        (
            Numeric(column="x"),
            held(np.array(["", " "])),
            "'x' holds text, and is empty in every row",
        ),
        (Bucketized(column="x", bins=3), np.array([["", "a"]]), r"several values a row \(text\)"),
        (Timestamp(column="x"), np.array(["2020"]), "a column of numbers"),
        (Text(column="x", max_words=2, min_count=1), np.zeros(2), "of text.*'x' holds numbers"),
        (Text(column="x", max_words=2, min_count=1), np.array([["a"]]), "several values a row"),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_by_name(feature, values, named):
    with pytest.raises(UserError, match=rf"^`features.query.shared.y` must read .*{named}"):
        feature.check(values, named_by="features.query.shared.y")


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (Numeric(column="x"), np.float32([1, np.nan])),
        (Timestamp(column="x"), np.array([1, 2])),
        (Text(column="x", max_words=2, min_count=1), np.array(["a"])),
        (Categorical(column="x"), np.array([["a", ""]])),
        (Categorical(column="x"), np.float32([1, 2])),
        (Hashed(column="x", bins=3), np.array(["a"])),
    ],
)
def test_a_column_of_the_right_kind_passes(feature, values):
    feature.check(values, named_by="features.query.shared.y")


def test_vectors_are_centred_and_scaled_alike():
    given = np.float32([[np.nan, np.nan], [3, 0], [5, 0], [4, 3], [4, -3]])
    feature = adapted(Vectors(column="cover"), given)
    encoded = feature.encode(given)
    # Their mean is (4, 0), and the mean of the squared distances from it (1 + 1 + 9 + 9) / 4.
    np.testing.assert_allclose(encoded * np.sqrt(5), [[0, 0], [-1, 0], [1, 0], [0, 3], [0, -3]])
    expected = encoded @ feature.kernel.numpy()
    np.testing.assert_allclose(feature(encoded), expected, rtol=1e-6)
    # As a new user's is sent.
    np.testing.assert_array_equal(feature.encode(held([[5.0, 0.0]])), encoded[2:3])
    with pytest.raises(ValueError, match="must have 2 numbers"):
        feature.encode(held([[5.0]]))
    with pytest.raises(UserError, match=r"`y` must read a column of vectors.*'cover' is none"):
        feature.check(np.zeros(3), named_by="y")


def test_an_embedding_of_its_own_beside_its_vector_tunes_it():
    vectors = adapted(Vectors(column="cover"), np.float32([[np.nan, np.nan], [3, 0], [5, 0]]))
    own = adapted(Categorical(column="id"), np.array(["", "a", "b"]))
    seen, rows = np.float32([[1, 2], [3, 4]]), np.int32([1, 2])
    tuned = seen + np.float32([[0.1, -0.2], [0.3, 0.4]])
    own.table.embeddings.assign(np.pad((tuned - seen) @ vectors.kernel.numpy(), [(1, 0), (0, 0)]))
    np.testing.assert_allclose(vectors(seen) + own(rows), vectors(tuned), rtol=1e-5)
