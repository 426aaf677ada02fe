"""Two models judged by the same users: an interval and a test for the difference of a metric.

Users are the units that were drawn from a population, so users are what is resampled. A metric is
made anew from the sums of the users drawn: an RMSE is the root of all squared errors over all rated
rows, and no mean of users' RMSEs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mtrec.heads.metrics import from_totals

# Elements of the arrays of draws that are held at once.
_AT_ONCE = 1 << 22


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for how many hypotheses are tested (Holm 1979), in their order.

    Those of at most a level are rejected; by chance alone, the probability that any is stays below
    that level.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True)
class Difference:
    """How far a metric of one model lies from that of another.

    Attributes:
        value: The difference, a mean over seeds.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Of the hypothesis that the users' differences are as likely as their negatives.
        users: Users that were compared.
        seeds: Pairs of runs that were compared.
    """

    value: float
    low: float
    high: float
    p_value: float
    users: int
    seeds: int


def difference(
    metric: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    count: np.ndarray,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Difference:
    """Compares two models over the same users and several seeds.

    Args:
        metric: The metric's name; it says whether the root is taken, see `metrics.from_totals`.
        ours: Each user's sum for the metric in each of our runs, `[U, S]`.
        theirs: The same of the runs they are paired with, `[U, S]`.
        count: How many were summed, `[U]`, the same in all runs.
        confidence: Share of the resamples that the interval covers, such as 0.95.
        resamples: Number of bootstrap resamples and of sign flips.
        seed: Seed of both.

    Returns:
        The difference, ours less theirs. The interval is a percentile bootstrap over users (Efron,
        Tibshirani 1993): a user is drawn with all rows of all runs, and the differences of the
        seeds are averaged. The p value is two-sided, of a sign-flip permutation test on the sum of
        the users' differences (Fisher 1935), in which a user's difference, averaged over seeds,
        keeps or changes its sign: all flips where there are no more than `resamples`. Of one user
        alone there is no interval: its ends are the difference.
    """
    counted = count > 0
    ours, theirs, count = ours[counted], theirs[counted], count[counted]
    users, seeds = ours.shape
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // (users * seeds))

    def of_users(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """The difference over users drawn from all, `[..., U] -> [...]`."""
        counts = count[drawn].sum(axis)[..., np.newaxis]
        found = [from_totals(metric, totals[drawn].sum(-2), counts) for totals in (ours, theirs)]
        return (found[0] - found[1]).mean(-1)

    value = float(of_users(np.arange(users)))
    low = high = value
    if users > 1:
        interval = stats.bootstrap(
            (np.arange(users),),
            of_users,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            batch=at_once,
            rng=rng,
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    flips = stats.permutation_test(
        ((ours - theirs).mean(axis=1),),
        np.sum,
        permutation_type="samples",
        n_resamples=resamples,
        batch=at_once,
        rng=rng,
    )
    return Difference(
        value=value, low=low, high=high, p_value=float(flips.pvalue), users=users, seeds=seeds
    )
