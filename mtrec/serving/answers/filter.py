"""Which items an answer may hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrec.data.dataset import Dataset
from mtrec.data.vocabulary import Vocabulary
from mtrec.errors import UserError
from mtrec.serving.answers.expression import Expression


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which items an answer may hold.

    What the columns of items and lists of ids say is the same for all users, and is worked out
    once: candidates are found among the items that are left.

    Args:
        seen: Whether it may hold what its user has; null for what the data says of repeats.
        where: A condition on columns of the items, such as `in_stock and price < 20`; null for
            none. See `mtrec.serving.answers.expression`.
        allow: Ids of the only items there are; null for all.
        deny: Ids of items that it must not hold.
    """

    seen: bool | None
    where: str | None
    allow: Sequence[str] | None
    deny: Sequence[str]

    def keeps_seen(self, dataset: Dataset) -> bool:
        """Whether an answer may hold what its user has."""
        return dataset.repeats if self.seen is None else self.seen

    def kept(self, dataset: Dataset) -> np.ndarray:
        """Whether an answer may hold each item, `[C]`, as far as that is one for all users.

        Raises:
            UserError: If `where` cannot be read or names what is no column of the items, an id is
                not in the catalogue, or nothing is left.
        """
        kept = np.ones(dataset.num_items, bool)
        if self.where is not None:
            where = Expression(self.where, argument="filter.where", functions=None)
            where.require(set(dataset.items), "columns of the items")
            kept &= where.condition(dataset.items)[1:]
        if self.allow is not None:
            kept &= _listed(dataset, self.allow, "allow")
        kept &= ~_listed(dataset, self.deny, "deny")
        if not kept.any():
            raise UserError("`filter` must leave an item to answer with; none of them is left.")
        return kept


def _listed(dataset: Dataset, ids: Sequence[str], option: str) -> np.ndarray:
    """Whether each item is one of `ids`, `[C]`."""
    if isinstance(ids, str):
        raise UserError(f"`filter.{option}` must be a list of ids; got {ids}. Write [{ids}].")
    rows = Vocabulary(dataset.items[dataset.item_key]).rows(np.array([*map(str, ids)], str))
    for item_id, row in zip(ids, rows, strict=True):
        if row == 0:
            raise UserError(
                f"`filter.{option}` must hold ids of items; {item_id!r} is in no row. Leave it out."
            )
    return np.isin(np.arange(1, dataset.num_items + 1), rows)
