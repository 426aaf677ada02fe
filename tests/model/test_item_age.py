"""The age of items: by a column or their first rows, as of rows and of the moment of a question."""

from dataclasses import replace

import numpy as np
import pytest
from small_batch import asked
from small_data import all_rows, written_out
from small_index import exact_index
from small_model import implicit_squared, rating, recommender

from mtrec.data.inputs import PairInputs
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.model.item_age import ItemAge
from mtrec.serving.answers.candidates import Best
from mtrec.serving.answers.fuse import Formula
from mtrec.serving.answers.pipeline import PLAIN
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run

DAY = 86_400
# Items 1, 2 and 3 are first taken on days 10, 12 and 15; item 4 never.
ROWS = [(1, 1, 3, 10), (1, 2, 4, 12), (2, 1, 2, 14), (2, 3, 5, 15), (1, 3, 1, 17)]
DATA = written_out([(u, i, r, day * DAY) for u, i, r, day in ROWS], num_items=4)


def with_dates():
    dates = np.array([np.nan, 8 * DAY, np.nan, 16 * DAY, 3 * DAY])
    return replace(DATA, items={**DATA.items, "released": dates})


def feature(data, column):
    made = ItemAge(column=column, units=3)
    made.adapt(data, all_rows(data), named_by="heads.rating.features.age")
    made.create(name="rating/features/age", dim=2, stddev=0.1, seed=1)
    return made


@pytest.mark.parametrize(
    ("column", "born"),
    [(None, [None, 10, 12, 15, None]), ("released", [None, 8, None, 16, 3])],
)
def test_ages_are_days_since_the_date_or_the_first_row(column, born):
    data = with_dates()
    made = feature(data, column)
    items, days = np.array([1, 2, 3, 4, 3]), np.array([20.0, 12, 16.5, 30, 14])
    queries = asked(np.int32([0]), np.int32([]), np.int32([]))
    found = made(PairInputs(queries, np.zeros(5, int), items, time=days * DAY))

    ages = [np.log1p(max(day - born[item], 0)) for _, item, _, day in ROWS if born[item]]
    hidden, out = (layer.get_weights() for layer in made.layers)
    for row, (item, day) in enumerate(zip(items, days, strict=True)):
        if born[item] is None:
            assert (found[row].numpy() == 0).all()
            continue
        age = np.log1p(max(day - born[item], 0))
        x = np.array([(age - np.mean(ages)) / np.std(ages)])
        expected = np.maximum(x @ hidden[0] + hidden[1], 0) @ out[0] + out[1]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_an_answer_is_as_of_the_moment_of_the_question(tmp_path):
    heads = {"retrieval": implicit_squared(), "rating": rating(features={"age": feature_of()})}
    model = recommender(DATA, heads)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    model.heads["rating"].start.assign(3.0)
    answer = replace(PLAIN, candidates={"best": Best(count=2)}, fuse=Formula(formula="rating"))
    parts = Split(fit=all_rows(DATA), validation=np.arange(0), test=np.arange(0))
    run = Run(directory=tmp_path, dataset=DATA, parts=parts, model=model, answer=answer)
    index = exact_index(run)
    context = ({}, {"time": 17 * DAY}, {"time": 400 * DAY})
    now, same, later = (recommend(run, index, "u2", k=2, context=each) for each in context)
    assert now == same != later


def feature_of():
    return ItemAge(column=None, units=3)


def test_data_without_dates_is_refused():
    with pytest.raises(UserError, match=r"`heads.rating.features.age.column` must name a column"):
        feature(DATA, "released")
    timeless = written_out([(u, i, r, 0) for u, i, r, _ in ROWS])
    with pytest.raises(UserError, match=r"`heads.rating.features.age` needs times"):
        feature(timeless, None)
