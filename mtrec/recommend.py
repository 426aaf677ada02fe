"""`python -m mtrec.recommend`: what a trained model recommends to one user."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from mtrec.errors import UserError
from mtrec.jobs.command import command, console

if TYPE_CHECKING:
    from mtrec.config import RecommendConfig


@command("recommend", texts=("run", "user_id"), lists=("history",))
def main(config: "RecommendConfig") -> None:
    """Prints a table of the items recommended to a user."""
    from mtrec.jobs.keys import in_keys

    with in_keys(asdict(config)):
        _recommend(config)


def _recommend(config: "RecommendConfig") -> None:
    from rich.table import Table

    from mtrec.distributed import devices
    from mtrec.jobs.notebook import open_run

    found = open_run(config.run, uri=config.tracking.uri, trusted=config.trusted)
    # One user's answer is no work for a GPU, which may be training.
    os.environ.update(devices.environment(0))
    index, known = found.index, bool(found.run.user_row(config.user_id))
    if known and (config.history is not None or config.features):
        raise UserError(
            f"history and features are for users the model does not know; it knows "
            f"{config.user_id!r}. Leave them out."
        )
    from mtrec.serving.recommend import recommend

    items = recommend(
        found.run,
        index,
        config.user_id,
        k=config.k,
        history=config.history or [],
        features=config.features,
        context=config.context,
    )
    terminal = console()
    if not known:
        terminal.print(_fallback(config))
    table = Table("", "id", "title", "score", "rating", box=None, header_style="bold")
    for place, item in enumerate(items, start=1):
        rating = "" if item.rating is None else f"{item.rating:.2f}"
        table.add_row(str(place), item.item_id, item.title, f"{item.score:.4f}", rating)
    terminal.print(table)


def _fallback(config: "RecommendConfig") -> str:
    given = []
    if config.history:
        given.append(f"a history of {len(config.history)} items")
    if config.features:
        given.append(", ".join(config.features))
    basis = " and ".join(given) or "nothing but what holds for any user"
    return f"user {config.user_id!r} is not known to the model; serving from {basis}"


if __name__ == "__main__":
    main()
