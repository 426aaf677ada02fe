"""Every scheme through all stages of a job: trained, evaluated, indexed, exported, served."""

import math

import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_batch import pairs_of
from small_config import SMALL, config_of

from mtrec.jobs import stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import load_run
from mtrec.model.encode import embed_items, embed_users
from mtrec.serving.index import ExactBuilder
from mtrec.tracking import run_data, run_dir
from mtrec.training import measured


@pytest.mark.parametrize(
    "scheme",
    ["stem", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mmoe", "ple"))],
)
def test_what_is_served_is_what_was_trained(tmp_path, scheme):
    config = config_of(*SMALL, "train.epochs=2", f"model/sharing={scheme}")
    dataset, parts = load(config.data)
    run_dir.save_config(config, tmp_path)
    run_data.keep(dataset, parts, tmp_path)
    history = worker.train(config, dataset, parts, tmp_path, Silent())
    trained = load_run(tmp_path)
    metrics, _ = stages.evaluate(trained)
    # The saved model is judged as the trained one was.
    assert stages.evaluate(trained, measured.load(tmp_path / "measured"))[0] == metrics
    index = stages.index(trained, "retrieval", ExactBuilder())
    stages.export(trained, index)
    served = tf.saved_model.load(str(tmp_path / "model")).signatures

    users, items = np.array([5, 9, 9]), np.array([1, 30, 50])
    ids = tf.constant(users.astype(str)), tf.constant(items.astype(str))
    found = served["score_pairs"](user_id=ids[0], item_id=ids[1])
    query = embed_users(trained.model, users, trained.known)
    candidate = {name: v[items - 1] for name, v in embed_items(trained.model, 50).items()}
    expected = np.sum(query["retrieval"] * candidate["retrieval"], axis=1)
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-6)
    rating = trained.model.heads["rating"]
    pairs = pairs_of(users, items)
    told = rating.score_pairs(query["rating"], candidate["rating"], pairs, name="stars")
    np.testing.assert_allclose(found["rating"], told["stars"], rtol=1e-4)

    best = served["recommend"](user_id=ids[0], k=tf.constant(3))["item_id"].numpy()
    scores = query["retrieval"] @ embed_items(trained.model, 50)["retrieval"].T
    for row, user in enumerate(users):
        scores[row, trained.known.of_user(user) - 1] = -np.inf
    assert best.astype(str).tolist() == (np.argsort(-scores)[:, :3] + 1).astype(str).tolist()
    assert math.isfinite(metrics["test/rating/rmse"])

    gates = {name for name in history[-1] if "/gate/" in name}
    for head in ("retrieval", "rating"):
        for tower in ("query", "candidate"):
            place = f"train/{head}/gate/{tower}/"
            weights = [history[-1][name] for name in gates if name.startswith(place)]
            assert sum(weights) == pytest.approx(1 + history[-1][f"{place}entropy"], rel=1e-5)
