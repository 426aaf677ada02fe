"""Which rows are fitted, which choose the model, and which test it."""

from dataclasses import dataclass, replace

import numpy as np

from mtrec.data.cache import digest_of
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

KINDS = ("random", "temporal", "leave_one_out", "fold")
NUM_FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Row numbers into `Dataset.interactions`, int64, disjoint.

    Attributes:
        fit: Rows that gradients come from.
        validation: Rows that choose the model.
        test: Rows that are looked at once, after the model is chosen.
    """

    fit: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """All rows that are not test: `fit`, then `validation`."""
        return np.concatenate([self.fit, self.validation])


def split(
    dataset: Dataset,
    *,
    kind: str,
    seed: int,
    train_share: float,
    fold: int,
    validation_share: float,
) -> Split:
    """Returns the rows to fit, to validate and to test.

    Args:
        dataset: Its `interactions` are split.
        kind: One of
            `random`: the first share of `RandomState(seed).permutation(rows)` is train, the last
            rows of that train part are validation;
            `temporal`: rows by time (stable), the latest are test and the latest of train are
            validation;
            `leave_one_out`: each user's last row by time (stable, so the order of rows where there
            are no times) is test and the one before it validation; users with fewer than three
            rows stay in `fit`. Takes no notice of the shares;
            `fold`: the canonical u1…u5, consecutive fifths of the rows as test; validation is the
            end of `RandomState(seed).permutation(train)`.
        seed: Seed of the permutations.
        train_share: Share of all rows that is train, for `random` and `temporal`.
        fold: Which fifth is test, 1 to 5, for `fold`.
        validation_share: Share of train that is validation, for all but `leave_one_out`; 0 leaves
            nothing to choose a model by.

    Raises:
        UserError: An argument is out of its range, a part would be empty, or `temporal` meets data
            whose times are all the same.
    """
    _check_arguments(kind, seed, train_share, fold, validation_share)
    rows = len(dataset.interactions["user"])
    if kind == "leave_one_out":
        parts = _leave_one_out(dataset)
    else:
        if kind == "random":
            order = np.random.RandomState(seed).permutation(rows)
            train, test = _cut(order, round(train_share * rows))
        elif kind == "temporal":
            train, test = _cut(_by_time(dataset), round(train_share * rows))
        else:
            train, test = _fold(rows, fold)
            train = np.random.RandomState(seed).permutation(train)
        fit, validation = _cut(train, len(train) - round(validation_share * len(train)))
        parts = Split(fit=fit, validation=validation, test=test)
    _check_parts(parts, kind, rows, validated=kind == "leave_one_out" or validation_share > 0)
    return parts


def keep_ratings(dataset: Dataset, fit: np.ndarray, *, share: float, seed: int) -> Dataset:
    """Returns the data with a share of the ratings of the rows `fit`; all other rows keep theirs.

    Which rows keep their rating depends on the seed and on `fit` alone, and a smaller share keeps
    some of those that a larger one keeps.

    Args:
        dataset: The data.
        fit: Rows that gradients come from.
        share: Share of their ratings to keep.
        seed: Seed of the choice.

    Raises:
        UserError: If the share is not above 0 and at most 1, or leaves no rating.
    """
    if not 0 < share <= 1:
        raise UserError(
            f"data.split.rating_share must be above 0 and at most 1; got {share}. "
            "Set data.split.rating_share=1, or task=retrieval to do without ratings."
        )
    if share == 1:
        return dataset
    rating = np.array(dataset.interactions["rating"])
    rated = np.random.default_rng(seed).permutation(fit[np.isfinite(rating[fit])])
    kept = round(share * len(rated))
    if len(rated) and not kept:
        raise UserError(
            f"data.split.rating_share={share} must leave a rating among the {len(rated)} of the "
            f"rows to fit. Set data.split.rating_share={1 / len(rated):.2g} or more."
        )
    rating[rated[kept:]] = np.nan
    interactions = {**dataset.interactions, "rating": rating}
    tables = {"users": dataset.users, "items": dataset.items, "interactions": interactions}
    return replace(dataset, interactions=interactions, digest=digest_of(**tables))


def _cut(order: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    order = order.astype(np.int64)
    return order[:at], order[at:]


def _by_time(dataset: Dataset) -> np.ndarray:
    times = dataset.interactions["timestamp"]
    if len(times) and times.min() == times.max():
        raise UserError(
            f"data.split.kind=temporal needs times that differ; every row of {dataset.name} has "
            f"timestamp {times[0]}. Set data.split.kind=random, or name a timestamp column."
        )
    return np.argsort(times, kind="stable")


def _fold(rows: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    edges = [round(rows * part / NUM_FOLDS) for part in range(NUM_FOLDS + 1)]
    numbers = np.arange(rows, dtype=np.int64)
    in_test = (numbers >= edges[fold - 1]) & (numbers < edges[fold])
    return numbers[~in_test], numbers[in_test]


def _leave_one_out(dataset: Dataset) -> Split:
    users = dataset.interactions["user"]
    order = np.lexsort((dataset.interactions["timestamp"], users))  # stable, by user, then time
    counts = np.bincount(users, minlength=1)
    counts = counts[counts > 0]
    last = np.cumsum(counts)[counts >= 3] - 1
    test, validation = order[last], order[last - 1]
    in_fit = np.ones(len(users), dtype=bool)
    in_fit[test] = in_fit[validation] = False
    return Split(fit=np.flatnonzero(in_fit), validation=validation, test=test)


def _check_arguments(
    kind: str, seed: int, train_share: float, fold: int, validation_share: float
) -> None:
    if kind not in KINDS:
        raise UserError(
            f"data.split.kind must be one of {', '.join(KINDS)}; got {kind!r}. "
            "Set data.split.kind=random."
        )
    if not 0 <= seed < 2**32:
        raise UserError(
            f"data.split.seed must be from 0 to {2**32 - 1}; got {seed}. Set data.split.seed=42."
        )
    if kind == "fold" and fold not in range(1, NUM_FOLDS + 1):
        raise UserError(
            f"data.split.fold must be from 1 to {NUM_FOLDS}; got {fold}. Set data.split.fold=1."
        )
    if kind in ("random", "temporal"):
        _check_share("train_share", train_share, remedy=0.8)
    if kind != "leave_one_out" and validation_share != 0:
        _check_share("validation_share", validation_share, remedy=0.1)


def _check_share(name: str, share: float, *, remedy: float) -> None:
    if not 0 < share < 1:
        raise UserError(
            f"data.split.{name} must lie between 0 and 1; got {share}. "
            f"Set data.split.{name}={remedy}."
        )


def _check_parts(parts: Split, kind: str, rows: int, *, validated: bool) -> None:
    remedies = {
        "fit": "Set a larger data.split.train_share or a smaller data.split.validation_share.",
        "validation": "Set a larger data.split.validation_share.",
        "test": "Set a smaller data.split.train_share.",
    }
    if kind == "leave_one_out":
        remedies = dict.fromkeys(
            remedies, "No user has three rows to take them from; set data.split.kind=random."
        )
    for name, remedy in remedies.items():
        if not len(getattr(parts, name)) and (validated or name != "validation"):
            raise UserError(
                f"data.split.kind={kind} must leave rows in every part; "
                f"its {name} part of {rows} rows is empty. {remedy}"
            )
