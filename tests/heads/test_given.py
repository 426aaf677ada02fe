"""Heads that are conditioned on others: values and gradients by hand, and as they are served."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import as_tensors, pairs_of, written
from small_data import all_rows, planted
from small_model import implicit_squared, recommender

from mtrec.data.inputs import QueryInputs
from mtrec.errors import UserError
from mtrec.heads.binary import Binary
from mtrec.heads.given import Product, Transfer
from mtrec.heads.head import Examples
from mtrec.heads.rating import Rating
from mtrec.training.evaluate import Evaluator

HOW = {"dim": 2, "layers": [], "l2": 0.0}


def shop():
    """Impressions, of which a third is clicked and of those a half bought; some say nothing."""
    data = planted(num_users=20, num_items=40, num_interactions=300)
    rng = np.random.default_rng(1)
    click = (rng.random(300) < 0.3).astype(np.float32)
    buy = click * (rng.random(300) < 0.5)
    buy[:20] = np.nan
    return replace(data, interactions={**data.interactions, "click": click, "buy": np.float32(buy)})


def model_of(given, *, data=None, **heads):
    data = data or shop()
    click = Binary(label="click", at_least=1, members=1, **HOW)
    buy = Binary(label="buy", at_least=1, members=2, given=given, **HOW | {"dim": 3})
    return recommender(data, {"buy": buy, "click": click, **heads})


def examples(model, head, p, q, labels):
    batch = written(
        query_users=[1, 2], items=[1, 2], rows_query=[0, 1, 1], rows_item=[0, 0, 1],
        rows_weight=[1, 1, 1], rows_labels=labels,
    )  # fmt: skip
    return Examples(p, q, q, as_tensors(batch))


def vectors(width, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.Variable(rng.normal(size=(2, width)), dtype=tf.float32) for _ in range(2)]


def outputs(p, q, dim, members, start):
    """Outputs of the three rows of `examples` without biases, and `p * q`."""
    rows = p[[0, 1, 1]] * q[[0, 0, 1]]
    return start + rows.reshape(3, members, dim).sum(axis=2), rows


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_product_costs_the_cross_entropy_of_both_probabilities_over_all_rows():
    model = model_of(Product(head="click"))
    buy, click = model.heads["buy"], model.heads["click"]
    buy.start.assign(-0.5)
    click.start.assign(0.3)
    p, q = vectors(6 + 2)  # two members of width 3, then the click's vectors
    labels = {"click": [1, 0, 1], "buy": [1, 0, np.nan]}
    with tf.GradientTape() as tape:
        losses, weight = buy.losses(examples(model, buy, p, q, labels))
        total = tf.reduce_sum(losses * weight)
    gradient = tape.gradient(total, [buy.start.value, click.start.value])

    b, _ = outputs(p.numpy()[:, :6], q.numpy()[:, :6], 3, 2, -0.5)
    a, _ = outputs(p.numpy()[:, 6:], q.numpy()[:, 6:], 2, 1, 0.3)
    both = sigmoid(a) * sigmoid(b)  # [3, 2]
    expected = [-np.log(both[0]).mean(), -np.log(1 - both[1]).mean()]
    np.testing.assert_allclose(losses[:2], expected, rtol=1e-5)
    assert weight.numpy().tolist() == [1, 1, 0]
    # Of a positive row 1 - sigmoid of each factor, of a negative one that times the odds.
    odds = both[1] / (1 - both[1])
    of_b = -(1 - sigmoid(b[0])).mean() + (odds * (1 - sigmoid(b[1]))).mean()
    of_a = -(1 - sigmoid(a[0])).mean() + (odds * (1 - sigmoid(a[1]))).mean()
    np.testing.assert_allclose(gradient, [of_b, of_a], rtol=1e-4)


def test_a_product_of_extreme_odds_stays_finite():
    model = model_of(Product(head="click"))
    model.heads["buy"].start.assign(-80.0)
    model.heads["click"].start.assign(90.0)
    zeros = tf.zeros((1, 8))
    told = model.heads["buy"].told(zeros, zeros, pairs_of([0], [0]))
    np.testing.assert_allclose(told.output, [[-80.0, -80.0]], rtol=1e-6)


def test_what_is_transferred_is_weighed_by_attention_and_calibrated():
    model = model_of(Transfer(head="click", calibration=0.6))
    buy, click = model.heads["buy"], model.heads["click"]
    buy.start.assign(1.5)
    click.start.assign(-1.0)
    p, q = vectors(6 + 2, seed=3)
    labels = {"click": [1, 0, 1], "buy": [1, 0, 0]}
    losses, _ = buy.losses(examples(model, buy, p, q, labels))

    own, hidden = outputs(p.numpy()[:, :6], q.numpy()[:, :6], 3, 2, 1.5)
    first, of_click = outputs(p.numpy()[:, 6:], q.numpy()[:, 6:], 2, 1, -1.0)
    weights = {name: layer.get_weights() for name, layer in buy.given.layers.items()}

    def layer(name, x):
        kernel, bias = weights[name]
        return x @ kernel + bias

    merged = []
    for row in range(3):
        both = [layer("g", of_click[row]), hidden[row]]
        score = np.array([layer("h2", u) @ layer("h3", u) / np.sqrt(6) for u in both])
        share = np.exp(score) / np.exp(score).sum()
        merged.append(sum(w * layer("h1", u) for w, u in zip(share, both, strict=True)))
    x = own + layer("out", np.stack(merged))
    label = np.array([[1.0], [0.0], [0.0]])
    error = (np.logaddexp(0, x) - label * x).mean(axis=1)
    above = sigmoid(x.mean(axis=1)) - sigmoid(first[:, 0])
    assert (above > 0).any()
    np.testing.assert_allclose(losses, error + 0.6 * np.maximum(above, 0), rtol=1e-5)


def test_a_later_step_is_told_what_the_one_before_merged():
    transfer = Transfer(head="click", calibration=0.0)
    last = Rating(label="rating", members=1, given=Transfer(head="buy", calibration=0.0), **HOW)
    model = model_of(transfer, last=last)
    width = 2 + 6 + 2
    p, q = vectors(width)
    told = [
        model.heads[name].told(p[:, -size:], q[:, -size:], pairs_of([1, 2], [1, 2]))
        for name, size in (("buy", 8), ("last", width))
    ]
    merged = last.given.layers["g"](told[0].hidden).numpy()
    other = last.given.layers["g"](p[:, 2:8] * q[:, 2:8]).numpy()
    assert np.abs(merged - other).max() > 1e-3
    both = np.stack([merged, (p[:, :2] * q[:, :2]).numpy()], axis=1)
    value, key, asked = (last.given.layers[n](both).numpy() for n in ("h1", "h2", "h3"))
    score = np.exp((key * asked).sum(axis=-1, keepdims=True) / np.sqrt(2))
    expected = (score / score.sum(axis=1, keepdims=True) * value).sum(axis=1)
    np.testing.assert_allclose(told[1].hidden, expected, rtol=1e-4)


@pytest.mark.parametrize("how", [{}, {"calibration": 0.5}])
def test_all_parts_of_the_model_agree_on_what_is_told(how):
    """The towers bring both heads' vectors; evaluation measures what pairs are served."""
    data = shop()
    given = Transfer(head="click", **how) if how else Product(head="click")
    model = model_of(given, data=data, retrieval=implicit_squared())
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.5))
    evaluator = Evaluator(data, known=all_rows(data)[:200], held_out=all_rows(data)[200:])
    held_out = evaluator.held_out
    (everybody,) = evaluator.shares(1)
    found = evaluator.measure(model, everybody)
    query = model.queries(QueryInputs.of(held_out.users, held_out.known))
    candidate = model.candidates(tf.range(1, data.num_items + 1))
    pairs = pairs_of(held_out.users[held_out.owner], held_out.item)
    told = {}
    for name in ("buy", "click"):
        of_rows = [
            tf.gather(vectors[name], rows)
            for vectors, rows in ((query, held_out.owner), (candidate, held_out.item - 1))
        ]
        told |= model.heads[name].score_pairs(*of_rows, pairs, name=name)
    known = np.isfinite(held_out.labels["buy"])
    np.testing.assert_allclose(sigmoid(found["buy/output"]), told["buy"][known], rtol=1e-4)
    assert query["buy"].shape[1] == 6 + 2
    if not how:
        assert (told["buy"] < told["click"]).numpy().all()


def test_a_space_of_samples_is_the_rows_with_a_label():
    data = shop()
    head = Binary(label="buy", at_least=1, members=1, where="click", **HOW)
    fit = all_rows(data)[:250]
    head.adapt(data, fit, name="buy", seed=1)
    click, buy = (data.interactions[n] for n in ("click", "buy"))
    rows = fit[(click[fit] > 0) & np.isfinite(buy[fit])]
    assert head.learns(data, fit).tolist() == rows.tolist()
    assert head.train_share == pytest.approx((buy[rows].sum() + 1) / (len(rows) + 2))

    p, q = vectors(2)
    labels = {"click": [1, 0, np.nan], "buy": [0, 0, 1]}
    _, weight = head.losses(examples(None, head, p, q, labels))
    assert weight.numpy().tolist() == [1, 0, 0]
    held_out = Evaluator(data, known=fit, held_out=all_rows(data)[250:]).held_out
    assert len(head.judged(held_out).label) == (click[250:] > 0).sum()


@pytest.mark.parametrize(
    ("given", "heads", "sentence"),
    [
        (Product(head="clik"), {}, r"`heads.buy.given.head` must name a head .* got clik, there"),
        (Product(head="buy"), {}, r"`heads.buy.given.head` must name a head .* got buy"),
        (Product(head="retrieval"), {"retrieval": implicit_squared()}, r"got retrieval"),
        (
            Product(head="stars"),
            {"stars": Rating(label="rating", members=1, **HOW)},
            "`given` must join two heads that predict probabilities",
        ),
    ],
)
def test_a_condition_that_cannot_be_is_refused(given, heads, sentence):
    with pytest.raises(UserError, match=sentence):
        model_of(given, **heads)


def test_a_space_without_rows_is_refused():
    data = shop()
    data.interactions["click"][:] = 0
    head = Binary(label="buy", at_least=1, members=1, where="click", **HOW)
    with pytest.raises(UserError, match=r"`heads.buy.where` must leave rows to learn from"):
        head.adapt(data, all_rows(data), name="buy", seed=1)
