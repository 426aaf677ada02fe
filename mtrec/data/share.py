"""What a replica has of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrec.data.drawn import Queries
from mtrec.data.inputs import Lengths, Own, Views
from mtrec.data.negatives import Pool


@dataclass(frozen=True)
class Share:
    """What a replica has of a batch, as far as its slice is made of it.

    Attributes:
        queries: Its queries.
        pool: The whole pool that its targets are told from.
        embeds: What the replica embeds of it.
        own: Its queries' own items of the pool, by item row.
        views: Its items to compare views of.
        again: The place in what is shown of each item that a query may take again.
        items: Each item row that it names, ascending.
        places: The position there of its targets, of what is shown, and of `own`.
    """

    queries: Queries
    pool: Pool
    embeds: slice
    own: Own
    views: Views
    again: np.ndarray
    items: np.ndarray
    places: Sequence[np.ndarray]

    @property
    def lengths(self) -> Lengths:
        """How many it has of each."""
        return Lengths(
            history=len(self.queries.shown),
            items=len(self.items),
            rows=len(self.queries.row),
            own=len(self.own.item),
            pool=len(self.pool.items[self.embeds]),
            views=len(self.views.items),
            again=len(self.again),
        )
