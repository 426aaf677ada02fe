"""Metrics as pure functions of NumPy arrays."""

from collections.abc import Iterator

import numpy as np

from mtrec.data import progress
from mtrec.distributed import heartbeat

RECALL_AT = (1, 5, 10, 20, 50, 100)
NDCG_AT = (10, 20)
FACTORIZED_AT = (1, 5, 10, 50, 100)
# Words in the names of metrics that improve as they fall, such as `log_loss`.
LOWER_IS_BETTER = frozenset({"entropy", "error", "loss", "mae", "rmse", "rmsle"})
# Follows the name of a metric: half of its interval, where users are a sample.
MARGIN = "_margin"
# Metrics that are the root of a mean.
ROOTS = ("rmse", "rmse_clipped", "rmsle")


def lower_is_better(metric: str) -> bool:
    """Whether a metric improves as it falls; `metric` may have a path before it."""
    return not LOWER_IS_BETTER.isdisjoint(metric.rsplit("/", 1)[-1].split("_"))


def better(metric: str, new: float, old: float) -> bool:
    """Whether `new` improves on `old`, in the direction of the metric named `metric`.

    NaN, a metric of nothing, improves on nothing, and any number on it.
    """
    if np.isnan(old):
        return not np.isnan(new)
    return new < old if lower_is_better(metric) else new > old


def from_totals(metric: str, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """A metric from its sum over users and the number summed; for some, the root of the mean.

    Args:
        metric: Its name; it may have a path before it.
        total: What was summed, such as squared errors; any shape.
        count: How many, such as rated rows; of the same shape.
    """
    mean = total / count
    return np.sqrt(mean) if metric.rsplit("/", 1)[-1] in ROOTS else mean


def chunks(total: int, size: int, unit: str = "users") -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(total)`; each one done is a beat.

    Raises:
        PreemptedError: See `mtrec.data.progress.advance`, which is told of each.
    """
    progress.advance(0, total, unit)
    for start in range(0, total, size):
        stop = min(start + size, total)
        yield slice(start, stop)
        heartbeat.beat()
        progress.advance(stop, total, unit)


def ranking(ranks_: np.ndarray, owner: np.ndarray, num_users: int) -> dict[str, np.ndarray]:
    """Ranking metrics of each user, `[U]`; averaging is left to the caller.

    Recall is the share of a user's held-out items in the top k. NDCG has binary gains and the
    ideal of min(k, held-out items) hits (Järvelin, Kekäläinen 2002). MRR is one over the place of
    the best held-out item.

    Args:
        ranks_: Rank of each held-out item, `[H]`.
        owner: The user it belongs to, `[H]` in 0..U-1. Every user owns at least one.
        num_users: Number of users U.
    """

    def per_user(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, weights=values, minlength=num_users)

    count = per_user(np.ones(len(owner)))
    result = {f"recall_at_{k}": per_user(ranks_ < k) / count for k in RECALL_AT}
    discount = 1 / np.log2(np.arange(max(NDCG_AT)) + 2)
    for k in NDCG_AT:
        gain = np.where(ranks_ < k, 1 / np.log2(ranks_ + 2), 0.0)
        ideal = np.cumsum(discount[:k])[np.minimum(count.astype(int), k) - 1]
        result[f"ndcg_at_{k}"] = per_user(gain) / ideal
    best = np.full(num_users, np.iinfo(np.int64).max)
    np.minimum.at(best, owner, ranks_)
    result["mrr"] = 1 / (best + 1.0)
    result["hit_rate_at_10"] = (best < 10).astype(float)
    return result


def factorized_hits(ranks_: np.ndarray) -> np.ndarray:
    """How many held-out interactions are in the top k of the whole catalogue, nothing excluded.

    Their share is TensorFlow Recommenders' `FactorizedTopK`; ranks are among all candidates. A
    number for each k of `FACTORIZED_AT`.
    """
    return np.array([np.count_nonzero(ranks_ < k) for k in FACTORIZED_AT])


def row_errors(raw: np.ndarray, clipped: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """What each row adds to the totals of RMSE, MAE and the RMSE of clipped predictions, `[N]`."""
    error = raw.astype(np.float64) - truth
    return {
        "rmse": error**2,
        "mae": np.abs(error),
        "rmse_clipped": (clipped.astype(np.float64) - truth) ** 2,
    }


def rating_errors(raw: np.ndarray, clipped: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """RMSE and MAE of raw predictions, and RMSE of those clipped to the scale; all `[N]`."""
    return {
        name: float(from_totals(name, rows.sum(), np.asarray(len(rows))))
        for name, rows in row_errors(raw, clipped, truth).items()
    }


def log_losses(logits: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, `[N]`, given its log odds and whether it is positive."""
    return np.logaddexp(0, np.where(positive, -logits, logits))


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive row scores above a negative one; ties count a half.

    NaN without a row of either kind.
    """
    return grouped_auc(scores, positive, np.zeros(len(scores), int))


def grouped_auc(scores: np.ndarray, positive: np.ndarray, owner: np.ndarray) -> float:
    """The mean of what `grouped_auc_totals` sums; NaN without such a user."""
    total, rows = grouped_auc_totals(scores, positive, owner)
    return float(total / rows) if rows else float("nan")


def grouped_auc_totals(scores: np.ndarray, positive: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """AUC of the users with rows of both kinds, each times their rows, and those rows, summed.

    Zhu et al., Optimized Cost per Click, KDD 2017. Where requests are judged, each is an owner.

    Args:
        scores: Of each row, `[N]`.
        positive: Whether it is positive, `[N]`.
        owner: Number of its user or request, `[N]`.
    """
    order = np.lexsort((scores, owner))
    owner, scores, positive = owner[order], scores[order], positive[order]
    new_owner = np.diff(owner, prepend=-1) != 0
    tie = np.cumsum(new_owner | (np.diff(scores, prepend=np.nan) != 0)) - 1
    place = np.arange(len(owner), dtype=np.float64)
    place = (np.bincount(tie, place) / np.bincount(tie))[tie]  # ties share their mean place
    of = np.cumsum(new_owner) - 1
    place -= np.flatnonzero(new_owner)[of]
    count, number = np.bincount(of), np.bincount(of, positive)
    won = np.bincount(of, place * positive) - number * (number - 1) / 2
    pairs = number * (count - number)
    both = pairs > 0
    return np.array([np.sum(won[both] / pairs[both] * count[both]), count[both].sum()])


def normalized_entropy(losses: np.ndarray | float, positive: np.ndarray) -> float:
    """Mean cross-entropy over that of telling the rows' own share of positive ones of each.

    1 says nothing of a row; NaN without a row of either kind (He et al., ADKDD 2014).
    """
    share = np.mean(positive)
    entropy = -sum(p * np.log(p) for p in (share, 1 - share) if p)
    return float(np.mean(losses) / entropy) if entropy else float("nan")


def xauc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pairs of rows with different truths that scores order alike; ties count a half.

    NaN without such a pair (Zhan et al., Deconfounding Duration Bias, KDD 2022).
    """
    from scipy.stats import kendalltau

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1.0)).sum() / 2)

    every = pairs(np.array([len(truth)]))
    tied = [pairs(np.unique(values, return_counts=True)[1]) for values in (scores, truth)]
    if every == tied[1]:
        return float("nan")
    if every == tied[0]:
        return 0.5
    # Tau-b's numerator is the pairs in order less those in reverse.
    led = kendalltau(scores, truth).statistic * np.sqrt((every - tied[0]) * (every - tied[1]))
    return float((led / (every - tied[1]) + 1) / 2)


def graded_ranking(
    scores: np.ndarray, labels: np.ndarray, owner: np.ndarray, num_users: int
) -> dict[str, np.ndarray]:
    """How well the scores order each user's labelled items, `[U]` each.

    NDCG at 10 has the label less the user's lowest as gain. Among equal scores the worst order is
    assumed, and in a pair they count a half.

    Args:
        scores: Of each item, `[N]`.
        labels: Of each item, `[N]`.
        owner: The user each belongs to, `[N]` in 0..U-1, ascending.
        num_users: Number of users U.

    Returns:
        `count`, 1 for a user with two labels that differ, and for these `ndcg_at_10` and
        `pairs_in_order`, the share of the pairs with different labels; 0 for others.
    """
    names = ("count", "ndcg_at_10", "pairs_in_order")
    found = {name: np.zeros(num_users) for name in names}
    starts = np.searchsorted(owner, np.arange(num_users + 1))
    discount = 1 / np.log2(np.arange(10) + 2)
    for user in np.flatnonzero(np.diff(starts) > 1):
        mine = slice(starts[user], starts[user + 1])
        gain = labels[mine].astype(np.float64) - labels[mine].min()
        if not gain.any():
            continue
        score = scores[mine].astype(np.float64)
        order = np.lexsort((gain, -score))[:10]
        ideal = -np.sort(-gain)[:10]
        above = gain[:, np.newaxis] > gain
        led = np.sign(score[:, np.newaxis] - score)[above]
        found["count"][user] = 1
        found["ndcg_at_10"][user] = gain[order] @ discount[: len(order)]
        found["ndcg_at_10"][user] /= ideal @ discount[: len(order)]
        found["pairs_in_order"][user] = np.mean((led + 1) / 2)
    return found


def calibration(predicted: np.ndarray, truth: np.ndarray, *, bins: int) -> list[dict[str, float]]:
    """Mean prediction and mean truth of equally filled bins of the prediction.

    Returns:
        Rows `{"predicted", "observed", "count", "stderr"}` in order of the prediction; `stderr` is
        the standard error of the observed mean.
    """
    order = np.argsort(predicted, kind="stable")
    rows = []
    for part in np.array_split(order, min(bins, len(order))):
        seen = truth[part].astype(np.float64)
        rows.append(
            {
                "predicted": float(predicted[part].mean(dtype=np.float64)),
                "observed": float(seen.mean()),
                "count": len(part),
                "stderr": float(seen.std() / np.sqrt(len(part))),
            }
        )
    return rows


def spread(foretold: np.ndarray, error: np.ndarray, *, bins: int) -> list[dict[str, float]]:
    """Root mean squares of foretold spreads and of errors, in equally filled bins of the former.

    Returns:
        Rows `{"predicted", "observed", "count", "stderr"}` in order of the spread; `stderr` is the
        standard error of the root mean square error.
    """
    squares = calibration(foretold.astype(np.float64) ** 2, error**2, bins=bins)
    rows = []
    for row in squares:
        root = float(np.sqrt(row["observed"]))
        rows.append(
            {
                "predicted": float(np.sqrt(row["predicted"])),
                "observed": root,
                "count": row["count"],
                "stderr": row["stderr"] / (2 * root) if root else 0.0,
            }
        )
    return rows


def predicted_against_true(
    predicted: np.ndarray, truth: np.ndarray, *, low: float, high: float, bins: int
) -> dict[str, list]:
    """Counts of (true rating, predicted bin): `{"ratings", "edges", "counts" [ratings, bins]}`."""
    edges = np.linspace(low, high, bins + 1)
    ratings, row = np.unique(truth, return_inverse=True)
    column = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, bins - 1)
    counts = np.zeros((len(ratings), bins), int)
    np.add.at(counts, (row, column), 1)
    return {"ratings": ratings.tolist(), "edges": edges.tolist(), "counts": counts.tolist()}
