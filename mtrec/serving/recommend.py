"""What a trained model recommends to one user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrec.data.inputs import QueryInputs
from mtrec.data.requests import CONTEXT, TIME
from mtrec.data.validate import EARLIEST, LATEST
from mtrec.errors import UserError
from mtrec.serving.answer import Answerer
from mtrec.serving.index import Index
from mtrec.serving.run import Run


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: Its id.
        title: What people read.
        score: Retrieval score.
        rating: Predicted rating within the scale, or None without a rating head.
    """

    item_id: str
    title: str
    score: float
    rating: float | None


def recommend(
    run: Run,
    index: Index,
    user_id: str,
    *,
    k: int,
    history: Sequence[str] = (),
    features: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> list[Recommendation]:
    """The k best items for a user, best first; without repeats, of those the user does not have.

    Args:
        run: The trained run.
        index: Its index.
        user_id: The user. One the model does not know is served from `history` and `features`.
        k: How many items.
        history: Ids of items that an unknown user is known to have chosen, oldest first.
        features: Columns of the users' table with an unknown user's values; what is missing counts
            as unknown.
        context: What is known of the request: columns of requests with their values, likewise; with
            a head that asks what was before, `time`, in seconds since 1970; 0 or nothing for the
            latest known.

    Raises:
        UserError: If k exceeds the items left, or `history`, `features` or `context` name what is
            not there.
    """
    assert run.retrieval, "the run has no retrieval head"
    row = run.user_row(user_id)
    told = {f"{CONTEXT}{name}": value for name, value in (context or {}).items()}
    asked = _moment(told.pop(TIME, None), run.now) if run.model.reads_time else run.now
    of_rows = run.model.of_rows
    replaced = {path: of.encode(told.get(of.feature.column)) for path, of in of_rows.items()}
    of_queries = {f.column for group in run.model.query.features.values() for f in group.values()}
    for name in {of.feature.column for of in of_rows.values()} - of_queries:
        told.pop(name, None)
    replaced |= run.model.query.encode_row(told if row else {**(features or {}), **told})
    if row:
        inputs = QueryInputs.of(np.array([row]), run.known)._replace(replaced=replaced)
    else:
        inputs = QueryInputs.of_new(run.item_rows(history), replaced)
    inputs = inputs._replace(time=np.array([asked], np.int64))
    found = Answerer(run, index, traced=False).up_to(inputs, k)
    left = int(np.count_nonzero(found["item"]))
    if not 1 <= k <= left:
        raise UserError(
            f"k must be between 1 and {left}, the items that may be recommended to user "
            f"{user_id!r}; got {k}."
        )
    items, scores = (found[name][0].numpy().tolist() for name in ("item", "score"))
    titles = run.dataset.items[run.dataset.title][items].tolist()
    ratings = found["rating"][0].numpy().tolist() if run.rating else [None] * k
    return [
        Recommendation(item_id=str(run.item_ids[i - 1]), title=t, score=s, rating=r)
        for i, t, s, r in zip(items, titles, scores, ratings, strict=True)
    ]


def _moment(given: Any, now: int) -> int:
    """When is asked, in seconds since 1970; without a time, or with 0, the latest known."""
    try:
        seconds = int(float(given or 0))
    except (TypeError, ValueError, OverflowError):
        seconds = LATEST + 1
    if not EARLIEST <= seconds <= LATEST:
        raise UserError(
            "`context.time` must be seconds since 1970, from the year 1900 to 2100, or nothing for "
            f"the latest known; got {given}. Write context.time=1717200000."
        )
    return seconds or now
