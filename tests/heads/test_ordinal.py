"""The ordinal head by hand, and beside SciPy's logistic distribution."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import logistic
from small_batch import as_tensors, written
from small_data import all_rows, planted, written_out

from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import Examples
from mtrec.heads.ordinal import Ordinal
from mtrec.training.evaluate import Evaluator

RATINGS = [1, 2, 2, 4, 4, 4, 5, 5]
LEVELS = np.array([1.0, 2.0, 4.0, 5.0])


def head(data, *, l2=0.0, members=1):
    made = Ordinal(label="rating", dim=2, members=members, layers=[], l2=l2)
    made.adapt(data, all_rows(data), name="rating", seed=4)
    return made


@pytest.fixture(scope="module")
def data():
    rows = [(1 + k % 2, 1 + k // 2, rating, k) for k, rating in enumerate(RATINGS)]
    return written_out([*rows, (1, 1, np.nan, 9)])


def probabilities(made, output, sharpness):
    """Of each level, `[N, K]`, by differences of the distribution function."""
    ends = np.concatenate([[-np.inf], made._thresholds().numpy(), [np.inf]])
    return np.diff(logistic.cdf((ends - np.asarray(output)[:, None]) * sharpness), axis=1)


def test_it_starts_at_the_shares_of_the_levels(data):
    made = head(data)
    shares = probabilities(made, [made.start.numpy()], 1.0)[0]

    assert made.levels.tolist() == LEVELS.tolist()
    assert shares == pytest.approx([1 / 8, 2 / 8, 3 / 8, 2 / 8], rel=1e-5)
    told, spread = made.distribution(tf.constant([made.start.numpy()]), tf.constant([1]))
    assert told.numpy() == pytest.approx([np.mean(RATINGS)], rel=1e-5)
    assert spread.numpy() == pytest.approx([np.std(RATINGS)], rel=1e-5)


def test_a_row_costs_the_probability_of_its_level_and_rows_without_one_nothing(data):
    made = head(data, l2=0.1)
    made.log_sharpness.embeddings.assign([[0.0], [0.0], [np.log(3.0)]])
    batch = written(
        query_users=[1, 2],
        items=[1, 2],
        rows_query=[0, 1, 1, 0],
        rows_item=[1, 0, 1, 0],
        rows_labels={"rating": [1, 4, 5, np.nan]},
        rows_weight=[1, 1, 1, 1],
    )
    given = Examples(
        query=tf.zeros((2, 2)),
        item=tf.constant([[0.5, 0.5], [-1.0, 1.0]]),
        pool=tf.zeros((0, 2)),
        batch=as_tensors(batch),
    )
    losses, mask = made.losses(given)

    start = [made.start.numpy()]
    plain, sharp = probabilities(made, start, 1.0)[0], probabilities(made, start, 3.0)[0]
    # Regularised: the item's factors, and the second user's sharpness.
    sizes = [0.1 * 2, 0.1 * (0.5 + np.log(3) ** 2), 0.1 * (2 + np.log(3) ** 2)]
    expected = -np.log([plain[0], sharp[2], sharp[3]]) + sizes
    assert losses.numpy()[:3] == pytest.approx(expected, rel=1e-5)
    assert mask.numpy().tolist() == [1, 1, 1, 0]
    assert np.isfinite(losses).all()


def test_mean_and_spread_are_those_of_the_distribution(data):
    made = head(data)
    made.log_sharpness.embeddings.assign([[0.0], [0.5], [-1.0]])
    outputs = np.float32([-2.0, 0.3, 4.0, 60.0])
    users = tf.constant([1, 2, 0, 1])
    mean, spread = made.distribution(tf.constant(outputs), users)

    sharpness = np.exp([0.5, -1.0, 0.0, 0.5])[:, None]
    p = probabilities(made, outputs, sharpness)
    expected = p @ LEVELS
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    np.testing.assert_allclose(spread, np.sqrt(p @ LEVELS**2 - expected**2), atol=2e-3)
    told = made.served(tf.constant(outputs), users, name="stars")
    assert list(told) == ["stars", "stars_spread"]
    np.testing.assert_allclose(told["stars"], expected, rtol=1e-5)
    np.testing.assert_array_equal(told["stars_spread"], spread)


@pytest.mark.parametrize("output", [-80.0, 80.0])
@pytest.mark.parametrize("level", [0, 2, 3])
def test_gradients_are_finite_however_unlikely_the_label(data, output, level):
    made = head(data)
    x = tf.Variable([[output]])
    sharpness = tf.Variable([[1.5]])
    watched = [x, sharpness, made.log_gaps.value]
    with tf.GradientTape() as tape:
        cost = made._cost(x, tf.constant([level]), sharpness)

    assert np.isfinite(cost).all()
    assert all(np.isfinite(g).all() for g in tape.gradient(cost, watched) if g is not None)


def test_a_label_of_one_level_or_of_very_many_is_refused(data):
    with pytest.raises(UserError, match=r"must have 2 to 100 levels; rating has 1\."):
        head(written_out([(1, 1, 3, 1), (2, 2, 3, 2)]))
    many = [(1 + k % 2, 1 + k // 2, 1 + k / 200, k) for k in range(150)]
    with pytest.raises(UserError, match=r"rating has 150\. Use a mtrec\.Rating"):
        head(written_out(many))


def test_the_report_says_how_likely_labels_were_and_how_large_errors_against_spreads():
    data = planted(num_users=30, num_items=40, num_interactions=400, rating_share=1.0)
    rows = all_rows(data)
    made = Ordinal(label="rating", dim=2, members=1, layers=[], l2=0.0)
    made.adapt(data, rows[:300], name="rating", seed=4)
    held_out = Evaluator(data, known=rows[:300], held_out=rows[300:]).held_out
    zeros = np.zeros((len(held_out.users), 2), np.float32), np.zeros((40, 2), np.float32)
    measured = made.measure(held_out, *zeros, full=True)
    report = made.report(held_out, measured)

    # With no factors, everybody gets the shares of the training rows.
    fit = data.interactions["rating"][:300]
    truth = held_out.labels["rating"]
    levels, counts = np.unique(fit, return_counts=True)
    nearest = np.abs(truth[:, None] - levels).argmin(axis=1)
    assert report.metrics["log_loss"] == pytest.approx(
        -np.log(counts / counts.sum())[nearest].mean(), rel=1e-4
    )
    ratio = np.sqrt(np.mean((truth - fit.mean()) ** 2)) / fit.std()
    assert report.metrics["spread_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert report.metrics["rmse"] == pytest.approx(
        np.sqrt(np.mean((truth - fit.mean()) ** 2)), rel=1e-4
    )
    assert report.per_user.totals["log_loss"].sum() == pytest.approx(
        report.metrics["log_loss"] * len(truth), rel=1e-5
    )
    # That is the baseline too.
    for name in ("log_loss", "spread_ratio", "rmse"):
        assert report.baseline[name] == pytest.approx(report.metrics[name], rel=1e-4)
    assert len(report.tables["spread"]) == 10


def test_spread_bins_are_root_mean_squares():
    rng = np.random.default_rng(0)
    foretold = rng.uniform(0.5, 2, 20_000)
    rows = metrics.spread(foretold, rng.normal(size=20_000) * foretold, bins=4)

    parts = np.array_split(np.sort(foretold), 4)
    assert [row["predicted"] for row in rows] == pytest.approx(
        [np.sqrt(np.mean(part**2)) for part in parts]
    )
    for row in rows:
        assert abs(row["observed"] - row["predicted"]) < 4 * row["stderr"]
