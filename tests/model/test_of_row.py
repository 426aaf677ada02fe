"""Context of rows: learnt as each row has it, served at a fixed value or as it is sent."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_batch import batches_of
from small_data import all_rows, planted
from small_index import exact_index
from small_model import implicit_squared, rating, recommender
from small_negatives import in_batch

from mtrec.data.columns import Texts
from mtrec.data.inputs import PairInputs, QueryInputs
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.model.features import Categorical, Numeric, Text
from mtrec.model.of_row import OfRow
from mtrec.serving import export
from mtrec.serving.answers.candidates import Best
from mtrec.serving.answers.fuse import Formula
from mtrec.serving.answers.pipeline import PLAIN
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.training.evaluate import Evaluator


def lists():
    """What was shown at five places, at a price that varies within a request."""
    rng = np.random.default_rng(0)
    place = rng.integers(1, 6, 500)
    data = planted()
    requests = {
        "place": Texts.of(["", *map(str, place)]),
        "price": np.array([np.nan, *rng.uniform(1, 9, 500)]),
    }
    return replace(data, requests=requests)


def place(serve_as="1"):
    return OfRow(feature=Categorical(column="context.place"), serve_as=serve_as)


def price():
    return OfRow(feature=Numeric(column="context.price"))


def model_of(data, **features):
    heads = {"retrieval": implicit_squared(), "rating": rating(dim=4, features=features)}
    model = recommender(data, heads, fit=all_rows(data)[:400])
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    return model


def test_training_reads_each_row_and_not_its_request():
    data = lists()
    source = batches_of(
        data, all_rows(data), batch_of="users", global_batch=20, history_share=0.5,
        chronological=False, negatives=in_batch(), num_replicas=1, seed=3,
    )  # fmt: skip
    (batch,) = source.step(1, 0)
    real = batch.rows.weight > 0
    columns = data.interactions
    rows = batch.rows.requests[real] - 1
    assert columns["user"][rows].tolist() == batch.query.users[batch.rows.query[real]].tolist()
    assert columns["item"][rows].tolist() == batch.items[batch.rows.item[real]].tolist()

    made = model_of(data, place=place()).heads["rating"].pair.features["place"]
    items = batch.items[batch.rows.item[real]]
    pairs = PairInputs(batch.query, batch.rows.query[real], items, requests=rows + 1)
    expected = made.feature(made.feature.encode(data.requests["place"])[rows + 1])
    np.testing.assert_allclose(made(pairs), expected)
    assert len(np.unique(expected.numpy(), axis=0)) == 5
    # The same pairs, when no batch is drawn: all at the first place.
    judged = made(pairs._replace(queries=batch.query._replace(draw=None)))
    first = made.feature(made.feature.encode(Texts.of(["1"])))
    np.testing.assert_allclose(judged, np.repeat(first, len(items), axis=0))


def test_a_held_out_row_is_judged_by_its_own_value_or_by_what_is_served():
    data = lists()
    for features, served in (({"price": price()}, False), ({"place": place()}, True)):
        model = model_of(data, **features)
        rows = all_rows(data)
        evaluator = Evaluator(data, known=rows[:400], held_out=rows[400:])
        held_out, head = evaluator.held_out, model.heads["rating"]
        assert held_out.item.tolist() == data.interactions["item"][held_out.row - 1].tolist()
        found = evaluator.measure(model, slice(0, len(held_out.users)))["rating/output"]
        known = np.isfinite(held_out.labels["rating"])
        owner, item = held_out.owner[known], held_out.item[known]
        inputs = QueryInputs.of(held_out.users, held_out.known)
        (feature,) = head.pair.features.values()
        values = feature.served if served else tf.gather(feature.encoded, held_out.row[known])
        told = feature.feature(tf.repeat(values, len(item), 0) if served else values)
        query = tf.gather(model.queries(inputs)["rating"], owner)
        candidate = tf.gather(model.candidates(tf.range(1, 31))["rating"], item - 1)
        biases = head.biases(held_out.users[owner], item, None)[:2]
        expected = tf.reduce_mean(head.output(query, candidate, *biases, told), axis=-1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_served_is_sent_or_fixed_alike_in_all_ways_to_ask(tmp_path):
    data = lists()
    model = model_of(data, place=place(), price=price())
    parts = Split(fit=all_rows(data)[:400], validation=all_rows(data)[400:450], test=np.arange(50))
    answer = replace(
        PLAIN, candidates={"best": Best(count=9)}, fuse=Formula(formula="retrieval + rating")
    )
    run = Run(directory=tmp_path, dataset=data, parts=parts, model=model, answer=answer)
    index = exact_index(run)
    export.save(run, index)
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["recommend"]
    assert sorted(served.structured_input_signature[1]) == ["encoded_0", "k", "user_id"]
    scores = []
    for sent in (None, 2.0, 8.0):
        found = recommend(run, index, "7", k=5, context={} if sent is None else {"price": sent})
        scores.append([item.score for item in found])
        encoded = model.of_rows["rating/features/price"].encode(sent)
        told = served(user_id=tf.constant(["7"]), k=tf.constant(5), encoded_0=encoded)
        assert told["item_id"].numpy()[0].tolist() == [i.item_id.encode() for i in found]
        np.testing.assert_allclose(told["score"][0], scores[-1], rtol=0, atol=1e-5)
    assert len(set(map(tuple, scores))) == 3
    with pytest.raises(UserError, match=r"'context.place' must be a column that a feature"):
        recommend(run, index, "7", k=5, context={"place": "3"})


@pytest.mark.parametrize(
    ("feature", "sentence"),
    [
        (OfRow(feature=Numeric(column="user_gender")), "must read a column of the context"),
        (OfRow(feature=Numeric(column="context.place")), "must read a column of numbers"),
        (place(serve_as="77"), "serve_as` must be a value that a row to fit has; got 77"),
        (
            OfRow(feature=Text(column="context.place", max_words=3, min_count=1)),
            "must make one value of a row; got a Text",
        ),
    ],
)
def test_a_column_that_cannot_be_read_so_is_refused(feature, sentence):
    with pytest.raises(UserError, match=f"`heads.rating.features.place.*{sentence}"):
        model_of(lists(), place=feature)
