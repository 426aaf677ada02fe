"""Many tasks from one stream, each with its own rows and label, from YAML alone."""

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from silent import Silent
from small_config import config_of

from mtrec.jobs import progress, stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.tracking import run_dir

TASKS = (
    "data=table",
    "data.rating=null",
    "data.labels=[clicked,seconds,stars]",
    "task=retrieval",
    "train.epochs=2",
    "train.global_batch=30",
    # Two retrieval heads with different positives.
    "+head@task.heads.bought=softmax",
    "negatives@task.heads.bought.negatives=catalogue",
    "task.heads.bought.label=clicked",
    "+task.weights.bought=0.5",
    "+head@task.heads.click=binary",
    "task.heads.click.label=clicked",
    "task.heads.click.at_least=1",
    "task.heads.click.sampling_rate=0.5",
    "+task.weights.click=0.5",
    "+head@task.heads.watch=rating",
    "task.heads.watch.label=seconds",
    "+task.weights.watch=0.1",
    "+head@task.heads.order=ranking",
    "task.heads.order.label=seconds",
    "+task.weights.order=0.1",
    "+head@task.heads.stars=ordinal",
    "task.heads.stars.label=stars",
    "+task.weights.stars=0.1",
    # One that no held-out row judges, and a second feature for it to compare.
    "+head@task.heads.similar=contrastive",
    "+task.weights.similar=0.1",
    "+data.features.candidate.shared.bin={_target_: mtrec.Hashed, column: item_id, bins: 7}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    seconds = np.where(rng.random(1500) < 0.4, rng.gamma(2, 20, 1500), np.nan)
    log = {
        "user_id": rng.integers(0, 60, 1500),
        "item_id": rng.integers(0, 40, 1500),
        "timestamp": np.arange(1500),
        "clicked": (rng.random(1500) < 0.3).astype(float),
        "seconds": seconds,
        "stars": rng.integers(1, 6, 1500),
    }
    pd.DataFrame(log).to_parquet(directory / "log.parquet")
    config = config_of(
        *TASKS,
        f"data.interactions={directory / 'log.parquet'}",
        f"data.cache_dir={directory / 'cache'}",
    )
    data, parts = load(config.data)
    history = worker.train(config, data, parts, directory, Silent())
    return restore_run(config, data, parts, directory), history


def test_every_task_is_trained_and_measured_by_its_own_metrics(trained):
    job, _ = trained
    metrics, reports = stages.evaluate(job)

    for name in (
        *("retrieval/ndcg_at_10", "bought/ndcg_at_10"),
        *("click/auc", "watch/rmse", "stars/log_loss", "stars/spread_ratio"),
    ):
        assert np.isfinite(metrics[f"test/{name}"])
        assert np.isfinite(metrics[f"baseline/test/{name}"])
    assert 0 < metrics["test/order/pairs_in_order"] < 1
    # Of the retrieval heads, one judges by three rows in ten.
    judged = [reports[name].per_user.count.sum() for name in ("bought", "retrieval")]
    assert 0 < judged[0] < judged[1]


def test_each_head_has_its_figures(trained):
    job, history = trained
    metrics, reports = stages.evaluate(job)
    drawn = dict(progress._figures(history, 1, metrics, reports))

    assert set(drawn) == {
        *("loss_curves", "slices", "slices_bought", "slices_stars"),
        *("recall_curve", "recall_curve_bought"),
        *("calibration", "calibration_watch", "calibration_stars"),
        *("predicted_against_true", "predicted_against_true_stars", "spread"),
    }
    assert all(isinstance(figure, matplotlib.figure.Figure) for figure in drawn.values())


def test_the_exported_model_tells_what_each_head_says_of_a_pair(trained):
    job, _ = trained
    stages.export(job, None)
    model = tf.saved_model.load(str(job.directory / run_dir.MODEL))
    found = model.signatures["score_pairs"](
        user_id=tf.constant(["7", "nobody"]), item_id=tf.constant(["3", "3"])
    )

    assert set(found) == {
        *("known", "score", "rating", "click", "order"),
        *("stars", "stars_spread"),
    }
    assert found["known"].numpy().tolist() == [True, False]
    assert np.all(found["stars_spread"].numpy() > 0.5)
    assert np.all((found["click"].numpy() > 0) & (found["click"].numpy() < 1))
