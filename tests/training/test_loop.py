"""Training finds what is there, stops when told to, and keeps the right model."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_batch import as_tensors, asked, batches_of
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import implicit_squared, rating, recommender, softmax
from small_negatives import in_batch

from mtrec.data import progress
from mtrec.data.schedule import Schedule
from mtrec.errors import PreemptedError, UserError
from mtrec.heads.head import Examples
from mtrec.jobs import build, worker
from mtrec.jobs.load import load
from mtrec.training.balance import Fixed
from mtrec.training.checkpoint import is_selected, read_selected
from mtrec.training.evaluate import Evaluator, flat_metrics
from mtrec.training.loop import better, fit
from mtrec.training.optimizers import LazyAdam
from mtrec.training.packed import pack
from mtrec.training.step import Optimizers, Step

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data():
    return planted()


class Job:
    """A small job; each attribute is what `fit` takes."""

    def __init__(
        self,
        data,
        heads=None,
        *,
        rows=None,
        rate=0.05,
        batch_of="users",
        dropout=None,
        pooling="sqrtn",
        **schedule,
    ):
        self.rows = all_rows(data) if rows is None else rows
        heads = heads or {"rating": rating()}
        self.model = recommender(data, heads, fit=self.rows, dropout=dropout, pooling=pooling)
        self.optimizers = Optimizers(
            tables=LazyAdam(learning_rate=rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
            dense=keras.optimizers.Adam(rate),
        )
        asked = [h.negatives for h in self.model.heads.values() if h.negatives is not None]
        self.batches = batches_of(
            data,
            self.rows,
            batch_of=batch_of,
            global_batch=16,
            history_share=0.6,
            chronological=False,
            negatives=asked[0] if asked else None,
            num_replicas=1,
            seed=3,
        )
        self.balancer = Fixed()
        self.balancer.adapt(
            dict.fromkeys(self.model.heads, 1.0),
            steps_per_epoch=self.batches.steps_per_epoch,
            seed=0,
        )
        self.schedule = Schedule(
            **{
                "epochs": 3,
                "max_steps": None,
                "steps_per_call": 1,
                "encode_at_once": None,
                "telemetry_every": None,
                "checkpoint_every": None,
                "patience": None,
                "select_by": "val/score",
                **schedule,
            }
        )

    def fit(self, directory, scores=(), *, validate=None, on_epoch=None, stop=lambda: False):
        """Trains; the validation scores of the epochs are given, and 0 after those."""
        given = iter(scores)
        self.weights = []

        def scripted():
            self.weights.append([w.numpy() for w in self.model.weights])
            return {"val/score": next(given, 0.0)}

        return fit(
            self.model,
            self.batches,
            balancer=self.balancer,
            optimizers=self.optimizers,
            strategy=tf.distribute.get_strategy(),
            schedule=self.schedule,
            validate=validate or scripted,
            checkpoints=directory,
            on_epoch=on_epoch or (lambda metrics: None),
            stop=stop,
        )


def weights_of(model):
    return [w.numpy() for w in model.weights]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_planted_factors_are_found(tmp_path):
    data = planted(num_users=150, num_items=150, num_interactions=5000, rating_share=1.0)
    rows, held_out = np.split(np.random.default_rng(0).permutation(5000), [4000])
    heads = {"retrieval": implicit_squared(), "rating": rating()}
    key = "val/retrieval/ndcg_at_10"
    job = Job(data, heads, rows=rows, rate=0.02, epochs=10, steps_per_call=5, select_by=key)
    judge = Evaluator(data, known=rows, held_out=held_out)
    history = job.fit(
        tmp_path,
        validate=lambda: flat_metrics(judge(job.model, full=False), "val"),
    )

    flat = flat_metrics(judge(job.model, full=True), "val")
    for head in heads:
        losses = [metrics[f"train/{head}/loss"] for metrics in history]
        assert losses[-1] < 0.8 * losses[0]
    popular = flat["baseline/val/retrieval/recall_at_10"]
    assert flat["val/retrieval/recall_at_10"] > 1.1 * popular
    assert flat["val/rating/rmse"] < 0.75 * flat["baseline/val/rating/rmse"]


def test_a_step_returns_the_mean_loss_of_each_task_before_it_moves(data):
    job = Job(data, {"rating": rating(), "softmax": softmax()})
    step = Step(job.model, job.balancer, job.optimizers, tf.distribute.get_strategy())
    (batch,) = job.batches.step(1, 2)
    batch_tensors = as_tensors(batch)
    query = job.model.queries(batch.query)
    item, pool = job.model.candidates(batch.items), job.model.candidates(batch.pool.items)
    expected = []
    for name, head in job.model.heads.items():
        given = Examples(query=query[name], item=item[name], pool=pool[name], batch=batch_tensors)
        losses, mask = head.losses(given)
        expected.append(np.mean(losses.numpy()[mask.numpy() == 1]))
    before = weights_of(job.model)

    found = step({0: pack([batch])}).losses
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    changed = [(a != b.numpy()).any() for a, b in zip(before, job.model.weights, strict=True)]
    # Every query of the batch has a history.
    needless = [weight.name.endswith("_nothing") for weight in job.model.weights]
    assert changed == [not n for n in needless]


def test_rows_that_no_batch_names_stay_where_they_are(data):
    rows = np.flatnonzero(data.interactions["user"] <= 10)
    job = Job(data, rows=rows)
    before = weights_of(job.model)
    step = Step(job.model, job.balancer, job.optimizers, tf.distribute.get_strategy())
    for epoch in range(1, 4):
        step({0: pack(job.batches.step(epoch, 0))})

    for old, weight in zip(before, job.model.weights, strict=True):
        if weight.path.startswith(("rating_user_bias", "query_rating_user_id")):
            moved = np.flatnonzero((old != weight.numpy()).any(axis=1))
            assert moved.tolist() == sorted(set(data.interactions["user"][rows]))
        elif weight.shape[:1] == (31,):
            assert not (old[0] != weight.numpy()[0]).any()  # the unknown item


def test_the_best_epoch_is_selected_and_read_back(data, tmp_path):
    job = Job(data, {"rating": rating(layers=[3]), "retrieval": implicit_squared()}, epochs=4)
    history = job.fit(tmp_path, [0.1, 0.5, 0.5, 0.2])

    assert [metrics["selected"] for metrics in history] == [0, 1, 0, 0]
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3, 4]
    for weight in job.model.weights:
        weight.assign(weight + 1.0)
    read_selected(tmp_path, model=job.model.weights)
    assert_same(weights_of(job.model), job.weights[1])
    assert (job.weights[1][0] != job.weights[3][0]).any()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"max_steps": 0}, "`max_steps` must be at least 1, or null; got 0"),
        ({"checkpoint_every": "0s"}, "`checkpoint_every` must be steps"),
        ({"select_by": None}, "`patience` must be null with `select_by`=null: .*; got 2"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_its_argument(changed, sentence):
    schedule = Schedule(
        epochs=1,
        max_steps=None,
        encode_at_once=None,
        steps_per_call=1,
        telemetry_every=None,
        checkpoint_every=None,
        patience=2,
        select_by="val/rating/rmse",
    )
    with pytest.raises(UserError, match=sentence):
        replace(schedule, **changed)


def test_errors_are_better_when_lower():
    assert better("val/rating/rmse", 0.9, 1.0)
    assert not better("val/rating/rmse", 1.0, 0.9)
    assert better("val/retrieval/ndcg_at_10", 0.4, 0.3)
    assert not better("val/retrieval/ndcg_at_10", 0.3, 0.3)


def test_a_metric_that_is_not_a_number_is_never_the_best(data, tmp_path):
    nan = float("nan")
    history = Job(data, epochs=9, patience=2).fit(tmp_path, [nan, 0.3, nan, 0.2])

    assert [metrics["selected"] for metrics in history] == [0, 1, 0, 0]
    assert not better("val/rating/rmse", nan, 1.0)
    assert better("val/rating/rmse", 1.0, nan)
    assert not better("val/rating/rmse", nan, nan)


def test_the_training_loss_is_a_mean_over_the_steps_in_which_a_task_had_rows(data, tmp_path):
    scarce = planted()
    stars = scarce.interactions["rating"]
    stars[scarce.interactions["user"] != 7] = np.nan
    (metrics,) = Job(scarce, epochs=1).fit(tmp_path)
    other = Job(scarce)
    step = Step(other.model, other.balancer, other.optimizers, tf.distribute.get_strategy())
    taken = [step({0: pack(other.batches.step(1, k))}) for k in range(3)]
    losses = [found.losses[0, 0] for found in taken if found.rows[0, 0]]

    assert len(losses) == 1
    assert metrics["train/rating/loss"] == pytest.approx(losses[0], rel=1e-5)


def test_the_context_of_users_who_are_no_moment_is_refused(data, tmp_path):
    job = Job(data)
    job.model.query.contexts = ["query/shared/hour"]

    with pytest.raises(UserError, match=r"`batch_of` must be requests or rows where a feature"):
        job.fit(tmp_path)


def test_tables_whose_optimizer_clips_are_refused(data):
    job = Job(data)
    tables = keras.optimizers.Adam(0.1, clipnorm=1.0)
    with pytest.raises(UserError, match=r"`tables` must not clip gradients: got clipnorm"):
        Step(
            job.model,
            job.balancer,
            Optimizers(tables=tables, dense=job.optimizers.dense),
            tf.distribute.get_strategy(),
        )


def test_the_lowest_error_is_selected(data, tmp_path):
    errors = iter([3.0, 2.0, 2.5])
    job = Job(data, select_by="val/rating/rmse")
    history = job.fit(tmp_path, validate=lambda: {"val/rating/rmse": next(errors)})

    assert [metrics["selected"] for metrics in history] == [0, 1, 0]


def test_patience_ends_training_when_nothing_gets_better(data, tmp_path):
    job = Job(data, epochs=9, patience=2)
    history = job.fit(tmp_path, [0.1, 0.3, 0.2, 0.3, 0.9])

    assert [metrics["val/score"] for metrics in history] == [0.1, 0.3, 0.2, 0.3]
    assert history[1]["selected"] == 1


def test_training_stops_within_an_epoch_at_max_steps(data, tmp_path):
    # 40 users in batches of 16 are 3 steps an epoch.
    job = Job(data, epochs=9, max_steps=4, steps_per_call=2)
    history = job.fit(tmp_path, scores=[0.0, 1.0])

    assert [metrics["step"] for metrics in history] == [3, 4]
    assert job.optimizers.dense.iterations.numpy() == 4


def test_steps_per_call_changes_nothing(data, tmp_path):
    losses, weights = [], []
    for steps in (1, 4):
        job = Job(
            data,
            {"retrieval": implicit_squared(), "rating": rating()},
            batch_of="rows",
            epochs=1,
            max_steps=10,
            steps_per_call=steps,
        )
        (metrics,) = job.fit(tmp_path / str(steps))
        losses.append([metrics["train/retrieval/loss"], metrics["train/rating/loss"]])
        weights.append(job.weights[0])

    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    for one, four in zip(*weights, strict=True):
        np.testing.assert_allclose(one, four, atol=1e-6)


def test_the_reported_loss_is_the_mean_over_the_steps(data, tmp_path):
    job = Job(data, epochs=1, steps_per_call=2)
    (metrics,) = job.fit(tmp_path)
    other = Job(data)
    step = Step(other.model, other.balancer, other.optimizers, tf.distribute.get_strategy())
    each = [step({0: pack(other.batches.step(1, k))}).losses[0, 0] for k in range(3)]

    assert metrics["train/rating/loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert metrics["train/rating/weight"] == 1.0


def test_a_loss_that_is_not_finite_is_named_and_ends_training(data, tmp_path):
    job = Job(data, {"retrieval": implicit_squared(), "rating": rating()}, epochs=3)

    def spoil(metrics):
        job.model.heads["rating"].start.assign(np.inf)

    with pytest.raises(UserError, match=r"task 'rating' is inf in step 0 of epoch 2"):
        job.fit(tmp_path, on_epoch=spoil)
    assert not is_selected(tmp_path)
    # The state after the first epoch is whole.
    again = Job(data, {"retrieval": implicit_squared(), "rating": rating()}, epochs=1)
    again.fit(tmp_path)
    assert_same(weights_of(again.model), job.weights[0])


def test_without_a_metric_to_select_by_the_last_epoch_is_kept(data, tmp_path):
    job = Job(data, select_by=None)
    history = job.fit(tmp_path, [3.0, 2.0, 1.0])

    assert [metrics["selected"] for metrics in history] == [0.0, 0.0, 1.0]
    assert_same(weights_of(job.model), job.weights[2])


def test_without_validation_no_metric_can_select(data, tmp_path):
    with pytest.raises(UserError, match=r"`select_by` must be null where validation holds out"):
        Job(data).fit(tmp_path, validate=dict)


def test_a_metric_that_is_not_there_cannot_select(data, tmp_path):
    with pytest.raises(
        UserError, match=r"must be one of val/score, or null, .*; got val/rating/rmse"
    ):
        Job(data, select_by="val/rating/rmse").fit(tmp_path)


def test_a_metric_that_is_not_a_number_in_any_epoch_selects_none(data, tmp_path):
    with pytest.raises(UserError, match=r"`select_by` must be a metric that validation can tell"):
        Job(data, epochs=2).fit(tmp_path, [float("nan")] * 2)


# After the last step of the first epoch, which is validated later, and after the next step.
@pytest.mark.parametrize(("stopped_at", "left"), [(3, [0.1, 0.2, 0.3]), (4, [0.2, 0.3])])
def test_a_job_that_was_stopped_goes_on_as_if_it_had_not(data, tmp_path, stopped_at, left):
    straight = Job(data, epochs=3)
    history = straight.fit(tmp_path / "straight", [0.1, 0.2, 0.3])
    calls = iter(range(1, 100))
    first = Job(data, epochs=3)
    with pytest.raises(PreemptedError):
        first.fit(tmp_path / "cut", [0.1], stop=lambda: next(calls) == stopped_at)

    second = Job(data, epochs=3)
    seen = []
    resumed = second.fit(tmp_path / "cut", left, on_epoch=seen.append)
    assert_same(weights_of(second.model), weights_of(straight.model))
    for one, other in zip(history, resumed, strict=True):
        for name in ("epoch", "step", "train/rating/loss", "val/score", "selected"):
            assert one[name] == other[name], name
    assert [metrics["epoch"] for metrics in seen] == [1, 2, 3]


def test_a_checkpoint_within_an_epoch_is_gone_on_from(data, tmp_path):
    straight = Job(data, epochs=2, select_by=None)
    straight.fit(tmp_path / "straight")
    first = Job(data, epochs=2, select_by=None, checkpoint_every="2")
    calls = iter(range(1, 100))

    def killed():
        if next(calls) == 6:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        first.fit(tmp_path / "cut", stop=killed)
    assert {p.name for p in (tmp_path / "cut").iterdir()} >= {"step-00000003", "step-00000004"}
    second = Job(data, epochs=2, select_by=None)
    second.fit(tmp_path / "cut")
    assert_same(weights_of(second.model), weights_of(straight.model))


def mining():
    """What a job that mines is made with."""
    heads = {"retrieval": softmax(pool=in_batch(mined=3))}
    return {"heads": heads, "epochs": 4, "select_by": None}


# After the last step of the second epoch, before the search, and within the third.
@pytest.mark.parametrize("stopped_at", [6, 7, 8])
def test_a_job_goes_on_with_what_was_mined_for_its_epoch(data, tmp_path, stopped_at):
    straight = Job(data, **mining())
    straight.fit(tmp_path / "straight")
    calls = iter(range(1, 100))
    with pytest.raises(PreemptedError):
        Job(data, **mining()).fit(tmp_path / "cut", stop=lambda: next(calls) == stopped_at)
    second = Job(data, **mining())
    second.fit(tmp_path / "cut")

    assert_same(weights_of(second.model), weights_of(straight.model))


def test_a_job_that_is_stopped_while_it_mines_validates_and_mines_when_it_goes_on(data, tmp_path):
    straight = Job(data, **mining())
    history = straight.fit(tmp_path / "straight", [0.1, 0.2])
    cut, validated = Job(data, **mining()), []

    class StopsInMining(Silent):
        def should_stop(self):
            return len(validated) == 2

    def validate():
        validated.append(0.1 * (len(validated) + 1))
        return {"val/score": validated[-1]}

    with (
        progress.followed_by(StopsInMining()),
        pytest.raises(PreemptedError, match="stopped during mining"),
    ):
        cut.fit(tmp_path / "cut", validate=validate)
    second = Job(data, **mining())
    found = second.fit(tmp_path / "cut", [0.2])

    assert_same(weights_of(second.model), weights_of(straight.model))
    assert [m["val/score"] for m in found] == [m["val/score"] for m in history]


def test_items_are_mined_for_every_epoch_but_the_first(data, tmp_path):
    weights, pools = {}, {}
    for mined in (0, 3):
        job = Job(data, {"retrieval": softmax(pool=in_batch(mined=mined))}, select_by=None)
        job.fit(tmp_path / str(mined))
        weights[mined] = job.weights
        # What the next epoch's batches would have.
        pools[mined] = [set(job.batches.step(4, k)[0].pool.items) for k in range(3)]

    assert_same(weights[0][0], weights[3][0])
    moved = zip(job.model.weights, weights[0][1], weights[3][1], strict=True)
    # Every query has a history.
    assert all((a != b).any() for w, a, b in moved if not w.name.endswith("_nothing"))
    assert all(more >= less for more, less in zip(pools[3], pools[0], strict=True))
    assert pools[3] != pools[0]
    for mined, expected in ((0, []), (3, [[41, 3]])):
        latest = max((tmp_path / str(mined)).glob("step-*"))
        shapes = tf.train.load_checkpoint(str(latest / "weights")).get_variable_to_shape_map()
        assert [s for name, s in shapes.items() if name.startswith("negatives/")] == expected


def test_a_killed_job_leaves_the_checkpoints_of_one_that_was_not(data, tmp_path):
    settings = {"epochs": 6, "steps_per_call": 2, "checkpoint_every": "5", "select_by": None}
    straight = Job(data, **settings)
    straight.fit(tmp_path / "straight")
    for killed_in in (3, 7, 11):
        calls = iter(range(1, 100))

        def killed(calls=calls, killed_in=killed_in):
            if next(calls) == killed_in:
                raise KeyboardInterrupt
            return False

        with pytest.raises(KeyboardInterrupt):
            Job(data, **settings).fit(tmp_path / f"cut{killed_in}", stop=killed)
        Job(data, **settings).fit(tmp_path / f"cut{killed_in}")
        left = [{p.name for p in (tmp_path / d).iterdir()} for d in ("straight", f"cut{killed_in}")]
        assert left[0] == left[1], killed_in


def test_a_finished_job_has_nothing_left_to_do(data, tmp_path):
    first = Job(data, epochs=2)
    history = first.fit(tmp_path, [0.2, 0.1])
    again = Job(data, epochs=2)

    assert again.fit(tmp_path) == history
    assert again.optimizers.dense.iterations.numpy() == first.optimizers.dense.iterations.numpy()


class StopsAfterTraining(Silent):
    """Asks to stop once the first epoch is done."""

    done = False

    def on_epoch(self, metrics):
        self.done = True

    def should_stop(self):
        return self.done


def test_a_job_that_is_stopped_while_it_is_judged_is_judged_when_it_goes_on(tmp_path):
    config = config_of(*SMALL, "train.epochs=1")
    dataset, parts = load(config.data)
    with pytest.raises(PreemptedError, match="stopped after training, which is saved"):
        worker.train(config, dataset, parts, tmp_path, StopsAfterTraining())
    assert is_selected(tmp_path / "checkpoints")
    assert not (tmp_path / "measured").exists()

    (metrics,) = worker.train(config, dataset, parts, tmp_path, Silent())
    assert metrics["epoch"] == 1
    assert {path.name for path in (tmp_path / "measured").iterdir()} == {
        "val-000000.npz",
        "test-000000.npz",
    }


def built(*overrides):
    """A job's step and batches, built from its config."""
    config = config_of(*SMALL, *overrides)
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    optimizers = build.optimizers(config, batches.steps_per_epoch)
    step = Step(
        model,
        build.balancer(config, batches.steps_per_epoch),
        optimizers,
        tf.distribute.get_strategy(),
    )
    return step, batches


def losses_of(step, batches, count):
    found = []
    for number in range(count):
        epoch, k = divmod(number, batches.steps_per_epoch)
        found.append(step({0: pack(batches.step(epoch + 1, k))}).losses[0])
    return np.stack(found)


def test_a_head_of_weight_zero_costs_nothing_and_changes_nothing():
    joint, alone = built("task=joint", "task.weights.rating=0"), built("task=retrieval")
    ours, theirs = losses_of(*joint, 4), losses_of(*alone, 4)

    assert list(joint[0].model.heads) == ["retrieval"]
    np.testing.assert_array_equal(ours, theirs)
    assert_same(weights_of(joint[0].model), weights_of(alone[0].model))


# Written out, so that another default in conf/ is not another golden number.
GOLDEN = (
    "data.split.validation_share=0.05",
    "optimizer=lazy_adam",
    "optimizer.tables.learning_rate=0.01",
    "optimizer.dense.learning_rate=0.01",
    "model.query.dim=16",
    "model.sharing.query.layers=[16]",
    "model.query.stddev=0.05",
    "model.candidate.dim=16",
    "model.candidate.stddev=0.05",
    "train.epochs=10",
    "train.history_share=0.7",
    "data.features.query.shared.history.dropout=0.0",
    "task.weights.retrieval=1.0",
    "task.weights.rating=0.1",
    "task.heads.rating.dim=4",
    "task.heads.rating.layers=[]",
    "task.heads.rating.l2=0.05",
)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("joint", ["task=joint", "task.heads.retrieval.loss.all_pairs_weight=0.15"]),
        ("softmax", ["task=joint", "head@task.heads.retrieval=softmax", "train.batch_of=rows"]),
    ],
)
def test_the_first_losses_are_what_they_were(name, overrides):
    """A change of these numbers is a change of every model: say why in the commit.

    Delete the file and run the test to write it anew.
    """
    step, batches = built(*GOLDEN, *overrides)
    found = losses_of(step, batches, 10)
    losses = {
        head: [float(f"{loss:.7g}") for loss in found[:, place]]
        for place, head in enumerate(step.model.heads)
    }
    path = HERE.parent / "golden" / f"{name}_losses.json"
    if not path.exists():
        path.write_text(json.dumps(losses, indent=1) + "\n")
        pytest.fail(f"{path} was not there and has been written; look at it and run again")
    golden = json.loads(path.read_text())
    assert losses.keys() == golden.keys()
    for head, values in losses.items():
        np.testing.assert_allclose(values, golden[head], rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_new_user_is_served_with_the_row_that_dropped_ids_have_trained(data, tmp_path, dropout):
    job = Job(data, {"retrieval": implicit_squared(), "rating": rating()}, dropout=dropout)
    # The last batch has 8 of 16 users: padding looks row 0 up as well.
    job.fit(tmp_path)
    tables = [job.model.query.features[s]["user_id"].table for s in ("shared", "rating")]

    for table in tables:
        assert table.embeddings.numpy()[0].any() == (dropout > 0)
    captured = {}
    sharing = job.model.query.sharing
    job.model.query.sharing = lambda sums: captured.update(sums) or sharing(sums)
    job.model.queries(asked(tf.constant([0]), tf.constant([3]), tf.constant([0])))
    item = job.model.candidate.features["shared"]["item_id"].table.embeddings.numpy()[3]
    expected = item + tables[0].embeddings.numpy()[0]
    np.testing.assert_allclose(captured["shared"][0], expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "transformer"])
def test_a_pooling_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(data, tmp_path, pooling):
    heads = {"retrieval": implicit_squared}
    straight, first, second = (
        Job(data, {n: make() for n, make in heads.items()}, pooling=pooling, epochs=e, rate=0.01)
        for e in (4, 2, 4)
    )
    start = weights_of(straight.model)
    assert_same(weights_of(first.model), start)
    straight.fit(tmp_path / "straight", [0.1, 0.2, 0.3, 0.4])
    first.fit(tmp_path / "cut", [0.1, 0.2])
    second.fit(tmp_path / "cut", [0.3, 0.4])

    assert_same(weights_of(second.model), weights_of(straight.model))
    (pool,) = straight.model.query.poolings["shared"].values()
    moved = [w for w in straight.model.weights if any(w is mine for mine in pool.weights)]
    assert len(moved) == {"attention": 1 + 3, "transformer": 1 + 1 + 2 * 14}[pooling]
    for weight, before in zip(straight.model.weights, start, strict=True):
        assert (weight.numpy() != before).any(), weight.path


def saved_in(path):
    """Every variable of a checkpoint, by its name there."""
    reader = tf.train.load_checkpoint(str(path / "weights"))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def test_a_streaming_log_q_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(data, tmp_path):
    def job():
        heads = {"retrieval": implicit_squared(pool="streaming")}
        return Job(data, heads, batch_of="rows", epochs=1, max_steps=12, checkpoint_every="5")

    straight, first, second = job(), job(), job()
    straight.fit(tmp_path / "straight")
    calls = iter(range(1, 100))
    with pytest.raises(PreemptedError):
        first.fit(tmp_path / "cut", stop=lambda: next(calls) == 7)
    second.fit(tmp_path / "cut")

    assert_same(weights_of(second.model), weights_of(straight.model))
    ours, theirs = (saved_in(tmp_path / run / "step-00000012") for run in ("straight", "cut"))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(theirs[name], values, name)
    (last,) = (values for name, values in ours.items() if name.startswith("log_q/0_last"))
    assert sorted(set(last[1:])) == list(range(last[1:].min(), 13))
