"""What a user did with items before is told alike by all ways to ask, and as of when they ask."""

import runpy
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from small_data import written_out
from small_index import exact_index
from small_model import implicit_squared, rating, recommender, repeat

from mtrec.data.before import Before
from mtrec.data.histories import Histories
from mtrec.data.inputs import PairInputs, QueryInputs
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.model.encode import embed_items, embed_queries
from mtrec.model.own_items import OwnItems
from mtrec.serving import export
from mtrec.serving.answers.candidates import Best
from mtrec.serving.answers.fuse import Formula
from mtrec.serving.answers.pipeline import PLAIN
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.training.evaluate import Evaluator

ITEMS, DAY = 12, 86_400
FUSED = replace(
    PLAIN,
    candidates={"best": Best(count=10)},
    fuse=Formula(formula="retrieval + 5 * repeat + 0.3 * rating"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose weights are all random, on purchases some of which are of one moment."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 8, 300), np.minimum(rng.geometric(0.3, 300), ITEMS)
    rows = zip(users, items, rng.integers(1, 6, 300), rng.integers(1, 40, 300) * DAY, strict=True)
    data = written_out(sorted(rows, key=lambda row: row[3]), num_items=ITEMS)
    data = replace(data, repeats=True, by_request=True)
    parts = Split(fit=np.arange(200), validation=np.arange(200, 250), test=np.arange(250, 300))
    heads = {
        "retrieval": implicit_squared(),
        "rating": rating(features={"own": OwnItems(units=4)}),
        "repeat": repeat(),
    }
    model = recommender(data, heads, fit=parts.fit)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    directory = tmp_path_factory.mktemp("own")
    return Run(directory=directory, dataset=data, parts=parts, model=model, answer=FUSED)


@pytest.fixture(scope="module")
def index(run):
    return exact_index(run)


def told_by_the_log(run, user, time):
    """What the heads say of a user and every item, with numbers that are read of the log."""
    known = run.known
    inputs = QueryInputs.of(np.array([user]), known)
    query = embed_queries(run.model, lambda part: inputs, 1)
    candidate = embed_items(run.model, ITEMS)
    items = np.arange(1, ITEMS + 1, dtype=np.int32)
    fit = Before(Histories.of(run.dataset, run.parts.fit), ITEMS).gaps_of_items()
    before = Before(known, ITEMS).of(np.full(ITEMS, user), items, np.full(ITEMS, time))
    before[:, 5:] = fit[items]  # gaps of items are those of training
    pairs = PairInputs(inputs, np.zeros(ITEMS, np.int32), items, before=tf.constant(before))
    told = {}
    for name in ("rating", "repeat"):
        head = run.model.heads[name]
        p = np.tile(query[name], (ITEMS, 1))
        told |= head.score_pairs(p, candidate[name], pairs, name=name)
    told["retrieval"] = candidate["retrieval"] @ query["retrieval"][0]
    return {name: np.asarray(values) for name, values in told.items()}


@pytest.mark.parametrize("later", [0, 3 * DAY])
def test_all_ways_to_ask_tell_what_the_log_says_as_of_the_moment(run, index, later):
    user, time = 3, run.now + later
    told = told_by_the_log(run, user, time)
    assert 0 < np.count_nonzero(told["repeat"]) < ITEMS
    scores = told["retrieval"] + 5 * told["repeat"] + 0.3 * told["rating"]
    best = np.argsort(-told["retrieval"], kind="stable")[:10]
    expected = best[np.argsort(-scores[best], kind="stable")][:6] + 1
    context = {"time": time} if later else {}
    found = recommend(run, index, f"u{user}", k=6, context=context)
    assert [item.item_id for item in found] == [f"i{row}" for row in expected]
    np.testing.assert_allclose([i.score for i in found], scores[expected - 1], rtol=1e-4)

    if not (run.directory / "model").exists():
        export.save(run, index)
    served = tf.saved_model.load(str(run.directory / "model")).signatures
    asked = tf.constant([time if later else 0], tf.int64)
    answer = served["recommend"](user_id=tf.constant(["u3"]), k=tf.constant(6), encoded_0=asked)
    assert answer["item_id"].numpy()[0].tolist() == [f"i{row}".encode() for row in expected]
    np.testing.assert_allclose(answer["score"][0], [i.score for i in found], rtol=0, atol=1e-5)
    pairs = served["score_pairs"](
        user_id=tf.constant(["u3"] * ITEMS),
        item_id=tf.constant(run.item_ids.tolist()),
        encoded_0=tf.repeat(asked, ITEMS),
    )
    for name in ("repeat", "rating"):
        np.testing.assert_allclose(pairs[name], told[name], rtol=1e-4, atol=1e-6)

    code = Path(export.__file__).with_name("mlflow_model.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, of its own types
        model = runpy.run_path(str(code))["RecommenderModel"]()
    manifest = str(run.directory / "index" / "manifest.json")
    artifacts = {"model": str(run.directory / "model"), "index_manifest": manifest}
    model.load_context(SimpleNamespace(artifacts=artifacts))
    question = {"user_id": "u3"} | ({"context.time": float(time)} if later else {})
    table = model.predict(None, pd.DataFrame([question]), {"k": 6})
    assert table["item_id"].tolist() == [f"i{row}" for row in expected]
    np.testing.assert_allclose(table["score"], answer["score"][0], rtol=0, atol=1e-6)


def test_a_new_user_s_history_counts(run, index):
    once, twice = (
        recommend(run, index, "nobody", k=10, history=history)
        for history in (["i1", "i2"], ["i1", "i2", "i1"])
    )
    assert [item.score for item in once] != [item.score for item in twice]


def test_held_out_requests_are_judged_as_they_would_be_answered(run):
    """The output of each held-out row is what is told of it, as of its request, by its history."""
    evaluator = Evaluator(run.dataset, known=run.parts.train, held_out=run.parts.test)
    held_out, head = evaluator.held_out, run.model.heads["rating"]
    found = evaluator.measure(run.model, slice(0, len(held_out.users)))
    candidate = embed_items(run.model, ITEMS)["rating"]
    for row in range(0, len(held_out.item), 7):
        place = held_out.owner[row]
        inputs = held_out.inputs(slice(place, place + 1))
        query = np.asarray(run.model.queries(inputs)["rating"])
        pairs = PairInputs(inputs, np.zeros(1, np.int32), held_out.item[row : row + 1])
        output = head.mean_output(query, candidate[held_out.item[row : row + 1] - 1], pairs)
        np.testing.assert_allclose(found["rating/output"][row], output[0], rtol=1e-4, atol=1e-5)


def test_a_model_that_asks_for_no_time_takes_none(run, index):
    plain = replace(run, model=recommender(run.dataset, {"retrieval": implicit_squared()}))
    plain = replace(plain, answer=PLAIN)
    with pytest.raises(UserError, match=r"'context.time' must be a column that a feature"):
        recommend(plain, index, "u3", k=3, context={"time": 5})


def test_without_a_time_and_with_0_one_asks_as_of_the_latest_known(run, index):
    expected = recommend(run, index, "u3", k=6)
    for nothing in (None, "", 0, "0"):
        assert recommend(run, index, "u3", k=6, context={"time": nothing}) == expected
    assert recommend(run, index, "u3", k=6, context={"time": run.now + 900 * DAY}) != expected


@pytest.mark.parametrize("time", ["2024-06-28", "1e30", 1_717_000_000_000, "nan", [1]])
def test_a_time_that_is_no_number_of_seconds_is_refused(run, index, time):
    with pytest.raises(UserError, match=r"`context\.time` must be seconds since 1970, from the"):
        recommend(run, index, "u3", k=6, context={"time": time})
