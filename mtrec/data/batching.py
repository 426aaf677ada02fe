"""What a batch is made of."""

from dataclasses import dataclass

from mtrec.errors import UserError, require


@dataclass
class Batching:
    """How the rows to train on become the queries of batches.

    Attributes:
        global_batch: Queries in a batch over all replicas.
        batch_of: `users`: a query is a user with all their rows. `rows`: a query is one row.
            `requests`: a query is a request, the targets are its rows with items that the user does
            not have by then, of data with repeats all, and only what is strictly earlier is shown.
            See `mtrec.data.dataset.Dataset` for which rows are of one request.
        history_share: Probability that an item is shown as history, with all that the user did with
            it. With `users`, the items not shown are the targets; with `rows`, the other items of
            the row's user are thinned.
        chronological: Whether only what is earlier than the targets is shown (by time, ties
            excluded). With `users`, the targets are then all rows from a moment on with items that
            the user does not have by then. Data with repeats must be shown so, and the targets are
            all rows from that moment on.

    Raises:
        UserError: If there is no query, a query is none of these, or all items would be shown.
    """

    global_batch: int
    batch_of: str
    history_share: float
    chronological: bool

    def __post_init__(self) -> None:
        require("`global_batch`", self.global_batch, least=1)
        if self.batch_of not in ("users", "rows", "requests"):
            raise UserError(f"`batch_of` must be users, rows or requests; got {self.batch_of}.")
        require("`history_share`", self.history_share, least=0, below=1)
