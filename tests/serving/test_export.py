import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from small_batch import pairs_of
from small_data import planted
from small_model import implicit_squared, rating, recommender, softmax
from tensorflow.core.protobuf import saved_model_pb2

from mtrec.data.columns import held
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.heads.binary import Binary
from mtrec.heads.ordinal import Ordinal
from mtrec.heads.rating import Rating
from mtrec.model.encode import embed_items, embed_users
from mtrec.serving import export
from mtrec.serving.index import ExactBuilder, ScannBuilder
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.training.evaluate import Evaluator

USERS, ITEMS = 40, 400


def random_run(directory, heads, *, in_time_order=False, **how):
    """A run whose weights are all random, so that each of them shows in the results."""
    dataset = planted(num_users=USERS, num_items=ITEMS, num_interactions=2_000)
    rows = np.arange(2_000) if in_time_order else np.random.default_rng(0).permutation(2_000)
    parts = Split(fit=rows[:1_000], validation=rows[1_000:1_500], test=rows[1_500:])
    model = recommender(dataset, heads, fit=parts.fit, **how)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    return Run(directory=directory, dataset=dataset, parts=parts, model=model)


def built_index(run, kind):
    vectors = np.asarray(
        run.model.heads["retrieval"].embed(embed_items(run.model, ITEMS)["retrieval"])
    )
    tree = ScannBuilder(
        exact_below=100, target_recall=0.9, min_recall=0.8, k=10, num_queries=50, seed=0
    )
    return {"exact": ExactBuilder(), "scann": tree}[kind](
        vectors, ids=run.item_ids, digest=run.tower_digest, queries=None
    )


def truth(run, users, k):
    """Rows of the k best items that each of the user rows does not have, scores and ratings."""
    known = run.known
    query, candidate = embed_users(run.model, users, known), embed_items(run.model, ITEMS)
    embed = run.model.heads["retrieval"].embed
    scores = np.asarray(embed(query["retrieval"])) @ np.asarray(embed(candidate["retrieval"])).T
    for row, user in enumerate(users):
        scores[row, known.of_user(user) - 1] = -np.inf
    items = np.argsort(-scores, axis=1, kind="stable")[:, :k] + 1
    ratings = [
        run.model.heads["rating"].score_pairs(
            np.tile(query["rating"][row], (k, 1)),
            candidate["rating"][items[row] - 1],
            pairs_of(np.full(k, user), items[row]),
            name="stars",
        )["stars"]
        for row, user in enumerate(users)
    ]
    return items, np.take_along_axis(scores, items - 1, axis=1), np.array(ratings)


def ids_of(users):
    return np.asarray(users).astype(str)


FRESH_PROCESS = """
import sys
import numpy as np
import tensorflow as tf

directory, kind = sys.argv[1:]
assert "scann" not in sys.modules
if kind == "scann":
    import scann
given = np.load(directory + "/given.npz")
users, items = (tf.constant(given[name].tolist()) for name in ("users", "items"))
served = tf.saved_model.load(directory + "/moved/model").signatures
outputs = {
    "embed_query": served["embed_query"](user_id=users),
    "score_pairs": served["score_pairs"](user_id=users, item_id=items),
    "recommend": served["recommend"](user_id=users, k=tf.constant(20)),
}
assert "mtrec" not in sys.modules
results = {f"{s}_{name}": v.numpy() for s, o in outputs.items() for name, v in o.items()}
for name, values in results.items():
    results[name] = values.astype(str) if values.dtype == object else values
np.savez(directory + "/results.npz", **results)
"""

# The file that MLflow runs, by itself, on the artifacts of the run that has moved.
FRESH_MODEL = """
import runpy
import sys
from types import SimpleNamespace
import pandas as pd

directory, code = sys.argv[1:]
model = runpy.run_path(code)["RecommenderModel"]()
artifacts = {
    "model": directory + "/moved/model",
    "index_manifest": directory + "/moved/index/manifest.json",
}
model.load_context(SimpleNamespace(artifacts=artifacts))
users = pd.DataFrame({"user_id": ["7", "3"]})
model.predict(None, users, params={"k": 5}).to_json(directory + "/predicted.json")
assert "mtrec" not in sys.modules
"""

# Known users, one of them twice, and one who is not known.
ASKED = np.array([7, 3, 40, 7, 1, 0])
PAIRED = np.array([12, 400, 1, 13, 0, 5])


def in_fresh_process(code, directory, argument):
    command = [sys.executable, "-c", code, str(directory), argument]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module", params=["exact", "scann"])
def served(request, tmp_path_factory):
    """A run, its index, and what a fresh process reads from its SavedModel, which has moved."""
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "run").mkdir()
    run = random_run(directory / "run", {"retrieval": softmax(dim=8), "rating": rating(layers=[6])})
    index = built_index(run, request.param)
    assert index.manifest.kind == request.param
    export.save(run, index)
    index.save(directory / "run" / "index")
    (directory / "run").rename(directory / "moved")
    users, items = ids_of(ASKED), ids_of(PAIRED)
    np.savez(directory / "given.npz", users=users, items=items)
    in_fresh_process(FRESH_PROCESS, directory, request.param)
    return run, index, np.load(directory / "results.npz")


def test_a_fresh_process_embeds_users_as_the_model_does(served):
    run, _, results = served
    expected = run.model.heads["retrieval"].embed(
        embed_users(run.model, ASKED, run.known)["retrieval"]
    )
    np.testing.assert_allclose(results["embed_query_embedding"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(results["embed_query_known"], ASKED > 0)


def test_a_fresh_process_scores_pairs_as_the_model_does(served):
    run, _, results = served
    query = embed_users(run.model, ASKED, run.known)
    candidate = {n: v.numpy() for n, v in run.model.candidates(tf.constant(PAIRED)).items()}
    heads = run.model.heads
    embedded = [np.asarray(heads["retrieval"].embed(v["retrieval"])) for v in (query, candidate)]
    scores = (embedded[0] * embedded[1]).sum(axis=1)
    np.testing.assert_allclose(results["score_pairs_score"], scores, rtol=1e-4, atol=1e-6)
    pairs = query["rating"], candidate["rating"], pairs_of(ASKED, PAIRED)
    ratings = heads["rating"].score_pairs(*pairs, name="stars")["stars"]
    np.testing.assert_allclose(results["score_pairs_rating"], ratings, rtol=1e-4)
    np.testing.assert_array_equal(results["score_pairs_known"], (ASKED > 0) & (PAIRED > 0))


def test_a_fresh_process_recommends_what_the_index_does(served):
    run, index, results = served
    queries = results["embed_query_embedding"]
    seen = [np.unique(run.known.of_user(user)) - 1 for user in ASKED]
    scores, positions = index.search(queries, 20, exclude=seen)
    np.testing.assert_array_equal(results["recommend_item_id"], np.asarray(run.item_ids)[positions])
    np.testing.assert_array_equal(
        results["recommend_title"], np.asarray(run.dataset.items["item_title"])[positions + 1]
    )
    np.testing.assert_allclose(results["recommend_score"], scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("served", ["scann"], indirect=True)
def test_the_file_that_mlflow_runs_needs_nothing_but_its_artifacts(served):
    run, _, results = served
    directory = run.directory.parent
    code = Path(export.__file__).with_name("mlflow_model.py").read_text()
    (directory / "code.py").write_text(code)
    in_fresh_process(FRESH_MODEL, directory, "code.py")
    predicted = json.loads((directory / "predicted.json").read_text())
    # ASKED begins with these two users; the first 5 of its 20 items are theirs.
    expected = results["recommend_item_id"][:2, :5]
    assert list(predicted["item_id"].values()) == expected.ravel().tolist()


def test_what_is_recommended_agrees_with_a_numpy_sort_of_the_catalogue(served):
    run, index, results = served
    items, scores, ratings = truth(run, ASKED, 20)
    found = results["recommend_item_id"].astype(int)
    if index.manifest.kind == "scann":
        assert np.mean([np.isin(*rows).mean() for rows in zip(items, found, strict=True)]) > 0.8
        return
    np.testing.assert_array_equal(found, items)
    np.testing.assert_allclose(results["recommend_score"], scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results["recommend_rating"], ratings, rtol=1e-4)


def test_an_item_of_train_or_validation_is_never_recommended(served):
    run, _, results = served
    for user, found in zip(ASKED, results["recommend_item_id"].astype(int), strict=True):
        columns = run.dataset.interactions
        mine = run.parts.train[columns["user"][run.parts.train] == user]
        assert user == 0 or len(mine) > 0
        assert not np.isin(found, columns["item"][mine]).any()
        assert len(np.unique(found)) == 20


def test_an_unknown_user_is_flagged_and_still_gets_items(served):
    _, _, results = served
    np.testing.assert_array_equal(results["recommend_known"], ASKED > 0)
    assert (results["recommend_item_id"][-1] != "").all()
    assert np.isfinite(results["recommend_score"]).all()
    assert np.isfinite(results["recommend_rating"]).all()


def loaded(directory):
    return tf.saved_model.load(str(directory / "model")).signatures


def joint(directory):
    """A run with both heads, and its exact index."""
    run = random_run(directory, {"retrieval": implicit_squared(), "rating": rating()})
    return run, built_index(run, "exact")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with both heads and all its files, and its exact index."""
    run, index = joint(tmp_path_factory.mktemp("exported"))
    return finished(run, index), index


def test_as_many_items_as_a_user_lacks_are_served_and_no_more(exported):
    run, _ = exported
    recommend = loaded(run.directory)["recommend"]
    left = ITEMS - len(np.unique(run.known.of_user(7)))
    users = tf.constant(["7"])
    found = recommend(user_id=users, k=tf.constant(left))["item_id"].numpy().astype(int)
    everything = np.concatenate([found[0], np.unique(run.known.of_user(7))])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1, ITEMS + 1))
    for k in (0, -1, left + 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"1 and {left}, .* got k={k}"):
            recommend(user_id=users, k=tf.constant(k))


def test_no_users_get_no_rows(exported):
    nobody = tf.constant([], tf.string)
    answer = loaded(exported[0].directory)["recommend"](user_id=nobody, k=tf.constant(3))
    assert answer["item_id"].shape == answer["rating"].shape == (0, 3)


@pytest.mark.parametrize("pooling", ["attention", "transformer"])
def test_every_pooling_is_served_as_the_model_pools(tmp_path, pooling):
    run = random_run(
        tmp_path, {"retrieval": implicit_squared(), "rating": rating()}, pooling=pooling
    )
    export.save(run, built_index(run, "exact"))
    served = loaded(tmp_path)
    users = tf.constant(ids_of(ASKED).tolist())

    embedded = served["embed_query"](user_id=users)["embedding"]
    expected = embed_users(run.model, ASKED, run.known)["retrieval"]
    np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-5)
    found = served["recommend"](user_id=users, k=tf.constant(5))
    items, scores, ratings = truth(run, ASKED, 5)
    np.testing.assert_array_equal(found["item_id"].numpy().astype(int), items)
    np.testing.assert_allclose(found["score"], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["rating"], ratings, rtol=1e-4)


def test_where_users_take_items_again_theirs_are_recommended_too(tmp_path):
    run = random_run(tmp_path, {"retrieval": implicit_squared()})
    run = replace(run, dataset=replace(run.dataset, repeats=True))
    index = built_index(run, "exact")
    export.save(run, index)
    found = loaded(tmp_path)["recommend"](
        user_id=tf.constant(ids_of(ASKED).tolist()), k=tf.constant(ITEMS)
    )
    vectors = embed_items(run.model, ITEMS)["retrieval"]
    scores = embed_users(run.model, ASKED, run.known)["retrieval"] @ vectors.T
    expected = np.argsort(-scores, axis=1, kind="stable") + 1
    np.testing.assert_array_equal(found["item_id"].numpy().astype(int), expected)
    at_once = recommend(run, index, str(ASKED[0]), k=ITEMS)
    assert [int(item.item_id) for item in at_once] == expected[0].tolist()


def test_pairs_are_served_as_rows_after_the_training_are_judged(tmp_path):
    how = {"label": "rating", "dim": 4, "members": 2, "layers": [], "l2": 0.0, "cross": 1}
    heads = {
        "rating": Rating(**how, moving_biases=5),
        "stars": Ordinal(**how, moving_biases=5),
        "liked": Binary(**how, moving_biases=5, at_least=4.0),
    }
    run = random_run(tmp_path, heads, in_time_order=True)
    judge = Evaluator(run.dataset, known=run.parts.train, held_out=run.parts.test)
    measured = judge.measure(run.model, slice(0, len(judge.held_out.users)))
    owner, item, _ = heads["rating"].labelled(judge.held_out)
    export.save(run, None)
    found = loaded(tmp_path)["score_pairs"](
        user_id=tf.constant(ids_of(judge.held_out.users[owner]).tolist()),
        item_id=tf.constant(ids_of(item).tolist()),
    )

    expected = {
        "rating": np.clip(measured["rating/output"], 1, 5),
        "stars": measured["stars/output"],
        "stars_spread": measured["stars/spread"],
        "liked": 1 / (1 + np.exp(-measured["liked/output"])),
    }
    assert set(found) == {*expected, "known"}
    for name, values in expected.items():
        assert values.std() > 0.05
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_a_run_serves_what_it_has_heads_for(tmp_path):
    run = random_run(tmp_path, {"rating": rating()})
    assert export.save(run, None) == ["score_pairs", "score_new"]
    pair = {"user_id": tf.constant(["7"]), "item_id": tf.constant(["12"])}
    signatures = loaded(tmp_path)
    assert set(signatures) == {"score_pairs", "score_new"}
    assert set(signatures["score_pairs"](**pair)) == {"known", "rating"}
    run = random_run(tmp_path, {"retrieval": implicit_squared()})
    assert set(export.save(run, built_index(run, "exact"))) == {
        *("embed_query", "score_pairs", "recommend", "score_new", "recommend_new")
    }
    signatures = loaded(tmp_path)
    assert set(signatures["score_pairs"](**pair)) == {"known", "score"}
    answer = signatures["recommend"](user_id=pair["user_id"], k=tf.constant(2))
    assert set(answer) == {"item_id", "title", "score", "known"}


def test_heads_that_would_be_served_under_one_name_are_refused(tmp_path):
    pair = {"label": "rating", "dim": 4, "members": 1, "layers": [], "l2": 0.0}
    names = {
        "rating": {"stars": rating(), "rating": Binary(**pair, at_least=4.0)},
        "stars_spread": {
            "first": rating(),
            "stars": Ordinal(**pair),
            "stars_spread": Binary(**pair, at_least=4.0),
        },
        "known": {"known": Binary(**pair, at_least=4.0)},
    }
    for name, heads in names.items():
        run = random_run(tmp_path, heads)
        with pytest.raises(UserError, match=rf"both told as {name}\. Give the head another name"):
            export.save(run, None)


def test_no_table_or_column_is_a_constant_of_the_graph(exported):
    file = exported[0].directory / "model" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    shapes = [node.attr["value"].tensor.tensor_shape for node in nodes if node.op == "Const"]
    sizes = [np.prod([dim.size for dim in shape.dim]) for shape in shapes]
    assert len(sizes) > 20
    assert max(sizes) < USERS


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    run, index = joint(tmp_path)
    before = embed_users(run.model, ASKED, run.known)
    encoded = dict(run.model.candidate.encoded)
    export.save(run, index)
    assert dict(run.model.candidate.encoded) == encoded
    for head, vectors in embed_users(run.model, ASKED, run.known).items():
        np.testing.assert_array_equal(vectors, before[head])


def test_a_failed_export_leaves_the_old_model_and_a_new_one_replaces_it(tmp_path, monkeypatch):
    run, index = joint(tmp_path)
    export.save(run, index)
    with monkeypatch.context() as patched:
        patched.setattr(tf.saved_model, "save", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.save(run, index)
    user = tf.constant(["7"])
    old = loaded(run.directory)["embed_query"](user_id=user)["embedding"].numpy()
    for weight in run.model.weights:
        weight.assign(2 * weight)
    export.save(run, index)
    new = loaded(run.directory)["embed_query"](user_id=user)["embedding"].numpy()
    assert np.abs(new - old).max() > 0.1
    assert [path.name for path in run.directory.iterdir()] == ["model"]


def test_an_id_with_a_line_break_is_refused(tmp_path):
    run, index = joint(tmp_path)
    ids = run.dataset.users["user_id"].tolist()
    run.dataset.users["user_id"] = held([*ids[:3], "\n", *ids[4:]])
    with pytest.raises(UserError, match=r"line break; got '\\n'"):
        export.save(run, index)


class Notebook:
    """Stands in for a tracker and keeps what it is told."""

    def __init__(self):
        self.files = {}
        self.models = []

    def log_file(self, path, artifact_dir):
        assert path.is_file()
        self.files[path.name] = artifact_dir

    def log_model(self, model):
        assert all(Path(path).exists() for path in model["artifacts"].values())
        self.models.append(model)


def finished(run, index):
    """The run with all the files that the stages before the export leave."""
    for name in ("config.yaml", "metrics.json", "evaluation.json"):
        (run.directory / name).write_text("")
    if index:
        index.save(run.directory / "index")
    export.save(run, index)
    return run


def test_the_files_and_one_model_are_logged(exported):
    notebook = Notebook()
    export.log(*exported, notebook)
    assert notebook.files == {
        "config.yaml": "",
        "metrics.json": "",
        "evaluation.json": "",
        "manifest.json": "index",
    }
    (model,) = notebook.models
    assert set(model["artifacts"]) == {"model", "index_manifest"}
    assert any(line.startswith("tensorflow==2.20") for line in model["pip_requirements"])
    assert not any("scann" in line for line in model["pip_requirements"])


def test_a_tree_requires_scann_where_the_model_runs(exported):
    notebook = Notebook()
    export.log(exported[0], built_index(exported[0], "scann"), notebook)
    assert "scann==1.4.2" in notebook.models[0]["pip_requirements"]


def test_without_a_retrieval_head_no_model_is_logged(tmp_path):
    notebook = Notebook()
    export.log(finished(random_run(tmp_path, {"rating": rating()}), None), None, notebook)
    assert not notebook.models
    assert set(notebook.files) == {"config.yaml", "metrics.json", "evaluation.json"}


@pytest.fixture
def pyfunc(exported):
    """The MLflow model over the artifacts that were logged, and its run."""
    # MLflow warns about type hints of its own when it is imported, and about those here.
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        from mtrec.serving.mlflow_model import RecommenderModel

    notebook = Notebook()
    export.log(*exported, notebook)
    artifacts = {name: str(path) for name, path in notebook.models[0]["artifacts"].items()}
    model = RecommenderModel()
    model.load_context(SimpleNamespace(artifacts=artifacts))
    return model, exported[0], notebook.models[0]


def test_the_mlflow_model_gives_a_row_for_each_user_and_rank(pyfunc, monkeypatch):
    model, run, logged = pyfunc
    # More users than are asked for at once.
    monkeypatch.setattr("mtrec.serving.mlflow_model.USERS_AT_ONCE", 2)
    users = pd.DataFrame({"user_id": ["7", "3", "nobody"]})
    table = model.predict(None, users, params={"k": 4})
    assert list(table.columns) == list(logged["outputs"])
    items, scores, ratings = truth(run, np.array([7, 3, 0]), 4)
    assert table["user_id"].tolist() == [*["7"] * 4, *["3"] * 4, *["nobody"] * 4]
    assert table["rank"].tolist() == [1, 2, 3, 4] * 3
    assert table["item_id"].tolist() == ids_of(items).ravel().tolist()
    assert table["title"].tolist() == [f"Item {item}" for item in items.ravel()]
    np.testing.assert_allclose(table["score"], scores.ravel(), rtol=1e-4)
    np.testing.assert_allclose(table["rating"], ratings.ravel(), rtol=1e-4)
    assert table["known"].tolist() == [True] * 8 + [False] * 4


def test_the_mlflow_model_takes_whole_numbers_and_ten_items_by_default(pyfunc):
    model, _, logged = pyfunc
    numbers = model.predict(None, pd.DataFrame({"user_id": [7, 3]}), logged["params"])
    strings = model.predict(None, pd.DataFrame({"user_id": ["7", "3"]}), {"k": 10})
    pd.testing.assert_frame_equal(numbers, strings)
    assert len(numbers) == 20
    nobody = model.predict(None, pd.DataFrame({"user_id": []}), logged["params"])
    assert list(nobody.columns) == list(numbers.columns)
    assert len(nobody) == 0


def test_the_mlflow_model_refuses_a_wrong_k_in_one_sentence(pyfunc):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=r"^k must lie between 1 and \d+, .*; got k=401\.$"):
        pyfunc[0].predict(None, pd.DataFrame({"user_id": ["7"]}), params={"k": 401})
