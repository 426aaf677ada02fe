"""Whether users take items again: the loss and what is told, against NumPy and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, asked, written
from small_data import all_rows, written_out

from mtrec.data.inputs import PairInputs
from mtrec.errors import UserError
from mtrec.heads.head import Examples
from mtrec.heads.repeat import Repeat
from mtrec.training.evaluate import Evaluator

ROWS = [
    # user 1 takes item 1 three times, item 2 twice at one moment, item 3 once
    *((1, 1, 3, time) for time in (10, 20, 30)),
    *((1, 2, 3, 20), (1, 2, 3, 20), (1, 3, 3, 30)),
    # user 2 takes nothing again
    *((2, 1, 3, 10), (2, 3, 3, 30)),
]


def data(**changed):
    return replace(written_out(ROWS), **{"repeats": True} | changed)


def head(dataset=None, fit=None):
    made = Repeat(dim=2, members=1, layers=[], l2=0.0)
    dataset = dataset or data()
    made.adapt(dataset, all_rows(dataset) if fit is None else fit, name="again", seed=1)
    return made


def test_it_starts_from_the_share_of_own_items_that_are_taken_at_a_moment():
    # Moments of user 1 at 20 and 30 have 1 and 2 own items, of which 1 and 1 are taken; that of
    # user 2 at 30 has one, which is not.
    share = (2 + 1) / (4 + 2)
    made = head()
    assert made.train_share == pytest.approx(share)
    assert float(made.start) == pytest.approx(np.log(share / (1 - share)))


def test_the_loss_is_the_cross_entropy_of_pairs_and_its_gradient_flows():
    made = head()
    made.start.assign(0.2)
    rng = np.random.default_rng(0)
    query, item = rng.normal(size=(2, 2)), rng.normal(size=(3, 2))
    batch = written(query_users=[1, 2], items=[1, 2, 3])._replace(
        again=as_again(query=[0, 0, 1, -1], item=[0, 2, 1, 0], taken=[1, 0, 0, 0])
    )
    p, q = tf.Variable(query, dtype=tf.float32), tf.Variable(item, dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses, weight = made.losses(Examples(p, q, q, as_tensors(batch)))
        total = tf.reduce_sum(losses * weight)
    x = 0.2 + np.array([query[0] @ item[0], query[0] @ item[2], query[1] @ item[1]])
    label = np.array([1.0, 0.0, 0.0])
    expected = np.logaddexp(0, x) - label * x
    np.testing.assert_allclose(losses[:3], expected, rtol=1e-5)
    assert weight.numpy().tolist() == [1, 1, 1, 0]
    error = 1 / (1 + np.exp(-x)) - label
    of_queries = [error[0] * item[0] + error[1] * item[2], error[2] * item[1]]
    np.testing.assert_allclose(
        tf.convert_to_tensor(tape.gradient(total, p)), of_queries, rtol=1e-4, atol=1e-6
    )


def as_again(*, query, item, taken):
    from mtrec.data.inputs import Again

    count = len(query)
    numbers = np.ones((count, 7), np.float32)
    return Again(
        np.int32(query), np.int32(item), np.zeros(count, np.int64), numbers, np.float32(taken)
    )


@pytest.mark.parametrize("by_request", [False, True])
def test_it_is_judged_by_own_items_strictly_before_and_what_is_taken_then(by_request):
    dataset = data(by_request=by_request)
    rows = all_rows(dataset)
    times = dataset.interactions["timestamp"]
    held_out = Evaluator(dataset, known=rows[times < 30], held_out=rows[times >= 30]).held_out
    owner, item, label, time, _ = head(dataset, rows[times < 30]).judged(held_out)

    pairs = zip(held_out.users[owner].tolist(), item.tolist(), label.tolist(), strict=True)
    assert sorted(pairs) == [(1, 1, 1.0), (1, 2, 0.0), (2, 1, 0.0)]
    assert set(time.tolist()) == {30}


def test_an_item_that_the_user_does_not_have_is_told_a_probability_of_0():
    made = head()
    made.start.assign(np.log(3.0))
    queries = asked([1, 2], np.int32([1, 3, 1]), np.int32([0, 0, 1]))
    pairs = PairInputs(queries, np.int32([0, 0, 1, 1]), np.int32([3, 2, 1, 3]))
    zeros = tf.zeros((4, 2))
    told = made.score_pairs(zeros, zeros, pairs, name="again")
    np.testing.assert_allclose(told["again"], [0.75, 0, 0.75, 0])


@pytest.mark.parametrize(
    ("changed", "fit", "received"),
    [({"repeats": False}, None, "got false"), ({}, [0, 3, 6], "no user does so")],
)
def test_data_in_which_nobody_takes_again_is_refused(changed, fit, received):
    with pytest.raises(UserError, match=rf"`heads.again` learns what users take again.*{received}"):
        head(data(**changed), None if fit is None else np.array(fit))
