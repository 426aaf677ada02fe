"""What MLflow's own server makes of the questions to a run's model, without a socket."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from serving_requests import asked
from small_data import all_rows, planted
from small_index import exact_index
from small_model import implicit_squared, rating, shared_bottom

from mtrec.data.columns import held
from mtrec.data.inputs import QueryInputs
from mtrec.data.split import Split
from mtrec.model.features import Bucketized, Categorical, Hashed, History, Numeric, Text
from mtrec.model.pooling import Sqrtn
from mtrec.model.recommender import Recommender
from mtrec.model.timestamp import Timestamp
from mtrec.model.tower import Tower
from mtrec.model.vectors import Vectors
from mtrec.serving import export
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.tracking import mlflow_run

FEATURES = {
    "gender": Categorical(column="gender"),
    "zip": Hashed(column="zip", bins=50),
    "age": Bucketized(column="age", bins=4),
    "about": Text(column="about", max_words=3, min_count=1),
    "income": Numeric(column="income"),
    "since": Timestamp(column="since"),
    "tags": Categorical(column="tags"),
    "cover": Vectors(column="cover"),
}
# Of requests, which any user may send.
CONTEXT = {
    "store": Categorical(column="context.store"),
    "hour": Bucketized(column="context.hour_of_day", bins=4),
}
TOLD = {
    "gender": "F",
    "zip": "z3",
    "age": 31.0,
    "about": "Likes old FILMS, much",
    "income": 2.5,
    "since": 86_400.0 * 9.3,
    "tags": ["b", "new", "c"],
    "cover": [0.5, -1.25, 0.1],
}


def columns(rows):
    """Columns of users, one of every kind of feature, row 0 blank."""
    rng = np.random.default_rng(0)
    return {
        "gender": np.array(["", *rng.choice(["F", "M"], rows)]),
        "zip": np.array(["", *(f"z{i % 7}" for i in range(rows))]),
        "age": np.array([np.nan, *rng.integers(10, 60, rows)]),
        "about": np.array(["", *rng.choice(["likes films", "old songs", "much"], rows)]),
        "income": np.array([np.nan, *rng.normal(size=rows)]),
        "since": np.array([0.0, *rng.uniform(1e5, 1e6, rows)]),
        "tags": np.array([["", ""], *rng.choice(["a", "b", "c"], (rows, 2))]),
        "cover": np.concatenate([np.full((1, 3), np.nan), rng.normal(size=(rows, 3))]),
    }


def random_run(directory):
    """A run whose weights are all random, with features of every kind."""
    stores = np.random.default_rng(2).choice(["north", "south"], 500)
    dataset = replace(planted(), requests={"store": np.array(["", *stores])})
    given = columns(dataset.num_users)
    dataset.users.update({name: held(column) for name, column in given.items()})
    own = {"item_id": Categorical(column="item_id")}
    how = {"sharing": shared_bottom(), "dim": 8, "stddev": 0.3}
    history = History(candidate="item_id", pooling=Sqrtn())
    model = Recommender(
        query=Tower(features={"shared": {"history": history, **FEATURES, **CONTEXT}}, **how),
        candidate=Tower(features={"shared": own}, **how),
        heads={"retrieval": implicit_squared(), "rating": rating()},
    ).adapt(dataset, all_rows(dataset), seed=1)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    none = np.zeros(0, np.int64)
    parts = Split(fit=all_rows(dataset), validation=none, test=none)
    return Run(directory=directory, dataset=dataset, parts=parts, model=model)


class Saver:
    """Stands in for a tracker and saves the model as the tracker would."""

    def log_file(self, path, artifact_dir):
        pass

    def log_model(self, record):
        from mlflow import pyfunc

        self.path = record["artifacts"]["model"] + "-logged"
        pyfunc.save_model(
            self.path,
            python_model=record["code"],
            artifacts=record["artifacts"],
            signature=mlflow_run._signature(record),
            pip_requirements=[],
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A run, its index, its logged model, and MLflow's server of that."""
    directory = tmp_path_factory.mktemp("served")
    run = random_run(directory)
    index = exact_index(run)
    export.save(run, index)
    saver = Saver()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        from mlflow import pyfunc
        from mlflow.pyfunc import scoring_server

        export.log(run, index, saver)
        model = pyfunc.load_model(saver.path)
        patched.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        yield run, index, model, scoring_server.init(model)


def of_records(app, *records, **params):
    return asked(app, {"dataframe_records": list(records), "params": params})


def test_the_signature_has_a_typed_column_for_each_column_of_users(served):
    inputs = served[2].metadata.signature.inputs
    assert not any(column.required for column in inputs)
    assert {column.name: str(column.type) for column in inputs} == {
        "user_id": "DataType.string",
        "history": "Array(string)",
        "item_id": "DataType.string",
        "gender": "DataType.string",
        "zip": "DataType.string",
        "age": "DataType.double",
        "about": "DataType.string",
        "income": "DataType.double",
        "since": "DataType.double",
        "tags": "Array(string)",
        "cover": "Array(double)",
        "context.store": "DataType.string",
        "context.hour_of_day": "DataType.double",
    }


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (["7", "3", "12"], TOLD),
        (["7"], {}),
        ([], TOLD),
        *(([], {name: value}) for name, value in TOLD.items()),
    ],
)
def test_a_new_user_is_answered_from_history_and_features(served, history, told):
    run, index, _, app = served
    status, answer = of_records(app, {"history": history, **told}, k=5)
    expected = recommend(run, index, "nobody", k=5, history=history, features=told)
    assert status == 200, answer
    rows = answer["predictions"]
    assert [row["item_id"] for row in rows] == [item.item_id for item in expected]
    np.testing.assert_allclose([r["score"] for r in rows], [i.score for i in expected], rtol=1e-4)
    np.testing.assert_allclose([r["rating"] for r in rows], [i.rating for i in expected], rtol=1e-4)
    assert not any(row["known"] for row in rows)


def test_known_and_new_users_are_answered_in_the_order_they_are_asked_in(served):
    run, index, _, app = served
    rows = [
        {"user_id": "new", "history": ["7"]},
        {"user_id": "4", "history": None},
        {"user_id": None, "history": ["9", "2"]},
    ]
    status, answer = of_records(app, *rows, k=3)
    assert status == 200, answer
    found = [row["item_id"] for row in answer["predictions"]]
    expected = [
        recommend(run, index, "new", k=3, history=["7"]),
        recommend(run, index, "4", k=3),
        recommend(run, index, "new", k=3, history=["9", "2"]),
    ]
    assert found == [item.item_id for items in expected for item in items]
    assert [row["known"] for row in answer["predictions"]] == [*[False] * 3, *[True] * 3] + (
        [False] * 3
    )


def test_pairs_are_scored_for_known_and_for_new_users(served):
    run, index, _, app = served
    told = {"history": ["7", "3"], "gender": "M"}
    expected = recommend(run, index, "new", k=2, history=["7", "3"], features={"gender": "M"})
    known = run.model.candidates(tf.constant([5]))
    rows = [
        {"user_id": "4", "item_id": "5"},
        *({"item_id": item.item_id, **told} for item in expected),
    ]
    full = [{"user_id": None, "history": None, "gender": None, **row} for row in rows]
    status, answer = of_records(app, *full)
    assert status == 200, answer
    first, *others = answer["predictions"]
    query = run.model.queries(QueryInputs.of(np.array([4]), run.known))
    score = float(np.sum(query["retrieval"] * known["retrieval"]))
    assert first["score"] == pytest.approx(score, rel=1e-4)
    assert first["known"] is True
    for row, item in zip(others, expected, strict=True):
        assert row["item_id"] == item.item_id
        assert row["score"] == pytest.approx(item.score, rel=1e-4)
        assert row["rating"] == pytest.approx(item.rating, rel=1e-4)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"inputs": {"user_id": ["42"]}}, r"user_id must be one string a row; got \['42'\]"),
        ({"dataframe_records": [{"user_id": None}]}, "a row must hold a user_id, or what is known"),
        ({"dataframe_records": [{"user_id": ["4"]}]}, r"user_id must be one string a row"),
        ({"dataframe_records": [{"user_id": True}]}, "user_id must be one string a row; got True"),
        ({"dataframe_records": [{"user_id": 4.5}]}, "user_id must be one string a row; got 4.5"),
        ({"dataframe_records": [{"history": "7"}]}, "history"),
        ({"dataframe_records": [{"history": ["7", "none"]}]}, "catalogue; got none, which"),
        ({"dataframe_records": [{"history": ["7", None]}]}, "history must"),
        ({"dataframe_records": [{"age": "old"}]}, "age"),
        ({"dataframe_records": [{"user_id": "4", "usr": "4"}]}, r"alone; got \['usr'\]"),
        ({"dataframe_records": [{"user_id": "4", "age": 3.0}]}, "age must be left out .*'4'"),
        (
            {
                "dataframe_split": {
                    "columns": ["user_id", "item_id"],
                    "data": [["4", "5"], ["4", None]],
                }
            },
            "item_id must be in every row",
        ),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"k": 0}}, "k must lie between 1"),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"k": 31}}, "k must lie between 1"),
        ({"dataframe_records": [{"history": []}], "params": {"k": 31}}, "k must lie between 1"),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"k": 2**40}}, "k must be at least"),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"k": "a"}}, "k"),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"k": None}}, "k must be at least 1"),
        ({"dataframe_records": [{"user_id": "4"}], "params": {"n": 3}}, r"alone; got \['n'\]"),
    ],
)
def test_a_question_that_does_not_fit_is_refused_with_a_sentence(served, body, sentence):
    import re

    status, answer = asked(served[3], body)
    assert status == 400, answer
    assert re.search(sentence, answer["message"]), answer["message"]


def test_whole_numbers_are_ids_as_well(served):
    app = served[3]
    assert of_records(app, {"user_id": 4}, k=3) == of_records(app, {"user_id": "4"}, k=3)


def test_the_file_of_new_users_holds_plain_values(served):
    file = Path(served[0].directory, "model", export.NEW_USERS)
    sent = [*TOLD, *(feature.column for feature in CONTEXT.values())]
    assert list(json.loads(file.read_text())["columns"]) == sent


def test_any_user_says_when_and_where_they_ask_by_name(served):
    run, index, _, app = served
    context = {"store": "north", "hour_of_day": 18}
    sent = {f"context.{name}": value for name, value in context.items()}
    rows = [
        {"user_id": "4", **sent},
        {"user_id": "4"},
        {"history": ["7", "3"], "context.store": "south"},
        {"user_id": "4", "context.store": "a new one"},
    ]
    none = {"user_id": None, "history": None, **dict.fromkeys(sent)}
    status, answer = of_records(app, *({**none, **row} for row in rows), k=3)
    assert status == 200, answer
    expected = [
        recommend(run, index, "4", k=3, context=context),
        recommend(run, index, "4", k=3),
        recommend(run, index, "new", k=3, history=["7", "3"], context={"store": "south"}),
        recommend(run, index, "4", k=3),
    ]
    scores = [item.score for items in expected for item in items]
    found = [row["score"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, scores, rtol=1e-4)
    assert abs(scores[0] - scores[3]) > 1e-3
    pairs = [{"user_id": "4", "item_id": expected[0][0].item_id, **more} for more in (sent, {})]
    told = of_records(app, *({**dict.fromkeys(sent), **pair} for pair in pairs))[1]["predictions"]
    assert told[0]["score"] == pytest.approx(scores[0], rel=1e-4)
    assert told[1]["score"] != pytest.approx(scores[0], rel=1e-3)
