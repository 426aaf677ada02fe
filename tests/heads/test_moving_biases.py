"""Biases that move with time, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, pairs_of, with_fields, written
from small_data import all_rows, planted, written_out

from mtrec.errors import UserError
from mtrec.heads.head import Examples
from mtrec.heads.rating import Rating
from mtrec.training.evaluate import Evaluator

DAY = 86_400
START = 900_000_000


def at(*days):
    return [START + round(day * DAY) for day in days]


@pytest.fixture(scope="module")
def data():
    """User 1 rates on the days 0, 2 and 4 and takes an item on day 7, user 2 rates from 1 to 9."""
    times = at(0, 2, 4, 7, 1, 3, 5, 6, 9)
    users = [1, 1, 1, 1, 2, 2, 2, 2, 2]
    items = [1, 2, 3, 4, 1, 2, 3, 4, 5]
    ratings = [2, 5, 4, np.nan, 3, 3, 1, 5, 4]
    return written_out(list(zip(users, items, ratings, times, strict=True)), num_users=3)


def head(data, *, bins=4, fit=None, **changed):
    how = {"label": "rating", "dim": 2, "members": 1, "layers": [], "l2": 0.0} | changed
    made = Rating(**how, moving_biases=bins)
    made.adapt(data, all_rows(data) if fit is None else np.array(fit), name="rating", seed=4)
    return made


def deviation(made, user, *days):
    times = np.array(at(*days))
    return made.moving.deviation(tf.fill(times.shape, user), tf.constant(times)).numpy()


def test_the_deviation_is_a_power_of_the_days_from_a_user_s_mean_time(data):
    made = head(data)

    # Mean day 2; day 7 has no rating, and the user's last rating is on day 4.
    assert deviation(made, 1, 0, 1, 2, 3, 2.5) == pytest.approx(
        [-(2**0.4), -1, 0, 1, 0.5**0.4], rel=1e-6
    )
    assert deviation(made, 2, 4.8) == pytest.approx([0])
    assert deviation(made, 2, 9) == pytest.approx([4.2**0.4])


def test_the_deviation_stays_beyond_the_times_of_a_user_s_rows(data):
    made = head(data)

    assert deviation(made, 1, -3, 7, 5000) == pytest.approx([-(2**0.4), 2**0.4, 2**0.4])
    # Users that are unknown, or have no row.
    assert deviation(made, 0, 0, 5).tolist() == [0, 0]
    assert deviation(made, 3, 0, 5).tolist() == [0, 0]


def test_times_tell_seconds_apart(data):
    near = deviation(head(data), 1, 2 + 1 / DAY)
    assert near == pytest.approx([(1 / DAY) ** 0.4], rel=1e-5)


def test_only_the_rows_to_fit_tell_times(data):
    assert deviation(head(data, fit=[0, 1, 4, 5]), 1, 2, 4) == pytest.approx([1, 1])


def test_bins_have_equally_many_rows_and_no_end(data):
    made = head(data)
    made.moving.of_bin.embeddings.assign(np.arange(6 * 4.0)[:, None])
    items = tf.fill([11], 3)

    # The ratings are of the days 0 1 | 2 3 | 4 5 | 6 9.
    times = tf.constant(at(-99, 0, 1, 2, 3, 4, 5, 6, 8, 9, 99), tf.int64)
    _, found, _ = made.moving(tf.fill([11], 1), items, times)
    assert found[:, 0].numpy().tolist() == [12, 12, 12, 13, 13, 14, 14, 15, 15, 15, 15]


def moved(made):
    """Weights that all differ from 0."""
    rng = np.random.default_rng(0)
    for table in (made.user_bias, made.item_bias, made.moving.drift, made.moving.of_bin):
        table.embeddings.assign(rng.normal(size=table.embeddings.shape))
    return made


def by_hand(made, p, q, user, item, deviation, bin_):
    tables = (made.user_bias, made.item_bias, made.moving.drift, made.moving.of_bin)
    user_bias, item_bias, drift, of_bin = (t.embeddings.numpy()[:, 0] for t in tables)
    staying = made.start.numpy() + user_bias[user] + item_bias[item] + p @ q
    return staying + drift[user] * deviation + of_bin[item * 4 + bin_]


def examples(times):
    """Users 1 and 2 with rows (1, item 5), (2, item 3), (1, item 3) and one of padding."""
    batch = written(
        query_users=[1, 2],
        items=[3, 5],
        rows_query=[0, 1, 0, 0],
        rows_item=[1, 0, 0, 0],
        rows_time=[*times, 0],
        rows_labels={"rating": [5, 1, 4, np.nan]},
        rows_weight=[1, 1, 1, 0],
    )
    return Examples(
        query=tf.constant([[1.0, 2.0], [0.0, 1.0]]),
        item=tf.constant([[0.5, 0.5], [-1.0, 1.0]]),
        pool=tf.zeros((0, 2)),
        batch=as_tensors(batch),
    )


def test_the_loss_is_hand_worked(data):
    made, given = moved(head(data)), examples(at(3, 4.8, 0))
    losses, _ = made.losses(given)

    p, q = given.query.numpy(), given.item.numpy()
    outputs = [
        by_hand(made, p[0], q[1], 1, 5, 1.0, 1),
        by_hand(made, p[1], q[0], 2, 3, 0.0, 2),
        by_hand(made, p[0], q[0], 1, 3, -(2**0.4), 0),
    ]
    expected = np.square(np.array(outputs) - [5, 1, 4])
    np.testing.assert_allclose(losses[:3], expected, rtol=1e-4)


def test_what_moves_is_regularised_as_what_stays(data):
    given = examples(at(3, 4.8, 0))
    plain, _ = moved(head(data)).losses(given)
    made = moved(head(data, l2=0.1))
    losses, _ = made.losses(given)
    without = replace(given, batch=with_fields(given.batch, rows_time=np.zeros(4)))
    staying = made.losses(without)[0] - moved(head(data)).losses(without)[0]

    drift, of_bin = (t.embeddings.numpy()[:, 0] for t in (made.moving.drift, made.moving.of_bin))
    squares = np.array([drift[[1, 2, 1]], of_bin[[5 * 4 + 1, 3 * 4 + 2, 3 * 4]]]) ** 2
    np.testing.assert_allclose(
        (losses - plain)[:3], staying[:3] + 0.1 * squares.sum(axis=0), rtol=1e-4
    )


def test_a_row_without_a_time_has_the_biases_that_stay(data):
    made = moved(head(data))
    given = examples([0, 0, 0])
    losses, _ = made.losses(given)

    user_bias, item_bias = (t.embeddings.numpy()[:, 0] for t in (made.user_bias, made.item_bias))
    staying = made.start.numpy() + user_bias[1] + item_bias[5] + (-1.0 + 2.0)
    assert losses.numpy()[0] == pytest.approx((staying - 5) ** 2, rel=1e-5)


def test_a_step_touches_the_rows_of_its_batch_alone(data):
    made = moved(head(data, l2=0.1))
    tables = [made.moving.drift.embeddings.value, made.moving.of_bin.embeddings.value]
    with tf.GradientTape() as tape:
        losses, mask = made.losses(examples(at(3, 4.8, 0)))
        total = tf.reduce_sum(tf.where(mask > 0, losses * mask, 0.0))
    gradients = tape.gradient(total, tables)

    assert all(isinstance(g, tf.IndexedSlices) for g in gradients)
    of_user, of_bin = (tf.convert_to_tensor(g).numpy()[:, 0] for g in gradients)
    assert np.flatnonzero(of_user).tolist() == [1, 2]
    assert np.flatnonzero(of_bin).tolist() == [3 * 4, 3 * 4 + 2, 5 * 4 + 1]


def test_held_out_rows_are_judged_at_their_own_times():
    data = planted()
    rows = np.random.default_rng(0).permutation(500)
    made = moved(head(data, fit=rows[:400]))
    held_out = Evaluator(data, known=rows[:400], held_out=rows[400:]).held_out
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=(len(held_out.users), 2)), rng.normal(size=(30, 2))
    measured = made.measure(held_out, np.float32(p), np.float32(q), full=False)["output"]

    columns = data.interactions
    fit = rows[:400][np.isfinite(columns["rating"][rows[:400]])]
    times = np.sort(columns["timestamp"][fit])
    edges = times[np.ceil((len(times) - 1) * np.arange(1, 4) / 4).astype(int)]
    expected = []
    for owner, user in enumerate(held_out.users):
        mine = columns["timestamp"][fit[columns["user"][fit] == user]]
        for row in rows[400:][columns["user"][rows[400:]] == user]:
            if np.isnan(columns["rating"][row]):
                continue
            item, time = columns["item"][row], columns["timestamp"][row]
            days = (np.clip(time, mine.min(), mine.max()) - mine.mean()) / DAY if len(mine) else 0
            away = np.sign(days) * np.abs(days) ** 0.4
            bin_ = np.sum(edges <= time)
            expected.append(by_hand(made, p[owner], q[item - 1], user, item, away, bin_))
    assert len(expected) > 50
    np.testing.assert_allclose(measured, expected, atol=5e-3)


def test_people_are_told_what_holds_at_the_end_of_training(data):
    made = moved(head(data))
    made.start.assign(3.0)
    for table in (made.user_bias, made.item_bias, made.moving.drift, made.moving.of_bin):
        table.embeddings.assign(table.embeddings.numpy() / 10)
    p, q = np.float32([[0.1, 0.2], [0.3, 0.1]]), np.float32([[0.2, 0.1], [0.4, 0.3]])
    found = made.score_pairs(p, q, pairs_of([1, 0], [5, 2]), name="r")["r"]

    # User 1's own end is day 4; the unknown user does not move, items are in the last bin.
    expected = [
        by_hand(made, p[0], q[0], 1, 5, 2**0.4, 3),
        by_hand(made, p[1], q[1], 0, 2, 0.0, 3),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_head_whose_biases_stay_has_no_weight_for_what_moves(data):
    made = Rating(label="rating", dim=2, members=1, layers=[], l2=0.0)
    made.adapt(data, all_rows(data), name="rating", seed=4)

    assert [w.path.split("/")[-2:] for w in made.weights] == [
        ["rating", "rating_start"],
        ["rating_user_bias", "embeddings"],
        ["rating_item_bias", "embeddings"],
    ]


def test_too_few_bins_and_times_that_do_not_differ_are_refused(data):
    with pytest.raises(UserError, match=r"must be at least 2 bins, or null; got 1\."):
        head(data, bins=1)
    same = written_out([(1, 1, 2, 7), (2, 2, 5, 7), (1, 2, np.nan, 9), (2, 1, 4, 0)])
    with pytest.raises(UserError, match=r"`heads.rating.moving_biases` needs times that differ"):
        head(same)
