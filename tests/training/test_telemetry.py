"""Telemetry tells what gradients and updates are, and changes neither."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_batch import batches_of
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import recommender

from mtrec.heads.head import Head
from mtrec.jobs import worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.training.balance import Fixed
from mtrec.training.optimizers import LazyAdam
from mtrec.training.packed import pack
from mtrec.training.step import Optimizers, Step


class Product(Head):
    """A head that wants `sign` times the dot product of user and item to be small."""

    def __init__(self, sign):
        super().__init__(dim=None)
        self.sign = sign

    def adapt(self, dataset, fit, *, name, seed):
        self.built = True

    def losses(self, examples):
        batch = examples.batch
        query = tf.gather(examples.query, batch.rows.query)
        item = tf.gather(examples.item, batch.rows.item)
        return self.sign * tf.reduce_sum(query * item, axis=-1), batch.rows.weight


def observed(signs, weights):
    """The telemetry of a first step, and how far it moved each table."""
    data = planted()
    model = recommender(data, {name: Product(sign) for name, sign in signs.items()})
    batches = batches_of(
        data,
        all_rows(data),
        batch_of="users",
        global_batch=16,
        history_share=0.6,
        chronological=False,
        negatives=None,
        num_replicas=1,
        seed=3,
    )
    balancer = Fixed()
    balancer.adapt(weights, steps_per_epoch=batches.steps_per_epoch, seed=0)
    optimizers = Optimizers(
        tables=LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        dense=keras.optimizers.Adam(0.01),
    )
    step = Step(model, balancer, optimizers, tf.distribute.get_strategy())
    before = [table.numpy() for table in step.tables]
    telemetry = step({0: pack(batches.step(1, 0))}, observe=True).telemetry
    moved = {
        f"update/{table.path.rsplit('/', 1)[0]}/norm": np.linalg.norm(table.numpy() - old)
        for table, old in zip(step.tables, before, strict=True)
    }
    return telemetry, moved


@pytest.mark.parametrize(("sign", "cosine"), [(-1.0, -1.0), (1.0, 1.0)])
def test_opposed_heads_read_minus_one_and_equal_ones_one(sign, cosine):
    telemetry, _ = observed({"a": 1.0, "b": sign}, {"a": 1.0, "b": 0.5})

    assert telemetry["gradient/a/b/cosine"] == pytest.approx(cosine, abs=1e-6)
    # At their weights: the second is half as long.
    assert telemetry["gradient/a/norm"] > 0
    assert telemetry["gradient/b/norm"] == pytest.approx(telemetry["gradient/a/norm"] / 2)


def test_an_update_is_as_long_as_the_table_s_change():
    telemetry, moved = observed({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})

    assert moved
    assert max(moved.values()) > 0
    for name, length in moved.items():
        assert telemetry[name] == pytest.approx(length, rel=1e-5)


def trained(directory, *overrides):
    """The history of a small job and its selected weights."""
    config = config_of(*SMALL, "train.epochs=3", *overrides)
    data, parts = load(config.data)
    history = worker.train(config, data, parts, directory, Silent())
    weights = restore_run(config, data, parts, directory).model.weights
    return history, [(weight.path, weight.numpy()) for weight in weights]


def assert_equal(one, other, *, atol=0.0):
    assert [path for path, _ in one] == [path for path, _ in other]
    for (path, a), (_, b) in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=path)


def test_looking_at_every_second_step_changes_weights_by_rounding_alone(tmp_path):
    unseen, plain = trained(tmp_path / "a", "train.telemetry_every=null")
    seen, watched = trained(tmp_path / "b", "train.telemetry_every=2")

    assert not any(name.startswith("gradient/") for name in unseen[0])
    assert all("gradient/retrieval/rating/cosine" in metrics for metrics in seen)
    # TensorFlow compiles a step that is observed apart, and may add in another order.
    assert_equal(plain, watched, atol=1e-6)


def test_a_task_of_weight_zero_leaves_no_trace(tmp_path):
    _, alone = trained(tmp_path / "a", "task=retrieval")
    _, joint = trained(tmp_path / "b", "task=joint", "task.weights.rating=0")

    assert_equal(alone, joint)
