"""Several vectors for a query, from the tower to what is served."""

import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_batch import asked
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import rating, recommender, softmax

from mtrec.data.split import Split
from mtrec.heads.max_similarity import SPREAD
from mtrec.jobs import stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import load_run
from mtrec.model.encode import embed_items, embed_users
from mtrec.model.features import Categorical
from mtrec.serving import export
from mtrec.serving.index import ExactBuilder, ScannBuilder
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.tracking import run_data, run_dir
from mtrec.training.evaluate import evaluator_of

USERS, ITEMS = 40, 400


def kernel_of(model, path="query_retrieval"):
    (found,) = [w.numpy() for w in model.weights if path in w.path and w.name == "kernel"]
    return found


@pytest.fixture(scope="module")
def data():
    return planted()


def test_the_vectors_start_apart_around_the_representation(data):
    # 64 wide, so that the length of a draw is near what is expected of it.
    model = recommender(data, {"retrieval": softmax(query_vectors=3)}, dim=64, layers=[64])
    one = recommender(data, {"retrieval": softmax()}, dim=64, layers=[64])
    of = np.array([1, 2]), np.array([3, 4, 5]), np.array([0, 0, 1])
    vectors = model.queries(asked(*of))["retrieval"].numpy()
    representations = one.queries(asked(*of))["retrieval"].numpy()

    assert vectors.shape == (2, 3, 64)
    for row, middle in zip(vectors, representations, strict=True):
        far = np.linalg.norm(row - middle, axis=1) / np.linalg.norm(middle)
        np.testing.assert_allclose(far, SPREAD, rtol=0.4)
        cosines = np.corrcoef(row - middle)[np.triu_indices(3, 1)]
        assert (np.abs(cosines) < 0.5).all()
    items = model.candidates(np.array([1, 2]))["retrieval"]
    np.testing.assert_array_equal(items, one.candidates(np.array([1, 2]))["retrieval"])


@pytest.mark.parametrize("dim", [None, 5])
def test_a_vector_more_changes_no_other(data, dim):
    two, three = (
        kernel_of(recommender(data, {"retrieval": softmax(dim=dim, query_vectors=count)}))
        for count in (2, 3)
    )
    width = dim or 8
    assert three.shape == (8, 3 * width)
    np.testing.assert_array_equal(three[:, : 2 * width], two)
    assert np.abs(three[:, :width] - three[:, width : 2 * width]).max() > 0.01


def test_own_features_add_to_each_vector_what_is_learnt_for_it(data):
    def with_own(heads):
        model = recommender(data, heads)
        model.query.features["retrieval"] = {"user_id": Categorical(column="user_id")}
        return model.adapt(data, all_rows(data), seed=1)

    heads = {"retrieval": softmax(query_vectors=2)}
    of = np.array([4, 9]), np.array([3, 4, 5]), np.array([0, 0, 1])
    plain, owning = recommender(data, heads), with_own(heads)
    added = (
        owning.queries(asked(*of))["retrieval"] - plain.queries(asked(*of))["retrieval"]
    ).numpy()
    table = owning.query.features["retrieval"]["user_id"].table.embeddings.numpy()
    np.testing.assert_allclose(added.reshape(2, 16), table[[4, 9]], atol=1e-6)


def test_a_query_without_a_history_has_zeros_and_a_gradient(data):
    head = softmax(query_vectors=2)
    model = recommender(data, {"retrieval": head})
    nothing = np.array([], np.int32)
    with tf.GradientTape() as tape:
        found = head.embed(model.queries(asked(np.array([1]), nothing, nothing))["retrieval"])
        total = tf.reduce_sum(found)
    assert not found.numpy().any()
    gradient = tape.gradient(total, model.query.projections["retrieval"].bias.value)
    assert np.isfinite(gradient).all()
    assert np.all(gradient)


def random_run(directory, heads):
    """A run whose weights are all random, so that each of them shows in the results."""
    dataset = planted(num_users=USERS, num_items=ITEMS, num_interactions=2_000)
    rows = np.random.default_rng(0).permutation(2_000)
    parts = Split(fit=rows[:1_000], validation=rows[1_000:1_500], test=rows[1_500:])
    model = recommender(dataset, heads, fit=parts.fit)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    return Run(directory=directory, dataset=dataset, parts=parts, model=model)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    heads = {"retrieval": softmax(query_vectors=3), "rating": rating()}
    return random_run(tmp_path_factory.mktemp("several"), heads)


def embedded(several, users):
    """All vectors of users `[U, K, D]`, and of all items `[C, D]`."""
    embed = several.model.heads["retrieval"].embed
    query = embed_users(several.model, users, several.known)["retrieval"]
    items = embed_items(several.model, ITEMS)["retrieval"]
    return np.asarray(embed(query)), np.asarray(embed(items))


def test_ranks_are_those_of_the_best_vector(several):
    judge = evaluator_of("test", several.dataset, several.parts)
    measured = judge.measure(several.model, judge.shares(1)[0])
    held_out = judge.held_out
    query, items = embedded(several, held_out.users)
    above, level = [], []
    for row in np.flatnonzero(held_out.new):
        of_user, item = held_out.owner[row], held_out.item[row]
        scores = np.array([max(vector @ v for vector in query[of_user]) for v in items])
        scores[several.known.of_user(held_out.users[of_user]) - 1] = -np.inf
        above.append((scores > scores[item - 1]).sum())
        level.append((scores == scores[item - 1]).sum())

    # Items that nobody took before are all alike: their order is drawn.
    ranks = measured["retrieval/ranks"]
    assert (np.array(level) > 1).sum() < 0.2 * len(level)
    assert ((ranks >= above) & (ranks < np.array(above) + level)).all()


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_what_is_served_is_ranked_as_it_was_measured(several, kind):
    # With all leaves searched and all candidates scored again, ScaNN is exact.
    tree = ScannBuilder(
        exact_below=100, target_recall=1.0, min_recall=0.9, k=100, num_queries=50, seed=0
    )
    index = stages.index(several, "retrieval", {"exact": ExactBuilder(), "scann": tree}[kind])
    assert (index.manifest.kind, index.manifest.recall_at_k) == (kind, 1.0)
    stages.export(several, index)
    served = tf.saved_model.load(str(several.directory / run_dir.MODEL)).signatures

    judge = evaluator_of("test", several.dataset, several.parts)
    measured = judge.measure(several.model, judge.shares(1)[0])
    held_out = judge.held_out
    users = held_out.users[np.unique(held_out.owner[held_out.new])]
    ids = tf.constant(users.astype(str))
    found = served["recommend"](user_id=ids, k=tf.constant(10))
    top = found["item_id"].numpy().astype(int)
    np.testing.assert_array_equal(top, measured["retrieval/top"])

    query, items = embedded(several, users)
    vectors = served["embed_query"](user_id=ids)["embedding"]
    np.testing.assert_allclose(vectors, query, rtol=1e-4, atol=1e-6)
    exact = (query @ items.T).max(axis=1)
    scores = np.take_along_axis(exact, top - 1, axis=1)
    np.testing.assert_allclose(found["score"], scores, rtol=1e-4, atol=1e-6)
    pairs = served["score_pairs"](user_id=ids, item_id=tf.constant(top[:, 3].astype(str)))
    np.testing.assert_allclose(pairs["score"], scores[:, 3], rtol=1e-4, atol=1e-6)
    one = recommend(several, index, str(users[5]), k=10)
    assert [int(item.item_id) for item in one] == top[5].tolist()


def test_a_whole_job_with_two_vectors(tmp_path):
    several = "task.heads.retrieval.query_vectors=2"
    config = config_of(*SMALL, "train.epochs=3", "head@task.heads.retrieval=softmax", several)
    dataset, parts = load(config.data)
    run_dir.save_config(config, tmp_path)
    run_data.keep(dataset, parts, tmp_path)
    history = worker.train(config, dataset, parts, tmp_path, Silent())
    assert history[-1]["train/retrieval/loss"] < history[0]["train/retrieval/loss"]

    trained = load_run(tmp_path)
    metrics, _ = stages.evaluate(trained)
    assert 0 < metrics["test/retrieval/ndcg_at_10"] < 1
    index = stages.index(trained, "retrieval", ExactBuilder())
    assert index.manifest.dimension == 64
    export.save(trained, index)
    served = tf.saved_model.load(str(tmp_path / run_dir.MODEL)).signatures
    found = served["recommend"](user_id=tf.constant(["7"]), k=tf.constant(5))
    one = recommend(trained, index, "7", k=5)
    assert [item.item_id.encode() for item in one] == found["item_id"].numpy()[0].tolist()
    # Users are served by more than one of their vectors, or there would be no use for two.
    embed = trained.model.heads["retrieval"].embed
    query = embed(embed_users(trained.model, np.arange(1, 61), trained.known)["retrieval"])
    best = np.argmax(np.asarray(query) @ index.vectors.T, axis=1)
    assert 0.05 < best.mean() < 0.95
