"""The one shape in which every data source hands over its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mtrec.data.columns import held
from mtrec.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Users, items and their interactions as columns.

    Users and items are numbered by row. Row 0 stands for an unknown user or item: its texts are
    `""`, its bags empty and its numbers NaN. Known users and items have rows from 1. Numbers are
    NumPy arrays, texts `Texts` and bags `Bags`; a source may hand over NumPy arrays of strings for
    them, `[rows]` or `[rows, L]` padded with `""`, which are not kept.

    Attributes:
        name: What the data is called in runs and tables, such as `movielens_100k`.
        users: Columns of `[U + 1]`; `users[user_key]` holds the ids as texts.
        items: Columns of `[C + 1]`; `items[item_key]` holds the ids as texts.
        interactions: Columns of `[rows]` in the source's original order: `user` and `item` (int32
            row numbers), `rating` (float32, NaN where the row carries none) and `timestamp`
            (int64 seconds; 0 where the source has none). There may be `negative` (int32): the row
            of an item that the user was shown and did not take, 0 for none. Further columns are
            labels like the rating: float32, NaN where a row has none. There may be `request`
            (int32): what the rows of one request of a user have alike; without it, their time.
        user_key: The id column of `users`.
        item_key: The id column of `items`.
        title: The column of `items` that people read.
        rating_scale: Lowest and highest rating the scale allows.
        source: One line that says where the rows came from.
        digest: SHA-256 over the contents of all columns, as the source had them.
        taken: Whether the user has the item by that row, `[rows]`: what makes histories, is never
            recommended again, is no negative and counts as popularity. Other rows were shown in
            vain. None for all; see `mtrec.heads.retrieval.with_taken`.
        repeats: Whether users take items again, so that what one has is asked for, told from and
            recommended like any other item.
        requests: Columns of `[rows + 1]`, what is known of a row's request when one asks: row r + 1
            is interaction r, and row 0 is unknown. See `mtrec.data.requests.QueryColumns`.
        by_request: Whether held-out rows are asked for by request, with what was known before it;
            or else by user, with all that is known.
    """

    # Columns of the interactions that are no labels.
    KEYS: ClassVar = ("user", "item", "timestamp", "negative", "request")

    name: str
    users: Mapping[str, Any]
    items: Mapping[str, Any]
    interactions: Mapping[str, np.ndarray]
    user_key: str
    item_key: str
    title: str
    rating_scale: tuple[float, float]
    source: str
    digest: str
    taken: np.ndarray | None = None
    repeats: bool = False
    requests: Mapping[str, Any] = field(default_factory=dict)
    by_request: bool = False

    def __post_init__(self) -> None:
        for table in ("users", "items", "requests"):
            columns = {name: held(column) for name, column in getattr(self, table).items()}
            object.__setattr__(self, table, columns)

    @property
    def labels(self) -> list[str]:
        """Columns of the interactions that heads may learn, `rating` among them."""
        return [name for name in self.interactions if name not in self.KEYS]

    def label(self, name: str, *, named_by: str) -> np.ndarray:
        """A label of all interactions, `[rows]`, NaN where a row has none.

        Args:
            name: The label.
            named_by: The option that names it.

        Raises:
            UserError: If the interactions lack it.
        """
        if name not in self.labels:
            raise UserError(
                f"`{named_by}` must be a label of the interactions "
                f"({', '.join(self.labels)}); got {name}."
            )
        return np.asarray(self.interactions[name])

    @property
    def num_users(self) -> int:
        """Number of known users U; the arrays hold U + 1 rows."""
        return len(self.users[self.user_key]) - 1

    @property
    def num_items(self) -> int:
        """Number of known items C; the arrays hold C + 1 rows."""
        return len(self.items[self.item_key]) - 1
