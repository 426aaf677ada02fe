"""Two models judged by the same users: an interval and a test for the difference of a metric.

Users are the units that were drawn from a population, so users are what is resampled. A metric is
made anew from the sums of the users drawn: an RMSE is the root of all squared errors over all rated
rows, and no mean of users' RMSEs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mtrec.heads.metrics import chunks, from_totals

# Elements of the arrays of draws that are held at once.
_AT_ONCE = 1 << 22


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
        keeps or changes its sign.
    """
    counted = count > 0
    ours, theirs, count = ours[counted], theirs[counted], count[counted]
    rng = np.random.default_rng(seed)

    def of_users(times: np.ndarray) -> np.ndarray:
        counts = (times @ count)[:, np.newaxis]
        found = [from_totals(metric, times @ totals, counts) for totals in (ours, theirs)]
        return (found[0] - found[1]).mean(axis=1)

    tail = (1 - confidence) / 2
    drawn = [of_users(times) for times in _resampled(len(count), resamples, rng)]
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    (value,) = of_users(np.ones((1, len(count))))
    return Difference(
        value=float(value),
        low=float(low),
        high=float(high),
        p_value=_sign_flip((ours - theirs).mean(axis=1), resamples, rng),
        users=len(count),
        seeds=ours.shape[1],
    )


def _resampled(users: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each user is drawn in each resample, `[some, U]` at a time."""
    for part in chunks(resamples, max(1, _AT_ONCE // users)):
        rows = part.stop - part.start
        drawn = rng.integers(users, size=(rows, users)) + users * np.arange(rows)[:, np.newaxis]
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)


def _sign_flip(differences: np.ndarray, resamples: int, rng: np.random.Generator) -> float:
    """The two-sided p value of the sum of differences `[U]`, the observed signs among the draws."""
    observed = abs(differences.sum())
    as_extreme = 1
    for part in chunks(resamples, max(1, _AT_ONCE // len(differences))):
        signs = rng.choice([-1.0, 1.0], size=(part.stop - part.start, len(differences)))
        # Rounding must not tell apart sums that are equal.
        as_extreme += int((abs(signs @ differences) >= observed * (1 - 1e-9)).sum())
    return as_extreme / (resamples + 1)
