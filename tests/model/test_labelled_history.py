"""What a user said of the items they chose before, by hand."""

import numpy as np
import pytest
import tensorflow as tf
from small_data import written_out

from mtrec.errors import UserError
from mtrec.model.labelled_history import LabelledHistory

# Item 1 has 2 and 4, item 2 has 5, item 3 nothing; their mean is 11/3.
DATA = written_out([(1, 1, 2, 1), (1, 2, 5, 2), (2, 1, 4, 3), (2, 3, np.nan, 4)], num_items=4)


def history(*, prior=1.0, label="rating", fit=(0, 1, 2, 3)):
    made = LabelledHistory(label=label, prior=prior)
    made.adapt(DATA, np.array(fit), named_by="data.features.query.rating.said")
    made.create(name="query/rating/said", dim=2, stddev=0.1, seed=3)
    return made


def test_the_mean_of_an_item_is_drawn_to_the_mean_of_all():
    mean = 11 / 3
    expected = [mean, (6 + mean) / 3, (5 + mean) / 2, mean, mean]
    np.testing.assert_allclose(history().means.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(history(prior=0).means.numpy(), [mean, 3, 5, mean, mean], rtol=1e-6)


def test_only_rows_to_fit_count():
    np.testing.assert_allclose(history(prior=0, fit=[0]).means.numpy(), 2.0)


def test_the_pooled_vector_is_hand_worked():
    made = history(prior=0)
    y = made.table.embeddings.numpy()
    items, places = tf.constant([1, 2, 3]), tf.constant([0, 1, 2, 1, 0])
    owners = tf.constant([0, 0, 0, 2, -1])
    labels = tf.constant([2.0, 4.0, np.nan, 5.5, 1.0])
    found = made(items, places, owners, labels, tf.constant(3)).numpy()

    # Means are 3 and 5: item 1 lies one below its own, item 2 as well, and then a half above.
    np.testing.assert_allclose(found[0], (-y[1] - y[2]) / np.sqrt(3), rtol=1e-5)
    assert found[1].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(found[2], 0.5 * y[2] / np.sqrt(2), rtol=1e-5)


def test_padding_and_missing_labels_move_nothing():
    made = history()
    with tf.GradientTape() as tape:
        tape.watch(made.table.embeddings.value)
        items, places, owners = (tf.constant(x) for x in ([1, 3], [0, 1], [-1, 0]))
        found = made(items, places, owners, tf.constant([5.0, np.nan]), tf.constant(1))
        total = tf.reduce_sum(found)
    gradient = tf.convert_to_tensor(tape.gradient(total, made.table.embeddings.value))
    assert not gradient.numpy().any()


def test_a_label_that_the_interactions_lack_is_refused():
    with pytest.raises(UserError, match=r"rating.said.label` must be .*\(rating\); got stars"):
        history(label="stars")
    with pytest.raises(UserError, match=r"`prior` must be at least 0"):
        history(prior=-1)
