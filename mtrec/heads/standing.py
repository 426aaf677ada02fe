"""Where scores stand among others: how many are above, how many are level, and who comes first."""

import math

import numpy as np

# Of more ties the few places that are asked for are drawn, not all.
SHUFFLED = 1024


def standing(
    scores: np.ndarray, place: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many of a row's scores are above each target, and how many equal it, `[T]` each.

    NaN is above all numbers, and all are above a target that is NaN: a model that has diverged is
    never taken for a good one.

    Args:
        scores: `[R, C]`.
        place: The row of each target, `[T]`, ascending. It is fastest where rows with more targets
            stand before those with fewer.
        targets: `[T]`.
    """
    asked = np.bincount(place, minlength=len(scores))
    first = np.cumsum(asked) - asked
    up_to, equal = np.zeros((2, len(targets)), np.int64)
    # Two passes over a row count for one target. Sorting takes as long as passes for 13 of them in
    # a row of 1,700 scores, and for 75 in one of 50,000.
    sorts = asked > math.isqrt(scores.shape[1]) // 3
    for row in np.flatnonzero(sorts):
        mine = slice(first[row], first[row] + asked[row])
        ordered = np.sort(scores[row])  # NaN last
        up_to[mine] = np.searchsorted(ordered, targets[mine], side="right")
        equal[mine] = up_to[mine] - np.searchsorted(ordered, targets[mine], side="left")
    number = np.where(sorts[place], -1, np.arange(len(targets)) - first[place])
    for pass_ in range(number.max(initial=-1) + 1):
        these = np.flatnonzero(number == pass_)
        rows = slice(place[these[0]], place[these[-1]] + 1)
        target = np.full((len(scores[rows]), 1), np.nan, scores.dtype)
        target[place[these] - rows.start, 0] = targets[these]
        up_to[these] = _true(np.less_equal, scores[rows], target)[place[these] - rows.start]
        equal[these] = _true(np.equal, scores[rows], target)[place[these] - rows.start]
    undefined = np.isnan(targets)
    up_to[undefined], equal[undefined] = 0, 0
    return scores.shape[1] - up_to, equal


def _true(compare: np.ufunc, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How many of a row's scores compare so with its target, `[R, C]` and `[R, 1]` to `[R]`."""
    rows, width = scores.shape
    found = np.empty((rows, -(-width // 256) * 256), bool)
    found[:, width:] = False
    compare(scores, target, out=found[:, :width])
    # Eight counts of at most 32 in a number.
    counts = np.add.reduce(found.view(np.uint64).reshape(rows, 32, -1), axis=1)
    return np.add.reduce(counts.view(np.uint8), axis=1, dtype=np.int64)


def standing_among(
    values: np.ndarray, owner: np.ndarray, targets: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`standing` among values `[N]` of which each owner has some, `[N]`, as each `place`, `[T]`."""
    level = np.unique(np.concatenate([values, targets]), return_inverse=True)[1]  # NaN the highest
    number = len(level) + 1
    ordered = np.sort(owner * number + level[: len(values)])
    start, end, last = (
        np.searchsorted(ordered, place * number + each)
        for each in (level[len(values) :], level[len(values) :] + 1, number)
    )
    undefined = np.isnan(targets)
    total = np.bincount(owner, minlength=place.max(initial=-1) + 1)[place]
    return np.where(undefined, total, last - end), np.where(undefined, 0, end - start)


def places(items: np.ndarray, targets: np.ndarray, equal: np.ndarray, seed: int) -> np.ndarray:
    """A place among what scores the same for each of a user's items: no two items share one.

    Args:
        items: The items, `[T]`.
        targets: Their scores, `[T]`.
        equal: How many candidates have that score, `[T]`.
        seed: What places are drawn with, so that they do not depend on other users.
    """
    drawn = np.zeros(len(items), np.int64)
    if equal.max(initial=0) < 2:
        return drawn
    rng = np.random.default_rng(seed)
    for value in np.unique(targets[equal > 1]):
        tied = np.flatnonzero(targets == value)
        distinct, which = np.unique(items[tied], return_inverse=True)
        number = int(equal[tied[0]])
        if number <= SHUFFLED:
            found = rng.permutation(number)[: len(distinct)]
        else:
            found = rng.choice(number, len(distinct), replace=False)
        drawn[tied] = found[which]
    return drawn


def places_of_each(
    place: np.ndarray, items: np.ndarray, targets: np.ndarray, equal: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """`places` of the items of several users, `[T]`.

    Args:
        place: The row in `seeds` of the user of each item, `[T]`, ascending.
        items: See there.
        targets: See there.
        equal: See there.
        seeds: What the places of each user are drawn with.
    """
    drawn = np.zeros(len(items), np.int64)
    for tied in np.unique(place[equal > 1]):
        mine = slice(*np.searchsorted(place, [tied, tied + 1]))
        drawn[mine] = places(items[mine], targets[mine], equal[mine], int(seeds[tied]))
    return drawn
