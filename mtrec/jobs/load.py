"""From a data config to the data and its split."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

from mtrec.data.dataset import Dataset
from mtrec.data.split import Split, keep_ratings, options_of, split
from mtrec.data.validate import check


def load(config: Mapping[str, Any]) -> tuple[Dataset, Split]:
    """Loads, checks and splits the data.

    Args:
        config: The data group: a `_target_` and what it takes, and beside it `split`, `features`.

    Raises:
        UserError: If the data cannot be had, or is not what `mtrec.data.validate` asks for.
    """
    others = ("_target_", "split", "features")
    options = {name: value for name, value in config.items() if name not in others}
    dataset = get_object(config["_target_"])(**options)
    check(dataset)
    how = config["split"]
    takes = {name: how[name] for name in options_of(how["kind"])}
    parts = split(dataset, kind=how["kind"], **takes)
    kept = keep_ratings(dataset, parts.fit, rating_share=how["rating_share"], seed=how["seed"])
    return kept, parts
