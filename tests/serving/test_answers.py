"""Answers made of stages: what each stage does, and that all ways to ask give the same."""

import json
import runpy
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from small_batch import pairs_of
from small_config import SMALL, config_of
from small_data import planted, written_out
from small_index import exact_index
from small_model import rating, recommender, softmax

from mtrec.data.columns import held
from mtrec.data.histories import Histories
from mtrec.data.inputs import HistoryInputs, QueryInputs
from mtrec.data.split import Split
from mtrec.errors import UserError
from mtrec.jobs import answers, build, stages
from mtrec.model.encode import embed_items, embed_users
from mtrec.reports import per_user
from mtrec.serving import export
from mtrec.serving.answer import Answerer
from mtrec.serving.answers.arrange import Arrange
from mtrec.serving.answers.candidates import Asked, Best, Known, Newest, Own, Popular, most_frequent
from mtrec.serving.answers.expression import Expression
from mtrec.serving.answers.filter import Filter
from mtrec.serving.answers.fuse import FUNCTIONS, WEIGHTS, Formula, RankSum
from mtrec.serving.answers.pipeline import PLAIN
from mtrec.serving.recommend import recommend
from mtrec.serving.run import Run
from mtrec.training.evaluate import evaluator_of

USERS, ITEMS = 40, 60
NO_FILTER = {"seen": None, "where": None, "allow": None, "deny": ()}
STAGED = replace(
    PLAIN,
    candidates={"best": Best(count=12), "popular": Popular(count=9), "newest": Newest(count=9)},
    filter=Filter(**NO_FILTER | {"where": "in_stock and price < 20", "deny": ("5", "17")}),
    fuse=Formula(formula="retrieval + 0.3 * rating - 0.02 * price"),
    arrange=Arrange(trade_off=0.6, at_most=2, of="kinds"),
)


def with_columns(dataset):
    """The data with a price, a stock and kinds of items."""
    rng = np.random.default_rng(3)
    count = dataset.num_items
    kinds = [[], *([f"k{i % 5}", f"k{i % 7}"][: 1 + i % 2] for i in range(count))]
    more = {
        "price": np.array([np.nan, *rng.uniform(1, 30, count)]),
        "in_stock": np.array([np.nan, *(rng.random(count) < 0.8)], float),
        "kinds": held(kinds),
    }
    return replace(dataset, items={**dataset.items, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose weights are all random."""
    dataset = with_columns(planted(num_users=USERS, num_items=ITEMS, num_interactions=900))
    rows = np.random.default_rng(0).permutation(900)
    parts = Split(fit=rows[:500], validation=rows[500:700], test=rows[700:])
    heads = {"retrieval": softmax(dim=8), "rating": rating()}
    model = recommender(dataset, heads, fit=parts.fit)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    directory = tmp_path_factory.mktemp("answers")
    return Run(directory=directory, dataset=dataset, parts=parts, model=model, answer=STAGED)


@pytest.fixture(scope="module")
def index(run):
    return exact_index(run)


def told_of_all(run, user):
    """What both heads say of a user and every item, and the items' vectors of length 1."""
    query, candidate = embed_users(run.model, np.array([user]), run.known), {}
    candidate = embed_items(run.model, ITEMS)
    heads, items = run.model.heads, np.arange(1, ITEMS + 1)
    vectors = np.asarray(heads["retrieval"].embed(candidate["retrieval"]))
    score = vectors @ np.asarray(heads["retrieval"].embed(query["retrieval"]))[0]
    stars = heads["rating"].score_pairs(
        np.tile(query["rating"], (ITEMS, 1)),
        candidate["rating"],
        pairs_of(np.full(ITEMS, user), items),
        name="rating",
    )["rating"]
    return score, np.asarray(stars), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(run, user, k):
    """The staged answer, item by item: rows and scores."""
    data, columns = run.dataset, run.dataset.items
    price, stock, kinds = (np.asarray(columns[n])[1:] for n in ("price", "in_stock", "kinds"))
    ids = columns["item_id"][1:].tolist()
    kept = [stock[i] == 1 and price[i] < 20 and ids[i] not in ("5", "17") for i in range(ITEMS)]
    kept = np.flatnonzero(kept)
    score, stars, vectors = told_of_all(run, user)
    have = set(run.known.of_user(user) - 1)
    taken = np.asarray(data.interactions["item"])[run.parts.train] - 1
    time = np.asarray(data.interactions["timestamp"])[run.parts.train]
    since = {i: min(time[taken == i], default=np.inf) for i in kept}
    popular = sorted(kept, key=lambda i: (-np.sum(taken == i), i))[:9]
    newest = sorted(kept, key=lambda i: (-since[i], i))[:9]
    best = sorted(set(kept) - have, key=lambda i: -score[i])[:12]
    pool = [i for i in dict.fromkeys([*best, *popular, *newest]) if i not in have]
    fused = {i: score[i] + 0.3 * stars[i] - 0.02 * price[i] for i in pool}
    low, high = min(fused.values()), max(fused.values())
    placed = []
    while len(placed) < k:
        left = [
            i
            for i in pool
            if i not in placed
            and all(sum(kind in kinds[j] for j in placed) < 2 for kind in kinds[i])
        ]
        placed.append(
            max(
                left,
                key=lambda i: (
                    0.6 * (fused[i] - low) / (high - low)
                    - 0.4 * max((vectors[i] @ vectors[j] for j in placed), default=0.0)
                ),
            )
        )
    return np.array(placed) + 1, np.array([fused[i] for i in placed]), len(pool)


@pytest.mark.parametrize("user", [1, 7, 23, 40])
def test_an_answer_of_all_stages_is_what_they_give_item_by_item(run, index, user):
    items, scores, pool = by_hand(run, user, 5)
    inputs = QueryInputs.of(np.array([user]), run.known)
    answerer = Answerer(run, index, traced=False)
    found = answerer.best(inputs, tf.constant(5))
    np.testing.assert_array_equal(found["item"][0], items)
    np.testing.assert_allclose(found["score"][0], scores, rtol=1e-5)
    assert np.count_nonzero(answerer.stages(inputs, 5).candidates) == pool


def test_python_the_savedmodel_and_mlflows_model_answer_alike(run, index):
    export.save(run, index)
    users, k = [*range(1, USERS + 1, 3)], 5
    here = [recommend(run, index, str(user), k=k) for user in users]
    ids = [[item.item_id for item in found] for found in here]
    scores = np.array([[item.score for item in found] for found in here])
    ratings = np.array([[item.rating for item in found] for found in here])

    served = tf.saved_model.load(str(run.directory / "model")).signatures["recommend"]
    told = served(user_id=tf.constant([*map(str, users)]), k=tf.constant(k))
    assert told["item_id"].numpy().astype(str).tolist() == ids
    np.testing.assert_allclose(told["score"], scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(told["rating"], ratings, rtol=0, atol=1e-6)

    code = Path(export.__file__).with_name("mlflow_model.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, of its own types
        model = runpy.run_path(str(code))["RecommenderModel"]()
    manifest = str(run.directory / "index" / "manifest.json")
    artifacts = {"model": str(run.directory / "model"), "index_manifest": manifest}
    model.load_context(SimpleNamespace(artifacts=artifacts))
    table = model.predict(None, pd.DataFrame({"user_id": map(str, users)}), {"k": k})
    assert table["item_id"].tolist() == [each for found in ids for each in found]
    np.testing.assert_allclose(table["score"], scores.ravel(), rtol=0, atol=1e-6)


def test_more_items_than_the_stages_leave_are_refused(run, index):
    with pytest.raises(UserError, match=r"k must be between 1 and \d+, .* got 40"):
        recommend(run, index, "7", k=40)
    answerer = Answerer(run, index, traced=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"between 1 and \d+, .*got k=40"):
        answerer.best(QueryInputs.of(np.array([7]), run.known), tf.constant(40))


def test_the_plain_answer_is_judged_as_its_head_and_stages_say_what_they_lose(run, index):
    held_out = evaluator_of("test", run.dataset, run.parts).held_out
    plain = replace(run, answer=PLAIN)
    found = answers.measure(plain, index, held_out)["answer"].metrics
    head = evaluator_of("test", run.dataset, run.parts)(run.model, full=False)["retrieval"].metrics
    for name in ("recall_at_1", "recall_at_10", "ndcg_at_10", "mrr", "hit_rate_at_10"):
        assert found[name] == pytest.approx(head[name])
    assert found["filter_recall"] == 1

    staged = answers.measure(run, index, held_out)["answer"].metrics
    kept = STAGED.filter.kept(run.dataset)
    shares, candidates, recall = [], [], []
    for place, user in enumerate(held_out.users):
        rows = held_out.asked & (held_out.owner == place)
        if not rows.any():
            continue
        items = np.unique(held_out.item[rows])
        shares.append(kept[items - 1].mean())
        inputs = QueryInputs.of(np.array([user]), held_out.known)
        one = Answerer(run, index, traced=False).stages(inputs, 10)
        candidates.append(np.isin(items, one.candidates).mean())
        recall.append(np.isin(items, one.answered).mean())
    assert staged["filter_recall"] == pytest.approx(np.mean(shares))
    assert staged["candidates_recall"] == pytest.approx(np.mean(candidates))
    assert staged["recall_at_10"] == pytest.approx(np.mean(recall))
    assert 1 > staged["filter_recall"] > staged["candidates_recall"] > staged["recall_at_10"] > 0


@pytest.mark.parametrize(
    ("fuse", "weighed"),
    [
        (RankSum(weights={"retrieval": 1.0, "rating": None}, tuned_by="ndcg_at_10"), "rating"),
        (Formula(formula="retrieval + 9 * w * rating", weights={"w": None}), "w"),
    ],
)
def test_a_weight_is_the_best_of_the_grid_on_validation(run, index, tmp_path, fuse, weighed):
    answer = replace(PLAIN, candidates={"best": Best(count=50)}, fuse=fuse)
    untuned = replace(run, answer=answer)
    held_out = evaluator_of("val", run.dataset, run.parts).held_out
    reached = {
        weight: answers.measure(
            replace(run, answer=answer.weighted({weighed: weight})), index, held_out
        )["answer"].metrics["ndcg_at_10"]
        for weight in WEIGHTS
    }
    chosen = answers.tuned(untuned, index, held_out).answer.fuse
    assert len({round(value, 6) for value in reached.values()}) > 3, reached
    assert chosen.weights[weighed] == max(reached, key=reached.get) > 0

    (tmp_path / "metrics.json").write_text('{"test/rating/rmse": 1.0}')
    job = replace(untuned, directory=tmp_path)
    _, metrics = stages.answer(job, index)
    assert json.loads((tmp_path / "answer.json").read_text()) == dict(chosen.weights)
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert kept == {"test/rating/rmse": 1.0, **metrics}
    users = per_user.load(tmp_path / "evaluation_users.parquet")
    told = users["answer/ndcg_at_10"].sum() / users["answer/count"].sum()
    assert metrics["test/answer/ndcg_at_10"] == pytest.approx(told)


def test_of_data_with_repeats_answers_are_judged_by_new_and_by_repeated_items_too(run, index):
    data = replace(run.dataset, repeats=True)
    again = replace(run, dataset=data, answer=PLAIN)
    held_out = evaluator_of("test", data, run.parts).held_out
    held_out = replace(held_out, new=held_out.item % 3 > 0, asked=np.ones(len(held_out.item), bool))
    reports = answers.measure(again, index, held_out)
    assert reports.keys() == {"answer", "answer/new", "answer/repeat"}
    for name, report in reports.items():
        shares = np.full(len(held_out.users), np.nan)
        for place in range(len(held_out.users)):
            mine = held_out.owner == place
            kind = {"answer": mine, "answer/new": held_out.new, "answer/repeat": ~held_out.new}
            items = np.unique(held_out.item[mine & kind[name]])
            if len(items):
                inputs = held_out.inputs(np.array([place]))
                told = Answerer(again, index, traced=False).stages(inputs, 10).answered
                shares[place] = np.isin(items, told).mean()
        asked = np.isfinite(shares)
        assert report.metrics["recall_at_10"] == pytest.approx(shares[asked].mean())
        assert (report.per_user.count == asked).all()
        np.testing.assert_allclose(report.per_user.totals["recall_at_10"][asked], shares[asked])


ANY = tf.constant([[True]])
COLUMNS = {
    "price": np.array([5.0, 25.0, np.nan, 12.0]),
    "in_stock": np.array([1, 1, 1, 0]),
    "brand": held(["a", "b", "a", ""]),
    "kinds": held([["x", "y"], ["y"], [], ["x"]]),
    # As Parquet's booleans and a CSV file's come to be read.
    "fresh": held(["true", "false", "", "True"]),
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("in_stock and price < 20", [1, 0, 0, 0]),
        ("not in_stock or price > 20", [0, 1, 0, 1]),
        ("5 <= price < 25", [1, 0, 0, 1]),
        ("price", [1, 1, 0, 1]),
        ("brand == 'a'", [1, 0, 1, 0]),
        ("brand", [1, 1, 1, 0]),
        ("brand in ['b', '']", [0, 1, 0, 1]),
        ("brand not in ('b',)", [1, 0, 1, 1]),
        ("'x' in kinds and brand != ''", [1, 0, 0, 0]),
        ("'z' not in kinds", [1, 1, 1, 1]),
        ("kinds", [1, 1, 0, 1]),
        ("price * 2 - 1 > -in_stock + 20", [0, 1, 0, 1]),
        ("fresh", [1, 0, 0, 1]),
        ("not fresh", [0, 1, 1, 0]),
        ("fresh == True", [1, 0, 0, 1]),
        ("fresh == False", [0, 1, 0, 0]),
        ("fresh != True and price", [0, 1, 0, 0]),
        ("fresh == 'True'", [0, 0, 0, 1]),
    ],
)
def test_a_condition_holds_where_its_columns_say(condition, expected):
    found = Expression(condition, argument="where", functions=None).condition(COLUMNS)
    assert found.astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("text", "functions", "sentence"),
    [
        ("price <", None, "`where` must be an expression; got 'price <', which cannot be read."),
        ("__import__('os')", None, "must be of the grammar of expressions"),
        ("price.real", None, "must be of the grammar"),
        ("brand[0]", None, "must be of the grammar"),
        ("price > 1", FUNCTIONS, "must be of the grammar"),
        ("open(price)", FUNCTIONS, "may call exp, log"),
        ("price ** 9", FUNCTIONS, "must be of the grammar"),
    ],
)
def test_what_is_not_of_the_grammar_is_refused(text, functions, sentence):
    with pytest.raises(UserError) as refused:
        Expression(text, argument="where", functions=functions)
    assert sentence in str(refused.value)


def test_a_formula_computes_with_functions_of_what_it_names():
    formula = Formula(formula="2 * exp(a) / maximum(b, 1) - -b")
    assert formula.names == {"a", "b"}
    a, b = np.array([[0.0, 1.0]]), np.array([[4.0, 0.5]])
    found = formula({"a": tf.constant(a), "b": tf.constant(b)}, tf.constant([[True, True]]))
    np.testing.assert_allclose(found, 2 * np.exp(a) / np.maximum(b, 1) + b)


def test_a_formula_may_hold_whole_numbers_where_functions_take_fractions():
    found = Formula(formula="a * exp(2) + maximum(a, 3)")({"a": tf.constant([[1.0]])}, ANY)
    np.testing.assert_allclose(found, [[np.exp(2) + 3]], rtol=1e-6)


@pytest.mark.parametrize(
    "formula", ["a * (1 / 0)", "a + log()", "maximum(a)", "maximum(a, b, c)", "exp(a, b)"]
)
def test_a_formula_that_cannot_be_computed_is_refused_before_anything_is_trained(formula):
    with pytest.raises(UserError, match="`formula` must be what can be computed; got"):
        Formula(formula=formula)


def test_a_head_that_tells_nothing_of_a_candidate_gives_it_the_last_place():
    told = {"a": tf.constant([[np.nan, 1.0, np.nan, 2.0, 9.0]])}
    valid = tf.constant([[True, True, True, True, False]])
    found = RankSum(weights={"a": 1.0}, tuned_by="ndcg_at_10")(told, valid)
    np.testing.assert_allclose(found[0, :4], [0.5, 0.75, 0.25, 1.0])


def test_ranks_are_summed_by_weight_among_what_is_there():
    valid = tf.constant([[True, True, True, False]])
    told = {
        "a": tf.constant([[0.1, 0.9, 0.5, 7.0]]),  # places 2, 0, 1
        "b": tf.constant([[3.0, 1.0, 2.0, 7.0]]),  # places 0, 2, 1
    }
    fuse = RankSum(weights={"a": 1.0, "b": 0.5}, tuned_by="ndcg_at_10")
    expected = [1 / 3 + 0.5, 1 + 0.5 / 3, 2 / 3 + 0.5 * 2 / 3]
    np.testing.assert_allclose(fuse(told, valid)[0, :3], expected, rtol=1e-6)


def test_places_go_to_what_is_unlike_the_places_before_and_of_a_category_that_is_not_full():
    scores = tf.constant([[1.0, 0.9, 0.5, 0.0, -np.inf]])
    vectors = tf.constant([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]]])
    categories = tf.constant([[[1], [1], [1], [2], [0]]])

    def arranged(trade_off, at_most, k):
        of = None if at_most is None else "kind"
        arrange = Arrange(trade_off=trade_off, at_most=at_most, of=of)
        return arrange(scores, vectors, categories, tf.constant(k)).numpy()[0].tolist()

    assert arranged(1.0, None, 4) == [0, 1, 2, 3]
    # After 0: 0.5 * 0.9 - 0.5, 0.5 * 0.5 - 0 and 0 + 0.5; then 2 before 1.
    assert arranged(0.5, None, 4) == [0, 3, 2, 1]
    assert arranged(1.0, 1, 4) == [0, 3, -1, -1]
    assert arranged(1.0, 2, 3) == [0, 1, 3]


def test_scores_that_are_undefined_or_without_bound_leave_the_others_in_their_order():
    low, high = np.finfo(np.float32).min, np.finfo(np.float32).max
    scores = tf.constant([[0.2, low, 0.9, 0.5, high, -np.inf]])
    vectors, categories = tf.ones([1, 6, 1]), tf.zeros([1, 6, 1], tf.int32)
    by_score = Arrange(trade_off=1.0, at_most=None, of=None)
    found = by_score(scores, vectors, categories, tf.constant(6)).numpy()[0].tolist()
    assert found == [4, 2, 3, 0, 1, -1]


@pytest.mark.parametrize("arrange", [None, Arrange(trade_off=1.0, at_most=None, of=None)])
def test_what_a_formula_leaves_undefined_is_last_whether_arranged_or_not(run, index, arrange):
    told, inputs = [], QueryInputs.of(np.array([3]), run.known)
    for formula in ("retrieval", "log(retrieval) * 0 + retrieval", "1 / (retrieval - retrieval)"):
        best = {"best": Best(count=ITEMS)}
        answer = replace(PLAIN, candidates=best, fuse=Formula(formula=formula), arrange=arrange)
        found = Answerer(replace(run, answer=answer), index, traced=False)
        told.append({n: v.numpy()[0] for n, v in found.up_to(inputs, ITEMS).items()})
    plain, undefined, unbound = told
    positive = plain["score"] > 0
    assert 0 < positive.sum() < len(positive)
    assert undefined["item"][: positive.sum()].tolist() == plain["item"][positive].tolist()
    assert sorted(undefined["item"]) == sorted(unbound["item"]) == sorted(plain["item"])
    assert np.isfinite(unbound["score"][unbound["item"] > 0]).all()


def test_a_column_whose_name_begins_like_a_heads_is_read_as_a_column(run, index):
    items = run.dataset.items | {"retrieval_rate": run.dataset.items["price"]}
    asked = replace(run, dataset=replace(run.dataset, items=items))
    told = []
    for name in ("price", "retrieval_rate"):
        fuse = Formula(formula=f"retrieval + {name}")
        answer = replace(PLAIN, candidates={"best": Best(count=ITEMS)}, fuse=fuse)
        found = Answerer(replace(asked, answer=answer), index, traced=False)
        told.append(found.up_to(QueryInputs.of(np.array([3]), run.known), 5)["item"].numpy())
    assert told[0].tolist() == told[1].tolist()


def test_a_users_own_items_come_by_how_often_and_then_by_how_lately_they_took_them():
    items, owners = np.array([4, 2, 4, 9, 2, 5, 7, 7]), np.array([0, 0, 0, 0, 0, 0, 2, 2])
    history = HistoryInputs(items.astype(np.int32), owners.astype(np.int32))
    found = most_frequent(history, tf.zeros(3, tf.int32), Own(count=3))
    assert found.numpy().tolist() == [[2, 4, 5], [0, 0, 0], [7, 0, 0]]


def test_all_get_what_is_most_taken_and_what_was_first_taken_last():
    rows = [(1, 1, 1.0, 10), (2, 1, 1.0, 20), (1, 3, 1.0, 5), (2, 3, 1.0, 90), (2, 2, 1.0, 30)]
    dataset = written_out(rows, num_items=4)
    known = Histories.of(dataset, np.arange(5))
    kept = np.array([True, True, True, False])
    asked = Asked(QueryInputs.of(np.array([1, 2]), known), tf.constant(1), lambda count: None)
    for source, expected in ((Popular(count=2), [1, 3]), (Newest(count=2), [2, 1])):
        found, _ = source.ready(Known(dataset, known, kept))(asked)
        assert found.numpy().tolist() == [expected] * 2


def test_what_was_taken_a_half_life_ago_counts_half():
    day = 86_400
    rows = [(1, 1, 1.0, day), (2, 1, 1.0, 3 * day), (1, 2, 1.0, 3 * day), (2, 3, 1.0, 5 * day)]
    dataset = written_out(rows, num_items=4)
    known = Known(dataset, Histories.of(dataset, np.arange(4)), np.ones(4, bool))
    # After 2 days a half, after 4 a quarter: 1/4 + 1/2, 1/2 and 1, of 2 1/4.
    shares = Popular(count=2, half_life=2.0).values(known)
    np.testing.assert_allclose(shares, np.array([0.75, 0.5, 1, 0]) / 2.25)
    np.testing.assert_allclose(Popular(count=2).values(known), np.array([2, 1, 1, 0]) / 4)
    np.testing.assert_allclose(Newest(count=2).values(known), [0, 2, 4, 5])


def test_a_source_for_all_tells_its_values_under_its_name(run, index):
    popular = Popular(count=ITEMS, half_life=30.0)
    fuse = Formula(formula="-popular")
    answer = replace(PLAIN, candidates={"popular": popular}, fuse=fuse)
    asked = replace(run, answer=replace(answer, filter=Filter(**NO_FILTER | {"seen": True})))
    found = Answerer(asked, index, traced=False).best(
        QueryInputs.of(np.array([3]), run.known), tf.constant(ITEMS)
    )
    values = popular.values(Known(run.dataset, run.known, np.ones(ITEMS, bool)))
    np.testing.assert_allclose(found["score"][0], np.sort(-values)[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["answer.filter.where='prise<9'"], "answer.filter.where must name columns of the items"),
        (["answer.filter.deny=[none]"], "answer.filter.deny must hold ids of items; 'none'"),
        (["answer.filter.allow=[]"], "answer.filter must leave an item"),
        (["answer=fused", "answer.candidates.best.count=null"], "count must be a number where"),
        (["answer=fused", "+answer.fuse.weights.click=1"], "answer.fuse must name heads (retr"),
        (["answer=fused", "+answer.fuse.weights.best=1"], "for all (popular) or columns"),
        (
            [
                "answer.candidates.best.count=5",
                "answer.fuse={_target_:mtrec.Formula,formula:retrieval,weights:{w:1}}",
            ],
            "answer.fuse.weights must be named by the answer.fuse.formula; w is not",
        ),
        (
            ["answer=fused", "+answer.candidates.popular.half_life=0"],
            "answer.candidates.popular.half_life must be above 0",
        ),
        (["answer=fused", "answer.fuse.weights.retrieval=null"], "answer.fuse.weights must name"),
        (["answer=fused", "answer.fuse.tuned_by=rmse"], "answer.fuse.tuned_by must be a metric"),
        (
            ["+answer.candidates.own={_target_:mtrec.Own,count:5}"],
            "answer.candidates.own must be left out where answer.filter.seen leaves none",
        ),
        (
            ["answer=diverse", "answer.arrange.at_most=2"],
            "answer.arrange.of must name a column of the items",
        ),
        (
            ["answer=diverse", "answer.arrange.at_most=2", "answer.arrange.of=kind"],
            "answer.arrange.of must name a column of the items (item_id",
        ),
    ],
)
def test_an_answer_that_cannot_be_made_is_refused_by_its_keys(run, overrides, sentence):
    config = config_of(*SMALL, *overrides)
    held_out = evaluator_of("val", run.dataset, run.parts).held_out
    with pytest.raises(UserError) as refused:
        answers.check(config, replace(run, answer=PLAIN), held_out)
    assert sentence in str(refused.value)


def test_what_is_named_in_the_config_is_what_a_run_answers_with(run):
    held_out = evaluator_of("val", run.dataset, run.parts).held_out
    config = config_of(*SMALL, "answer=fused", "answer.filter.where='price<20'")
    answers.check(config, run, held_out)
    made = build.answer(config)
    assert made.fuse == RankSum(weights={"retrieval": 1.0, "rating": None}, tuned_by="ndcg_at_10")
    assert made.filter.where == "price<20"
    assert build.answer(config_of(*SMALL)) == replace(
        PLAIN, filter=Filter(**NO_FILTER | {"deny": []})
    )
