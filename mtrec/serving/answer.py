"""What a trained model answers: the best items for queries, with their scores and ratings.

It is made of TensorFlow ops: `mtrec.recommend` runs them at once, the SavedModel holds them traced.
"""

from dataclasses import dataclass

import tensorflow as tf

from mtrec.data.inputs import QueryInputs
from mtrec.model.recommender import Recommender
from mtrec.serving.search_module import SearchFunction


@dataclass(frozen=True)
class Answerer:
    """Finds items for queries.

    Attributes:
        model: The model.
        retrieval: The head that the index serves.
        rating: The head that rates what is found; None for none.
        search: The index's search; see `mtrec.serving.search_module.SearchModule.search`.
        repeats: Whether what a history holds may be found again.
    """

    model: Recommender
    retrieval: str
    rating: str | None
    search: SearchFunction
    repeats: bool

    def embed(self, inputs: QueryInputs) -> tf.Tensor:
        """What the index is asked with, `[Q, D]` or `[Q, K, D]`."""
        return self._embed(self.model.queries(inputs))

    def best(self, inputs: QueryInputs, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """The k best items of each query, without repeats those its history does not hold.

        Args:
            inputs: The queries, whose histories have an item for each entry.
            k: How many items.

        Returns:
            `item`, the item rows, best first, `score` and, with a head for it, `rating`, `[Q, k]`
            each.

        Raises:
            tf.errors.InvalidArgumentError: If fewer than k items are left for a query.
        """
        queries, history = self.model.queries(inputs), inputs.history
        excluded = tf.stack([history.owners, history.items - 1], axis=1)
        excluded = excluded[:0] if self.repeats else excluded
        scores, positions = self.search(self._embed(queries), k, excluded)
        found = {"item": positions + 1, "score": scores}
        if self.rating:
            flat, k = tf.reshape(found["item"], [-1]), tf.shape(positions)[1]
            rating = self.model.heads[self.rating].score_pairs(
                tf.repeat(queries[self.rating], k, axis=0),
                self.model.candidates(flat)[self.rating],
                tf.repeat(inputs.users, k),
                flat,
                name="rating",
            )["rating"]
            found["rating"] = tf.reshape(rating, tf.shape(positions))
        return found

    def _embed(self, queries: dict[str, tf.Tensor]) -> tf.Tensor:
        return self.model.heads[self.retrieval].embed(queries[self.retrieval])
