"""Tasks with their own rows: positives by a label, weights, and shares of the rows."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, batches_of, with_fields
from small_data import all_rows, planted
from small_model import implicit_squared, rating, recommender

from mtrec.data.negatives import Catalogue
from mtrec.errors import UserError
from mtrec.heads.binary import Binary
from mtrec.heads.head import Examples
from mtrec.heads.rating import Rating
from mtrec.heads.retrieval import with_taken
from mtrec.training.balance import Fixed
from mtrec.training.evaluate import Evaluator
from mtrec.training.optimizers import LazyAdam
from mtrec.training.packed import pack
from mtrec.training.step import Optimizers, Step


def batches(data, **changed):
    how = {
        "batch_of": "users",
        "global_batch": 16,
        "history_share": 0.6,
        "chronological": False,
        "negatives": Catalogue(most_items=1000),
        "num_replicas": 1,
        "seed": 3,
    }
    return batches_of(data, all_rows(data), **(how | changed))


def losses_of(heads, source, step=0):
    """The mean loss of each head over a batch, its weights at their start."""
    data = planted()
    model = recommender(data, heads)
    balancer = Fixed()
    weights = dict.fromkeys(heads, 1.0)
    balancer.adapt(weights, steps_per_epoch=source.steps_per_epoch, seed=0)
    optimizers = Optimizers(
        tables=LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        dense=keras.optimizers.Adam(0.01),
    )
    taken = Step(model, balancer, optimizers, tf.distribute.get_strategy())
    return taken({0: pack(source.step(1, step))}).losses[0]


def seen_by(heads):
    """A batch, and what each of the heads sees of it in a fresh model."""
    data = with_taken(planted(), heads)
    (batch,) = batches(data).step(1, 0)
    model = recommender(data, heads)
    query = model.queries(batch.query)
    item, pool = model.candidates(batch.items), model.candidates(batch.pool.items)
    return batch, {
        name: Examples(query=query[name], item=item[name], pool=pool[name], batch=as_tensors(batch))
        for name in heads
    }


@pytest.mark.parametrize(
    ("changed", "weigh"),
    [
        ({"label": "rating", "at_least": 4.0}, lambda stars: stars >= 4),
        ({"weight_by": "rating"}, np.nan_to_num),
    ],
)
def test_rows_count_by_their_label_and_all_pairs_of_a_query_count_once(changed, weigh):
    heads = {"some": implicit_squared(**changed), "all": implicit_squared()}
    batch, given = seen_by(heads)
    losses, weight = heads["some"].losses(given["some"])
    whole, _ = heads["all"].losses(given["all"])

    expected_weight = batch.rows.weight * weigh(batch.rows.labels["rating"])
    assert weight.numpy().tolist() == expected_weight.tolist()
    owner = batch.rows.query
    p = tf.gather(given["all"].query, owner)
    q = tf.gather(given["all"].item, batch.rows.item)
    squared = (1 - tf.reduce_sum(p * q, axis=1).numpy()) ** 2
    # What the rows of a query share is divided among those that count, so that none is lost.
    rows, total = (np.bincount(owner, w, 16)[owner] for w in (batch.rows.weight, expected_weight))
    counts = expected_weight > 0
    all_pairs = (whole.numpy() - squared) * rows
    if "label" in changed:
        # A pair without the label is neither positive nor negative.
        silent = np.isnan(batch.rows.labels["rating"]) & (batch.rows.kind > 0)
        score = tf.reduce_sum(p * q, axis=1).numpy()
        all_pairs -= 0.15 * np.bincount(owner, silent * score**2, 16)[owner]
    expected = squared[counts] + all_pairs[counts] / total[counts]
    assert 0 < counts.sum() < batch.rows.weight.sum()
    np.testing.assert_allclose(losses[counts], expected, rtol=1e-4)


def test_held_out_rows_below_the_label_do_not_test_retrieval():
    heads = {"liked": implicit_squared(label="rating", at_least=4.0), "all": implicit_squared()}
    data = with_taken(planted(), heads)
    rows = all_rows(data)
    evaluator = Evaluator(data, known=rows[:300], held_out=rows[300:])
    model = recommender(data, heads)
    reports = evaluator(model, full=True)

    held_out = evaluator.held_out
    liked = held_out.new & (held_out.labels["rating"] >= 4)
    judged = [np.flatnonzero(reports[name].per_user.count).tolist() for name in heads]
    assert judged[0] == sorted(set(held_out.owner[liked]))
    assert judged[1] == sorted(set(held_out.owner[held_out.new]))


def test_weights_below_zero_are_refused():
    data = planted()
    columns = dict(data.interactions) | {"score": np.full(500, -1.0, np.float32)}
    with pytest.raises(UserError, match=r"`heads.a.weight_by` must name a column of .* -1"):
        recommender(replace(data, interactions=columns), {"a": implicit_squared(weight_by="score")})


def test_a_share_of_the_rows_is_the_rows_with_the_lowest_draws():
    data = planted()
    source = batches(data)
    (batch,) = source.step(1, 0)
    head = rating()
    head.sampling_rate = 0.4
    sampled = losses_of({"rating": head}, source)[0]

    known = np.isfinite(batch.rows.labels["rating"]) & (batch.rows.draw < 0.4)
    assert 0.25 < np.mean(batch.rows.draw[batch.rows.weight > 0] < 0.4) < 0.55
    kept = np.where(known, batch.rows.labels["rating"], np.nan)
    kept = with_fields(batch, rows_labels={"rating": kept})

    class Kept:
        steps_per_epoch = source.steps_per_epoch

        def step(self, epoch, step):
            return [kept]

    assert sampled == losses_of({"rating": rating()}, Kept())[0]


def test_draws_are_even_and_new_in_each_step():
    data = planted()
    source = batches(data, batch_of="rows", global_batch=100)
    draws = [source.step(epoch, 0)[0].rows.draw[:100] for epoch in range(1, 41)]

    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)
    assert len(np.unique(draws)) > 3900


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(rate):
    with pytest.raises(UserError, match=r"`sampling_rate` must be above 0 and at most 1"):
        Rating(label="rating", dim=2, members=1, layers=[], l2=0.0, sampling_rate=rate)


@pytest.mark.parametrize("head", [rating(), implicit_squared(label="rating")])
def test_a_head_without_a_label_to_learn_from_is_refused(head):
    data = planted()
    rated = np.isfinite(data.interactions["rating"])
    where = np.flatnonzero(~rated)  # rated rows elsewhere are no help

    with pytest.raises(UserError, match=r"`heads\.mine` .*; none of the \d+ rows to fit"):
        head.adapt(data, where, name="mine", seed=1)


def test_positives_that_no_row_reaches_are_refused():
    head = implicit_squared(label="rating", at_least=6.0)
    with pytest.raises(UserError, match=r"their highest rating is 5; got 6"):
        head.adapt(planted(), all_rows(planted()), name="mine", seed=1)


@pytest.mark.parametrize("at_least", [0.5, 6.0])
def test_a_binary_label_of_one_kind_is_refused(at_least):
    head = Binary(label="rating", at_least=at_least, dim=2, members=1, layers=[], l2=0.0)
    with pytest.raises(UserError, match=r"must part its labels; .* lie from 1 to 5"):
        head.adapt(planted(), all_rows(planted()), name="mine", seed=1)
