"""Tallies of some users add up to those of all, and tell how far a sample may be off."""

import numpy as np
import pytest

from mtrec.heads.tally import Moments, PerUser, Tally, joined, packed, unpacked

RNG = np.random.default_rng(4)


def test_tallies_of_parts_join_to_the_metrics_of_all_after_a_journey():
    count = RNG.integers(0, 4, 50)
    total = RNG.random(50) * count
    output = RNG.random(50)

    def of(part):
        told = PerUser(count=count[part], totals={"rmse": total[part], "log_loss": total[part]})
        sums = {"hits": np.array([len(count[part]), 1])}
        return {"head": Tally.of(told, sums=sums, rows={"output": output[part]})}

    parts = [of(part) for part in (slice(20), slice(20, 21), slice(21, 50))]
    found = joined([unpacked(packed(part)) for part in [{}, *parts]])["head"]

    assert found.means() == pytest.approx(
        {"rmse": np.sqrt(total.sum() / count.sum()), "log_loss": total.sum() / count.sum()}
    )
    assert found.sums["hits"].tolist() == [50, 3]
    assert found.rows["output"].tolist() == output.tolist()


def test_a_tally_of_nothing_travels():
    assert unpacked(packed({"contrastive": Tally()})) == {"contrastive": Tally()}


def test_what_nobody_counts_for_is_no_metric():
    told = PerUser(count=np.zeros(3), totals={"rmse": np.zeros(3)})
    assert Tally.of(told).means() == {}


@pytest.mark.parametrize("name", ["recall_at_10", "rmse"])
def test_19_of_20_samples_have_the_metric_of_all_users_within_their_margin(name):
    """Users differ in how many rows they have, and those with many cost more."""
    rng = np.random.default_rng(7)
    count = rng.geometric(0.2, 4000)
    total = rng.gamma(2.0, count * (1 + 0.1 * count))
    truth = Moments.of(count, total).metric(name)
    inside = []
    for _ in range(1000):
        drawn = rng.choice(4000, 1000, replace=False)
        moments = Moments.of(count[drawn], total[drawn])
        inside.append(abs(moments.metric(name) - truth) <= moments.margin(name, 4000))
    # Three standard deviations of a share of 1,000.
    assert abs(np.mean(inside) - 0.95) < 0.021


def test_a_sample_of_everybody_has_no_margin_and_one_user_tells_none():
    count, total = np.ones(30), RNG.random(30)
    assert Moments.of(count, total).margin("recall_at_10", 30) == 0
    assert np.isnan(Moments.of(count[:1], total[:1]).margin("recall_at_10", 30))
