"""Checks on what a user says of their files; each failure names the option, and the remedy."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtrec.data.dataset import Dataset
from mtrec.errors import UserError


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses options, by name, that no file would go with.

    Raises:
        UserError: They name a column for two uses of which one excludes the other, or labels would
            have nothing between them.
    """
    if options["user_key"] == options["item_key"]:
        raise UserError(
            f"`user_key` and `item_key` must name two columns; got {options['user_key']!r} for "
            "both. Correct one of them."
        )
    if not options["bag_separator"]:
        raise UserError(
            "`bag_separator` must be what stands between two labels; got nothing. "
            "Set `bag_separator`='|'."
        )
    for name in (*Dataset.KEYS, "rating"):
        if name in options["labels"]:
            raise UserError(
                f"`labels` must not name a column {name!r}, as interactions have one of their "
                "own. Rename it in the file."
            )
    # What rows are known by, or heads learn, is no feature of who has the row.
    single = ("user_key", "item_key", "rating", "negative", "timestamp", "request")
    read = {**{name: [options[name]] for name in single}, "labels": options["labels"]}
    for option in ("user_columns", "item_columns"):
        for other, names in read.items():
            if both := sorted(set(options[option]) & set(names)):
                raise UserError(
                    f"`{option}` must not name what `{other}` does, of which features would tell; "
                    f"got {both[0]!r} in both. Leave it out of one."
                )


def check_owned(side: str, columns: Sequence[str]) -> None:
    """Refuses a column that users or items would have twice."""
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(
                f"`{side}_columns` must name columns that the {side}s have from nowhere else; "
                f"they have {name!r} twice. Leave it out."
            )


def check_bags(bag_columns: Sequence[str], known: Sequence[str]) -> None:
    """Refuses a bag that neither items nor users have."""
    for name in bag_columns:
        if name not in known:
            raise UserError(
                f"`bag_columns` must name columns of items or users; got {name!r}, they have "
                f"{', '.join(known)}. Correct or remove it."
            )


def check_title(title: str | None, columns: Sequence[str]) -> None:
    """Refuses a title that the items lack."""
    if title is not None and title not in columns:
        raise UserError(
            f"`title` must name a column of the items; got {title!r}, they have "
            f"{', '.join(columns)}. Set `title` to one of them."
        )


def checked_scale(given: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest rating, if they are that."""
    if len(given) != 2 or not given[0] < given[1]:
        raise UserError(
            f"`rating_scale` must be the lowest and the highest rating; got {list(given)}. "
            "Set `rating_scale`=[1,5]."
        )
    return float(given[0]), float(given[1])
