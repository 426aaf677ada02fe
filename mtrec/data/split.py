"""Which rows are fitted, which choose the model, and which test it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtrec.data.columns import Columns
from mtrec.data.copies import first_copies
from mtrec.data.dataset import Dataset
from mtrec.data.room import parts as in_parts
from mtrec.errors import UserError

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


def split(dataset: Dataset, *, kind: str, **options: Any) -> Split:
    """Returns the rows to fit, to validate and to test.

    Rows that are alike in every column count once: the kinds below divide the first of each, and
    its copies go to the part that it is in. Rows of one user and item that differ in anything, such
    as their time, are rows of their own.

    Args:
        dataset: Its `interactions` are split.
        kind: One of
            `random`: the first share of `RandomState(seed).permutation(rows)` is train, the last
            rows of that train part are validation. Takes `seed`, `train_share`, `validation_share`;
            `temporal`: rows by time (stable), the latest are test and the latest of train are
            validation. Takes `train_share`, `validation_share`;
            `leave_one_out`: each user's last row by time (stable, so the order of rows where there
            are no times) is test and the one before it validation; users with fewer than three
            rows stay in `fit`. Takes nothing;
            `fold`: the canonical u1…u5, consecutive fifths of the rows as test; validation is the
            end of `RandomState(seed).permutation(train)`. Takes `seed`, `fold`, `validation_share`;
            refuses rows that are sorted by user, as those of a table are.
        **options: What the kind takes, all of it and nothing else: `seed` of the permutations;
            `train_share`, the share of all rows that is train; `fold`, which fifth is test, 1 to 5;
            `validation_share`, the share of train that is validation, 0 to leave nothing to choose
            a model by.

    Raises:
        UserError: An option is missing, is not one that the kind takes, or is out of its range, a
            part would be empty, or `temporal` meets data whose times are all the same.
    """
    check_options(kind, **options)
    first = first_copies(dataset.interactions)
    rows = {name: np.asarray(column) for name, column in dataset.interactions.items()}
    copied = any(
        (first[part] != np.arange(part.start, part.stop)).any() for part in in_parts(len(first))
    )
    if copied:
        distinct = np.unique(first)
        rows = {name: column[distinct] for name, column in rows.items()}
    parts = KINDS[kind](rows, **options)
    _check_parts(parts, kind, len(rows["user"]), validated=options.get("validation_share", 1) > 0)
    if not copied:
        return parts
    # Copies go where the first of them is.
    owner = np.searchsorted(distinct, first)
    places = {name: np.isin(owner, part) for name, part in vars(parts).items()}
    return Split(**{name: np.flatnonzero(place) for name, place in places.items()})


def options_of(kind: str) -> tuple[str, ...]:
    """Names of the options that a kind of split takes.

    Raises:
        UserError: If there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(
            f"`kind` must be one of {', '.join(KINDS)}; got {kind!r}. Set `kind`=random."
        )
    return tuple(inspect.signature(KINDS[kind]).parameters)[1:]


def check_options(kind: str, **options: Any) -> None:
    """Refuses what `split` would refuse of any data.

    Raises:
        UserError: An option is missing, is not one that the kind takes, or is out of its range.
    """
    takes = options_of(kind)
    if set(options) != set(takes):
        raise UserError(
            f"`kind`={kind} must be given {', '.join(takes) or 'no options'}; got "
            f"{', '.join(options) or 'none'}."
        )
    _check_share("train_share", options.get("train_share", 0.5), remedy=0.8)
    # None of train leaves nothing to validate.
    _check_share("validation_share", options.get("validation_share") or 0.5, remedy=0.1)
    if options.get("fold", 1) not in range(1, NUM_FOLDS + 1):
        raise UserError(
            f"`fold` must be from 1 to {NUM_FOLDS}; got {options['fold']}. Set `fold`=1."
        )
    seed = options.get("seed", 0)
    if not 0 <= seed < 2**32:
        raise UserError(f"`seed` must be from 0 to {2**32 - 1}; got {seed}. Set `seed`=42.")


def check_rating_share(share: float) -> None:
    """Refuses a share of ratings that `keep_ratings` could not keep of any.

    Raises:
        UserError: It is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UserError(
            f"`rating_share` must be above 0 and at most 1; got {share}. "
            "Set `rating_share`=1, or train no head on ratings."
        )


def keep_ratings(dataset: Dataset, fit: np.ndarray, *, rating_share: float, seed: int) -> Dataset:
    """Returns the data with a share of the ratings of the rows `fit`; all other rows keep theirs.

    Which rows keep their rating depends on the seed and on `fit` alone, and a smaller share keeps
    some of those that a larger one keeps.

    Args:
        dataset: The data.
        fit: Rows that gradients come from.
        rating_share: Share of their ratings to keep.
        seed: Seed of the choice.

    Raises:
        UserError: If the share is not above 0 and at most 1, or leaves no rating,
            or there is none to begin with.
    """
    check_rating_share(rating_share)
    if rating_share == 1:
        return dataset
    rating = np.array(dataset.interactions["rating"])
    rated = np.random.default_rng(seed).permutation(fit[np.isfinite(rating[fit])])
    kept = round(rating_share * len(rated))
    if not len(rated):
        raise UserError(
            f"`rating_share` must be 1 where no row to fit has a rating; got {rating_share}."
        )
    if not kept:
        raise UserError(
            f"`rating_share`={rating_share} must leave a rating among the {len(rated)} of "
            f"the rows to fit. Set `rating_share`={1 / len(rated):.2g} or more."
        )
    rating[rated[kept:]] = np.nan
    # The digest stays that of the source: what rows are judged on is the same.
    return replace(dataset, interactions={**dataset.interactions, "rating": rating})


def _random(rows: Columns, *, seed: int, train_share: float, validation_share: float) -> Split:
    count = len(rows["user"])
    train, test = _cut(_permuted(np.arange(count), seed), round(train_share * count))
    return _held_out(train, test, validation_share)


def _temporal(rows: Columns, *, train_share: float, validation_share: float) -> Split:
    times = rows["timestamp"]
    if len(times) and times.min() == times.max():
        raise UserError(
            "`kind`=temporal needs times that differ; every row has timestamp "
            f"{times[0]}. Set `kind`=random, or name a timestamp column."
        )
    order = np.argsort(times, kind="stable")
    train, test = _cut(order, round(train_share * len(times)))
    return _held_out(train, test, validation_share)


def _fold(rows: Columns, *, seed: int, fold: int, validation_share: float) -> Split:
    count = len(rows["user"])
    steps = np.diff(rows["user"])
    if steps.any() and (steps >= 0).all():
        raise UserError(
            "`kind`=fold takes fifths of the rows in the order of the source; these are sorted by "
            "user, so that a fifth would hold users that nothing else is known of. Set "
            "`kind`=random or temporal."
        )
    edges = [round(count * part / NUM_FOLDS) for part in range(NUM_FOLDS + 1)]
    numbers = np.arange(count, dtype=np.int64)
    in_test = (numbers >= edges[fold - 1]) & (numbers < edges[fold])
    return _held_out(_permuted(numbers[~in_test], seed), numbers[in_test], validation_share)


def _leave_one_out(rows: Columns) -> Split:
    users = rows["user"]
    order = np.lexsort((rows["timestamp"], users))  # stable, by user, then time
    counts = np.bincount(users, minlength=1)
    counts = counts[counts > 0]
    last = np.cumsum(counts)[counts >= 3] - 1
    test, validation = order[last], order[last - 1]
    in_fit = np.ones(len(users), dtype=bool)
    in_fit[test] = in_fit[validation] = False
    return Split(fit=np.flatnonzero(in_fit), validation=validation, test=test)


# Each takes the columns of the interactions, and the options that it has by keyword.
KINDS: dict[str, Callable[..., Split]] = {
    "random": _random,
    "temporal": _temporal,
    "leave_one_out": _leave_one_out,
    "fold": _fold,
}


def _permuted(rows: np.ndarray, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).permutation(rows)


def _cut(order: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    order = order.astype(np.int64, copy=False)
    return order[:at], order[at:]


def _held_out(train: np.ndarray, test: np.ndarray, validation_share: float) -> Split:
    """Takes the validation rows off the end of train."""
    fit, validation = _cut(train, len(train) - round(validation_share * len(train)))
    return Split(fit=fit, validation=validation, test=test)


def _check_share(name: str, share: float, *, remedy: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"`{name}` must lie between 0 and 1; got {share}. Set `{name}`={remedy}.")


def _check_parts(parts: Split, kind: str, rows: int, *, validated: bool) -> None:
    remedies = {
        "fit": "Set a larger `train_share` or a smaller `validation_share`.",
        "validation": "Set a larger `validation_share`.",
        "test": "Set a smaller `train_share`.",
    }
    if kind == "leave_one_out":
        remedies = dict.fromkeys(
            remedies, "No user has three rows to take them from; set `kind`=random."
        )
    for name, remedy in remedies.items():
        if not len(getattr(parts, name)) and (validated or name != "validation"):
            raise UserError(
                f"`kind`={kind} must leave rows in every part; "
                f"its {name} part of {rows} rows is empty. {remedy}"
            )
