"""Heads of a user's own are mined for, served and reported by what they say of themselves."""

from io import StringIO
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from silent import Silent
from small_batch import batches_of, pairs_of
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import implicit_squared, recommender, softmax
from small_negatives import in_batch

import mtrec
from mtrec.distributed.traffic import Sent
from mtrec.errors import UserError
from mtrec.heads.metrics import better
from mtrec.heads.tally import PerUser
from mtrec.jobs import build, footprint, stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.progress import Reporter
from mtrec.jobs.restore import restore_run
from mtrec.model.encode import embed_items, embed_users
from mtrec.serving.recommend import recommend
from mtrec.tracking import run_dir
from mtrec.training.mined_negatives import Miner

ITEMS = 50


class Taste(mtrec.Head):
    """Ranks by `<2 u, 2 v>`, told from a pool that it makes itself; users have what they liked."""

    ranks = True

    def __init__(self, *, dim, mined=2):
        super().__init__(dim=dim)
        self.negatives = in_batch(mined=mined)

    def adapt(self, dataset, fit, *, name, seed):
        pass

    def taken(self, dataset, *, name):
        return dataset.label("rating", named_by=name) >= 3

    def embed(self, representation):
        return 2 * representation

    def sends(self, batch, *, width, replicas):
        return [Sent(1024.0 * replicas * width * len(batch.pool.items), "tastes")]

    def losses(self, examples):
        batch, query = examples.batch, self.embed(examples.query)
        chosen = tf.gather(examples.item, batch.rows.item)
        score = tf.reduce_sum(tf.gather(query, batch.rows.query) * self.embed(chosen), axis=1)
        other = tf.reduce_mean(query @ tf.transpose(self.embed(examples.pool)), axis=1)
        lead = score - tf.gather(other, batch.rows.query)
        return tf.math.softplus(-lead), batch.rows.weight

    def measure(self, held_out, query, candidate, *, full):
        return {"lead": np.sum(query[held_out.owner] * candidate[held_out.item - 1], axis=1)}

    def per_user(self, held_out, measured):
        return PerUser.summed(measured, held_out.owner, len(held_out.users))


class Verdict(mtrec.Head):
    """Tells of a pair a verdict, `<p, q> + 3`, and how sure it is, `|p|`."""

    rates = True

    def adapt(self, dataset, fit, *, name, seed):
        pass

    def score_pairs(self, query, candidate, pairs, *, name):
        verdict = 3 + tf.reduce_sum(query * candidate, axis=1)
        return {name: verdict, f"{name}_sure": tf.norm(query, axis=1)}

    def losses(self, examples):
        batch = examples.batch
        pairs = (
            tf.gather(examples.query, batch.rows.query),
            tf.gather(examples.item, batch.rows.item),
        )
        error = self.score_pairs(*pairs, None, name="it")["it"] - batch.rows.labels["rating"]
        known = tf.math.is_finite(error)
        return tf.where(known, error, 0.0) ** 2, tf.where(known, batch.rows.weight, 0.0)

    def measure(self, held_out, query, candidate, *, full):
        verdict = 3 + np.sum(query[held_out.owner] * candidate[held_out.item - 1], axis=1)
        return {"mae": np.abs(verdict - held_out.labels["rating"])}

    def per_user(self, held_out, measured):
        known = np.isfinite(measured["mae"])
        owner = held_out.owner[known]
        return PerUser.summed({"mae": measured["mae"][known]}, owner, len(held_out.users))


OURS_LEFT_OUT = ("task.weights.retrieval=0", "task.weights.rating=0")
FOREIGN = (
    f"+task.heads.taste={{_target_: {__name__}.Taste, dim: 8}}",
    "+task.weights.taste=1",
    f"+task.heads.verdict={{_target_: {__name__}.Verdict, dim: 4}}",
    "+task.weights.verdict=1",
    "train.select_by=val/taste/lead",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, with nothing but heads of one's own, from YAML."""
    directory = tmp_path_factory.mktemp("job")
    config = config_of(*SMALL, *OURS_LEFT_OUT, *FOREIGN, "train.epochs=2", "index=exact")
    dataset, parts = load(config.data)
    worker.train(config, dataset, parts, directory, Silent())
    return config, restore_run(config, dataset, parts, directory)


def test_users_have_what_a_head_says_they_have(trained):
    config, _ = trained
    dataset, _ = load(config.data)
    liked = dataset.interactions["rating"] >= 3
    assert 0 < liked.sum() < len(liked)
    assert build.data(config, dataset).taken.tolist() == liked.tolist()


def test_recommendations_are_the_best_scores_of_what_is_embedded(trained):
    config, run = trained
    index = stages.index(run, run.retrieval, build.index_builder(config))
    stages.export(run, index)
    served = tf.saved_model.load(str(run.directory / run_dir.MODEL)).signatures
    users = np.array([5, 9])
    query, candidate = embed_users(run.model, users, run.known), embed_items(run.model, ITEMS)
    scores = 4 * query["taste"] @ candidate["taste"].T
    for row, user in enumerate(users):
        scores[row, run.known.of_user(user) - 1] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :3]
    verdicts = 3 + np.sum(query["verdict"][:, None] * candidate["verdict"][best], axis=2)

    user_ids = run.dataset.users["user_id"][users].tolist()
    found = served["recommend"](user_id=tf.constant(user_ids), k=tf.constant(3))
    assert found["item_id"].numpy().astype(str).tolist() == [
        run.item_ids[row].tolist() for row in best
    ]
    np.testing.assert_allclose(
        found["score"], np.take_along_axis(scores, best, axis=1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(found["rating"], verdicts, rtol=1e-4)
    here = recommend(run, index, user_ids[0], k=3)
    assert [item.item_id for item in here] == run.item_ids[best[0]].tolist()
    np.testing.assert_allclose([item.rating for item in here], verdicts[0], rtol=1e-4)

    pair = {"user_id": user_ids[:1], "item_id": run.item_ids[best[0, :1]].tolist()}
    told = served["score_pairs"](**{name: tf.constant(ids) for name, ids in pair.items()})
    assert set(told) == {"known", "score", "rating", "rating_sure"}
    np.testing.assert_allclose(told["score"], scores[0, best[0, :1]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(told["rating"], verdicts[0, :1], rtol=1e-4)
    sure = np.linalg.norm(query["verdict"][0])
    np.testing.assert_allclose(told["rating_sure"], [sure], rtol=1e-4)


def test_the_start_up_report_states_what_a_head_says_it_sends(trained):
    config, run = trained
    fit = run.parts.fit
    batches = build.batches(config, run.dataset, fit, run.model.heads, 1)
    assert batches.negatives is run.model.heads["taste"].negatives
    (batch,) = batches.step(1, 0)
    optimizers = build.optimizers(config, 1)
    four = SimpleNamespace(num_replicas_in_sync=4, cluster_resolver=None)
    lines = footprint.describe(run.model, optimizers, four, batch).splitlines()

    # Kilobytes for each of 4 replicas, 8 numbers and the pool's items.
    size, pool = 4 * 8, len(batch.pool.items)
    assert f"  taste: {size * pool / 1024:,.1f} MiB of tastes" in lines
    # Its pool's items are looked up in the shared table beside those of rows and histories.
    rows = len(batch.items) * 2 + pool
    shared = next(line for line in lines if "candidate_shared_item_id" in line)
    width = run.model.query.output_dim
    assert f"a step sends {3 * rows * 4 * (width + 1) / 1024:,.1f} KiB replicated" in shared


def test_a_metric_that_only_the_head_knows_is_told_and_one_without_a_baseline_stands_alone(trained):
    _, run = trained
    metrics, reports = stages.evaluate(run)
    console = Console(file=StringIO(), width=100)
    tracker = MagicMock(run_dir=run.directory)
    reporter = Reporter(
        tracker, SimpleNamespace(console=console, begin=0, advance=0, end=0, should_stop=0)
    )
    of_epoch = {
        "epoch": 1.0,
        "selected": 1.0,
        "train/taste/loss": 0.5,
        "train/verdict/loss": 0.25,
        "train/seconds": 2.0,
        "val/taste/lead": 0.75,
        "val/verdict/mae": 1.5,
    }
    reporter.training(1).on_epoch(of_epoch)
    reporter.evaluation([of_epoch], metrics, reports)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines == [
        "epoch 1/1 taste loss 0.5000 val lead 0.7500 verdict loss 0.2500 val mae 1.5000 2.0 s",
        "selected epoch 1 of 1",
        "test model baseline",
        f"test/taste/lead {metrics['test/taste/lead']:.4f}",
        f"test/verdict/mae {metrics['test/verdict/mae']:.4f}",
    ]


@pytest.mark.parametrize(
    ("metric", "falls"),
    [("poisson_loss", True), ("rmse_of_some", True), ("val/watch/error", True), ("lead", False)],
)
def test_the_name_of_a_metric_says_which_way_is_better(metric, falls):
    assert better(metric, new=1.0, old=2.0) is falls
    assert better(metric, new=2.0, old=1.0) is not falls


def mined(heads, negatives):
    data = planted()
    model = recommender(data, heads)
    batches = batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=8,
        history_share=0.5,
        chronological=False,
        negatives=negatives,
        num_replicas=1,
        seed=0,
    )
    return Miner(model, batches, tf.distribute.get_strategy()), model, batches


def test_what_is_mined_is_the_best_of_what_a_head_embeds():
    taste = Taste(dim=6, mined=4)
    miner, model, batches = mined({"verdict": Verdict(dim=4), "taste": taste}, taste.negatives)
    miner.search()

    query = embed_users(model, np.array([7]), batches.known)["taste"][0]
    scores = embed_items(model, 30)["taste"] @ query
    scores[batches.known.of_user(7) - 1] = -np.inf
    assert miner.lists.numpy()[7].tolist() == (1 + np.argsort(-scores)[:4]).tolist()


def test_mining_where_no_head_ranks_is_refused():
    taste = Taste(dim=6, mined=4)
    taste.ranks = False
    with pytest.raises(UserError, match=r"`negatives.mined` must be 0 .*; taste do not; got 4"):
        mined({"taste": taste}, taste.negatives)


def test_a_pool_that_a_head_makes_itself_is_no_other_head_s():
    softmax_too = ("head@task.heads.retrieval=softmax", "task.weights.rating=0", *FOREIGN)
    config = config_of(*SMALL, *softmax_too)
    data = planted()
    heads = {"retrieval": softmax(), "taste": Taste(dim=8)}
    with pytest.raises(UserError, match=r"heads retrieval, taste must have the same negatives"):
        build.batches(config, data, all_rows(data), heads, 1)


def test_a_head_that_says_nothing_has_no_say():
    silent = mtrec.Binary(label="rating", dim=2, members=1, layers=[], l2=0.0, at_least=4)
    assert (silent.negatives, silent.ranks, silent.rates) == (None, False, False)
    assert silent.taken(planted(), name="liked") is None
    assert silent.sends({}, width=2, replicas=4) == []
    said = implicit_squared()
    nothing = mtrec.Head.score_pairs(
        said, *[tf.zeros((1, 2))] * 2, pairs_of([1], [1]), name="retrieval"
    )
    assert nothing == {}
