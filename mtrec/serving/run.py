"""A trained run: what every stage after training starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Texts
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.split import Split
from mtrec.data.vocabulary import Vocabulary
from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.errors import UserError
from mtrec.model.recommender import Recommender
from mtrec.serving.answers.pipeline import PLAIN, Answer
from mtrec.serving.manifest import tower_digest


@dataclass(frozen=True)
class Run:
    """A trained run, read back from its directory.

    Attributes:
        directory: The run directory.
        dataset: The data.
        parts: Its split.
        model: The model with the selected weights.
        answer: What makes an answer of it.
    """

    directory: Path
    dataset: Dataset
    parts: Split
    model: Recommender
    answer: Answer = PLAIN

    @cached_property
    def known(self) -> Histories:
        """What users may be known to have at serving time: by train, validation included."""
        return Histories.of(self.dataset, self.parts.train)

    @cached_property
    def now(self) -> int:
        """The latest time that is known, in seconds since 1970: when questions without one come."""
        return int(self.known.times.max(initial=0))

    @cached_property
    def fitted(self) -> Histories:
        """What users have by the rows that were trained on, as validation knows them."""
        return Histories.of(self.dataset, self.parts.fit)

    @property
    def retrieval(self) -> str | None:
        """Name of the head that the index serves: the first that ranks, or None."""
        return next((name for name, head in self.model.heads.items() if head.ranks), None)

    @property
    def rating(self) -> str | None:
        """Name of the head that rates what is shown: the first that rates, or None."""
        return next((name for name, head in self.model.heads.items() if head.rates), None)

    @property
    def item_ids(self) -> Texts:
        """Ids of items 1..C, `[C]`; item row i is at position i - 1 of the index."""
        return self.dataset.items[self.dataset.item_key][1:]

    def user_row(self, user_id: str) -> int:
        """Row of a user, 0 for one the model does not know."""
        return int(Vocabulary(self.dataset.users[self.dataset.user_key]).rows([user_id])[0])

    def item_rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Rows of items `[n]`.

        Raises:
            UserError: If an id is not in the catalogue.
        """
        rows = Vocabulary(self.item_ids).rows(list(item_ids))
        for item_id, row in zip(item_ids, rows, strict=True):
            if row == 0:
                raise UserError(f"{item_id!r} must be an item of {self.dataset.name}; it is not.")
        return rows

    @property
    def tower_digest(self) -> str:
        """Names the candidate tower; an index of another tower is refused."""
        candidate = self.model.candidate
        encoded = {
            path: [np.asarray(array) for array in tf.nest.flatten(column)]
            for path, column in candidate.encoded.items()
        }
        weights = [
            (tuple(w.shape), w.blocks() if isinstance(w, ShardedVariable) else [w.numpy()])
            for w in candidate.weights
        ]
        return tower_digest(weights, self.item_ids, encoded)
