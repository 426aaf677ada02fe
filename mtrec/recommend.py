"""`python -m mtrec.recommend`: what a trained model recommends to one user."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtrec.config import RecommendConfig
from mtrec.errors import UserError
from mtrec.jobs.command import command, console

if TYPE_CHECKING:
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


@command("recommend", texts=("run", "user_id"), lists=("history",))
def main(config: RecommendConfig) -> None:
    """Prints a table of the items recommended to a user."""
    from pathlib import Path

    from rich.table import Table

    from mtrec.distributed import devices
    from mtrec.libraries import import_tensorflow
    from mtrec.tracking import finished, run_dir

    directory: Path = finished.find_run(config.run, uri=config.tracking.uri)
    # One user's answer is no work for a GPU, which may be training.
    os.environ.update(devices.environment(0))
    import_tensorflow()
    from mtrec.jobs.restore import load_run
    from mtrec.serving import index

    trained = load_run(directory, trusted=config.trusted)
    if trained.retrieval is None:
        raise UserError(
            f"{directory} must have a retrieval head, and has {', '.join(trained.model.heads)}. "
            "Recommend from a run of task=joint or task=retrieval."
        )
    searcher = index.load(directory / run_dir.INDEX, digest=trained.tower_digest)
    if trained.user_row(config.user_id) and (config.history is not None or config.features):
        raise UserError(
            f"history and features are for users the model does not know; it knows "
            f"{config.user_id!r}. Leave them out."
        )
    items = recommend(
        trained,
        searcher,
        config.user_id,
        k=config.k,
        history=config.history or [],
        features=config.features,
        context=config.context,
    )
    terminal = console()
    if not trained.user_row(config.user_id):
        terminal.print(_fallback(config))
    table = Table("", "id", "title", "score", "rating", box=None, header_style="bold")
    for place, item in enumerate(items, start=1):
        rating = "" if item.rating is None else f"{item.rating:.2f}"
        table.add_row(str(place), item.item_id, item.title, f"{item.score:.4f}", rating)
    terminal.print(table)


def recommend(
    run: "Run",
    index: "Index",
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
            a head that asks what was before, `time`, in seconds since 1970, or the latest known.

    Raises:
        UserError: If k exceeds the items left, or `history`, `features` or `context` name what is
            not there.
    """
    import numpy as np

    from mtrec.data.inputs import QueryInputs
    from mtrec.data.requests import CONTEXT, TIME
    from mtrec.serving.answer import Answerer

    assert run.retrieval, "the run has no retrieval head"
    row = run.user_row(user_id)
    told = {f"{CONTEXT}{name}": value for name, value in (context or {}).items()}
    asked = told.pop(TIME, run.now) if run.model.reads_before else run.now
    replaced = run.model.query.encode_row(told if row else {**(features or {}), **told})
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


def _fallback(config: RecommendConfig) -> str:
    given = []
    if config.history:
        given.append(f"a history of {len(config.history)} items")
    if config.features:
        given.append(", ".join(config.features))
    basis = " and ".join(given) or "nothing but what holds for any user"
    return f"user {config.user_id!r} is not known to the model; serving from {basis}"


if __name__ == "__main__":
    main()
