"""From a data config to the data and its split."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

from mtrec.config import Config
from mtrec.data.dataset import Dataset
from mtrec.data.split import (
    Split,
    check_options,
    check_rating_share,
    keep_ratings,
    options_of,
    split,
)
from mtrec.data.validate import check
from mtrec.jobs.keys import in_keys


def check_split(config: Mapping[str, Any]) -> None:
    """Refuses what no data could be split by, before any is read.

    Raises:
        UserError: An option of `split` is out of its range.
    """
    how = config["split"]
    with in_keys({"data": config}, "data.split"):
        check_options(how["kind"], **_taken(how))
        check_rating_share(how["rating_share"])


def check_labels(config: Config, dataset: Dataset) -> None:
    """Refuses what heads cannot learn, before workers are started to find it.

    Raises:
        UserError: The data lacks a label that a head of mtrec names.
    """
    for name in config.task.active():
        head = config.task.heads[name]
        named = head.get("label") if str(head["_target_"]).startswith("mtrec.") else None
        if named is not None:
            with in_keys(config, "task"):
                dataset.label(named, named_by=f"heads.{name}.label")


def load(config: Mapping[str, Any]) -> tuple[Dataset, Split]:
    """Loads, checks and splits the data.

    Args:
        config: The data group: a `_target_` and what it takes, and beside it `split`, `features`
            and perhaps `repeats` and `infer`, which are heeded elsewhere.

    Raises:
        UserError: If the data cannot be had, or is not what `mtrec.data.validate` asks for.
    """
    dataset, how = whole(config), config["split"]
    with in_keys({"data": config}, "data.split"):
        parts = split(dataset, kind=how["kind"], **_taken(how))
        kept = keep_ratings(dataset, parts.fit, rating_share=how["rating_share"], seed=how["seed"])
    return kept, parts


def _taken(how: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the kind of a split takes."""
    return {name: how[name] for name in options_of(how["kind"])}


def whole(config: Mapping[str, Any]) -> Dataset:
    """Loads and checks the data; see `load`."""
    others = ("_target_", "split", "features", "infer", "repeats")
    options = {name: value for name, value in config.items() if name not in others}
    with in_keys({"data": config}, "data"):
        dataset = get_object(config["_target_"])(**options)
        check(dataset)
    return dataset
