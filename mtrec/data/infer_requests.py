"""Which rows are of one request, what is known of it, and whether users take items again.

Shapes: `N` rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mtrec.data import names
from mtrec.data.infer_features import features_of
from mtrec.data.leaks import leak
from mtrec.data.profile import Profile, belongs, owners

# What goes so far with the number of rows of a request was counted at its end.
_GROWS = 0.5
# Users take items again where more than this share of what they do is so.
_REPEATS = 0.1


def requests_of(
    left: Mapping[str, Profile],
    user: Profile,
    time: Profile | None,
    given: Mapping[str, Any],
    unsure: list[str],
) -> tuple[str | None, np.ndarray | None]:
    """The column that rows of one request have alike, or None for their time, and their numbers.

    Args:
        left: Columns that are no ids of users or items and no times.
        user: The column of users.
        time: The column of times, if there is one.
        given: Options that are decided.
        unsure: Where to say what might be otherwise.

    Returns:
        Its name, and numbers of requests from 0 on, `[N]`, None where nothing tells requests apart.
    """
    if "request" in given:
        key = given["request"]
    else:
        # A request is of one user, and has several rows.
        keys = [
            name
            for name, p in left.items()
            if names.names_key(name, "request") >= 2
            and p.num_values > 2
            and belongs(owners(p.codes, "request"), user.codes) is not None
        ]
        key = keys[0] if keys else None
        unsure += [f"{name} tells requests apart." for name in keys[:1]]
    told = left.get(key) if key else time
    if told is None:
        return None, None
    number = user.codes.astype(np.int64) * (told.num_values + 1) + told.codes
    return key, np.unique(number, return_inverse=True)[1].astype(np.int32)


def context_of(
    columns: Mapping[str, Profile],
    request: np.ndarray,
    labels: Sequence[Profile],
    given: Mapping[str, Any],
    unsure: list[str],
) -> dict[str, Any]:
    """Features of requests by name, as config nodes, of what is known when one asks.

    Args:
        columns: The columns that belong to requests.
        request: The number of each row's request, `[N]`.
        labels: What heads could learn, which nothing that is known before tells.
        given: Options that are decided.
        unsure: Where to say what might be otherwise.
    """
    kept = {}
    for name, column in columns.items():
        if name not in given.get("context", [name]):
            continue
        if "context" not in given and (late := _late(column, request, labels)):
            unsure.append(f"{name} was left out, as it is known only afterwards: {late}")
        elif column.kind in ("text", "numbers") and not names.names_time(name):
            kept[name] = column
    found = features_of(
        kept, int(request.max(initial=-1)) + 1, without=None, bags=(), unsure=unsure
    )
    unsure += [f"{f['column']} is known when one asks." for f in found.values()]
    return found


def _late(column: Profile, request: np.ndarray, labels: Sequence[Profile]) -> str | None:
    """A sentence on how a column tells what came of a request; None if it does not."""
    numbers = column.numbers() if column.kind == "numbers" else None
    told = {"numbers": numbers, "codes": column.codes, "request": request}
    leaks = (leak(column.name, label.name, label.numbers(), **told) for label in labels)
    if found := next((found for found in leaks if found), None):
        return found
    if numbers is None:
        return None
    if names.names_amount(column.name):
        return "its name is that of an amount."
    first = np.unique(request, return_index=True)[1]
    known = np.isfinite(numbers[first])
    sizes, values = np.bincount(request)[known], numbers[first][known]
    if np.ptp(sizes) and np.ptp(values) and spearmanr(values, sizes)[0] > _GROWS:
        return "it grows with the number of rows of a request."
    return None


def repeats_of(
    user: np.ndarray,
    item: np.ndarray,
    time: np.ndarray,
    given: Mapping[str, Any],
    unsure: list[str],
) -> dict[str, bool]:
    """`repeats`, true if users take items again at other times; numbers of values, `[N]` each."""
    if "repeats" in given:
        return {"repeats": given["repeats"]}
    pairs, pair = np.unique(user.astype(np.int64) << 32 | item, return_inverse=True)
    at_times = np.unique(pair.astype(np.int64) << 32 | time + 1)
    share = 1 - len(pairs) / max(len(at_times), 1)
    if share > _REPEATS:
        unsure.append(f"Users take items again: {share:.0%} are of what they took before.")
    return {"repeats": share > _REPEATS}
