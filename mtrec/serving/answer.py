"""What a trained model answers: the items of an `Answer`'s stages, with their scores and ratings.

It is made of TensorFlow ops: `recommend` runs them at once, the SavedModel holds them traced.
Shapes: `Q` queries, `N` candidates of each, `k` items of an answer, `C` items.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtrec.data.histories import Histories
from mtrec.data.inputs import PairInputs, QueryInputs
from mtrec.errors import UserError
from mtrec.heads.max_similarity import score_pairs
from mtrec.heads.membership import is_in
from mtrec.heads.row_products import unit
from mtrec.serving.answers.candidates import Asked, ForAll, Known
from mtrec.serving.index import Index
from mtrec.serving.run import Run

Vectors = dict[str, tf.Tensor]


class Staged(NamedTuple):
    """What the stages make of queries, as item rows, 0 where there is none.

    Attributes:
        candidates: The candidates that the filter keeps, `[Q, N]`.
        fused: The best of them by their score, `[Q, min(k, N)]`.
        answered: What is answered, `[Q, min(k, N)]`.
        score: Of that, -inf where there is none.
    """

    candidates: tf.Tensor
    fused: tf.Tensor
    answered: tf.Tensor
    score: tf.Tensor


class Answerer:
    """Answers queries by the stages of a run's `Answer`.

    Args:
        run: The trained run, which has a retrieval head.
        index: Its index.
        traced: Whether it is traced for a SavedModel.
        known: What is known of all users; the run's own without.

    Attributes:
        resources: Variables that it reads beyond those of the model, and modules.

    Raises:
        UserError: If a stage names what the data or the model lacks.
    """

    def __init__(
        self, run: Run, index: Index, *, traced: bool, known: Histories | None = None
    ) -> None:
        assert run.retrieval, "the run has no retrieval head"
        self._model, self._retrieval, self._rating = run.model, run.retrieval, run.rating
        self._answer, data = run.answer, run.dataset
        check_names(run)
        kept, self._seen = self._answer.filter.kept(data), self._answer.filter.keeps_seen(data)
        few, rows = index.among(kept)
        module = few.as_module() if traced else None
        self._search = module.up_to if module else few.at_once
        self._size = int(kept.sum())
        places = np.full(data.num_items, -1, np.int32)
        places[rows] = np.arange(len(rows))
        self._rows, self._places = variable(rows + 1), variable(places)
        self._kept = variable(np.concatenate([[False], kept]))
        all_known = Known(data, run.known if known is None else known, kept)
        self._finders = [s.ready(all_known) for s in self._answer.candidates.values()]
        fuse, arrange = self._answer.fuse, self._answer.arrange
        told = {
            name: np.concatenate([[np.nan], source.values(all_known)])
            for name, source in _for_all(run).items()
        }
        columns = fuse.names - _of_heads(run) if fuse else set()
        self._columns = {
            n: variable((told[n] if n in told else data.items[n]).astype(np.float32))
            for n in columns
        }
        self._categories = variable(arrange.categories(data)) if arrange else None
        held = [self._rows, self._places, self._kept, self._categories, *self._columns.values()]
        self.resources = [each for each in (module, *held) if each is not None]

    def embed(self, inputs: QueryInputs) -> tf.Tensor:
        """What the index is asked with, `[Q, D]` or `[Q, K, D]`."""
        return self._embed(self._model.queries(inputs)[self._retrieval])

    def best(self, inputs: QueryInputs, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answers with k items for each query.

        Args:
            inputs: The queries, whose histories have an item for each entry.
            k: How many items.

        Returns:
            `item`, the item rows in the answer's order, `score` and, with a head for it, `rating`,
            `[Q, k]` each.

        Raises:
            tf.errors.InvalidArgumentError: If there are fewer than k items for a query.
        """
        return self._answered(inputs, k, checked=True)

    def up_to(self, inputs: QueryInputs, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """What `best` answers, with item 0 where there is none; for a k below 1 with all there are.

        Args:
            inputs: As for `best`.
            k: How many items.

        Returns:
            As `best`, `[Q, <=k]` each.
        """
        return self._answered(inputs, k, checked=False)

    def _answered(self, inputs: QueryInputs, k: tf.Tensor, *, checked: bool) -> Vectors:
        queries = self._model.queries(inputs)
        number = tf.where((k < 1) | (k > self._size), self._size, k)
        staged = self._staged(inputs, queries, number)
        check = [self._check(staged.answered, k)] if checked else []
        with tf.control_dependencies(check):
            items = tf.identity(staged.answered)
        found = {"item": items, "score": staged.score}
        if self._rating:
            found["rating"] = self._told({self._rating}, inputs, queries, items)[self._rating]
        return found

    def stages(self, inputs: QueryInputs, k: int) -> Staged:
        """What each of the stages leaves, for at most k items of an answer."""
        number = tf.constant(min(k, self._size))
        return self._staged(inputs, self._model.queries(inputs), number)

    def told(self, inputs: QueryInputs) -> tuple[tf.Tensor, Vectors]:
        """The candidates of queries, `[Q, N]`, and what is fused of them by name, `[Q, N]` each."""
        assert self._answer.fuse
        queries = self._model.queries(inputs)
        items, _ = self._candidates(inputs, queries, tf.constant(self._size))
        return items, self._told(self._answer.fuse.names, inputs, queries, items)

    def _staged(self, inputs: QueryInputs, queries: Vectors, k: tf.Tensor) -> Staged:
        items, scores = self._candidates(inputs, queries, k)
        fuse, arrange = self._answer.fuse, self._answer.arrange
        names = {self._retrieval} if fuse is None else fuse.names
        if scores is None or fuse:
            told = self._told(names, inputs, queries, items)
            scores = fuse(told, items > 0) if fuse else told[self._retrieval]
            # What a formula leaves undefined, such as the logarithm of a number below 0, is worst.
            scores = tf.where(tf.math.is_nan(scores), scores.dtype.min, scores)
            scores = tf.clip_by_value(scores, scores.dtype.min, scores.dtype.max)
        scores = tf.where(items > 0, scores, float("-inf"))
        k = tf.minimum(k, tf.shape(items)[1])
        best = tf.math.top_k(scores, k)
        fused = tf.gather(items, best.indices, batch_dims=1)
        if arrange is None:
            return Staged(items, fused, fused, best.values)
        vectors = unit(self._encoded(items, self._retrieval))
        chosen = arrange(scores, vectors, tf.gather(self._categories, items), k)
        place = tf.maximum(chosen, 0)
        answered, score = (tf.gather(x, place, batch_dims=1) for x in (items, scores))
        return Staged(
            candidates=items,
            fused=fused,
            answered=tf.where(chosen < 0, 0, answered),
            score=tf.where(chosen < 0, float("-inf"), score),
        )

    def _candidates(
        self, inputs: QueryInputs, queries: Vectors, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Each candidate of the sources once, `[Q, N]`, and the scores if they are known."""
        history, seen = inputs.history, self._seen
        excluded = tf.stack([history.owners, tf.gather(self._places, history.items - 1)], axis=1)
        excluded = excluded[:0] if seen else tf.boolean_mask(excluded, excluded[:, 1] >= 0)
        embedded = self._embed(queries[self._retrieval])

        def best(count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            scores, positions = self._search(embedded, count, excluded)
            return tf.where(tf.math.is_inf(scores), 0, tf.gather(self._rows, positions)), scores

        asked = Asked(inputs, k, best)
        found = [find(asked) for find in self._finders]
        if len(found) == 1 and found[0][1] is not None:
            return found[0]
        items = tf.concat([rows for rows, _ in found], axis=1)
        left_out = ~tf.gather(self._kept, items) | _again(items)
        if not seen:
            width = self._kept.shape[0]
            owners = tf.range(tf.shape(items)[0])[:, tf.newaxis]
            left_out |= is_in(
                _numbered(owners, items, width), _numbered(history.owners, history.items, width)
            )
        return tf.where(left_out, 0, items), None

    def _told(
        self, names: Iterable[str], inputs: QueryInputs, queries: Vectors, items: tf.Tensor
    ) -> Vectors:
        """What heads and columns say of the items of each query, `[Q, N]` by their names."""
        shape, (distinct, place) = tf.shape(items), tf.unique(tf.reshape(items, [-1]))
        encoded = self._model.candidates(distinct)
        owner = tf.repeat(tf.range(shape[0]), shape[1])
        pairs = PairInputs(inputs, owner, tf.gather(distinct, place))
        told = {}
        for name, head in self._model.heads.items():
            if not any(f"{each}_".startswith(f"{name}_") for each in names):
                continue
            query = tf.gather(queries[name], owner)
            candidate = tf.gather(encoded[name], place)
            if head.ranks:
                told[name] = score_pairs(head.embed(query), head.embed(candidate))
            told |= head.score_pairs(query, candidate, pairs, name=name)
        told = {name: tf.reshape(values, shape) for name, values in told.items()}
        return told | {n: tf.gather(column, items) for n, column in self._columns.items()}

    def _encoded(self, items: tf.Tensor, name: str) -> tf.Tensor:
        """What a head's index holds of items, `[Q, N, D]`."""
        distinct, place = tf.unique(tf.reshape(items, [-1]))
        vectors = self._model.heads[name].embed(self._model.candidates(distinct)[name])
        return tf.gather(vectors, tf.reshape(place, tf.shape(items)))

    def _embed(self, query: tf.Tensor) -> tf.Tensor:
        return self._model.heads[self._retrieval].embed(query)

    def _check(self, items: tf.Tensor, k: tf.Tensor) -> tf.Operation:
        there = tf.reduce_sum(tf.cast(items > 0, tf.int32), axis=1)
        left = tf.reduce_min(tf.pad(there, [[0, 1]], constant_values=self._size))
        return tf.debugging.Assert(
            (k >= 1) & (k <= left),
            [
                tf.strings.format(
                    "k must lie between 1 and {}, the number of items that may be recommended to"
                    " each of these users; got k={}.",
                    (left, k),
                )
            ],
        )


def check_names(run: Run) -> None:
    """Raises a `UserError` if an answer's fusion reads what no head, source or column tells."""
    if run.answer.fuse is None:
        return
    numbers = {
        name
        for name, column in run.dataset.items.items()
        if isinstance(column, np.ndarray) and column.ndim == 1
    }
    heads, sources = _of_heads(run), _for_all(run)
    for name in run.answer.fuse.names - heads - numbers - set(sources):
        raise UserError(
            f"`fuse` must name heads ({', '.join(run.model.heads)}), sources for all "
            f"({', '.join(sources) or 'there is none'}) or columns of numbers of the "
            f"items ({', '.join(sorted(numbers)) or 'there is none'}); got {name}."
        )


def _for_all(run: Run) -> dict[str, ForAll]:
    """The sources whose values an answer's fusion may read."""
    sources = run.answer.candidates.items()
    return {name: source for name, source in sources if isinstance(source, ForAll)}


def _of_heads(run: Run) -> set[str]:
    """What an answer's fusion reads of heads."""
    names = run.answer.fuse.names if run.answer.fuse else set()
    heads, columns = run.model.heads, run.dataset.items.keys()
    told = {n for n in names - columns if any(n.startswith(f"{head}_") for head in heads)}
    return told | names & heads.keys()


def _again(items: tf.Tensor) -> tf.Tensor:
    """Whether an item stands further left in its row, too; `[Q, N]`."""
    order = tf.argsort(items, axis=1, stable=True)
    ordered = tf.gather(items, order, batch_dims=1)
    again = tf.pad(ordered[:, 1:] == ordered[:, :-1], [[0, 0], [1, 0]])
    return tf.gather(again, tf.argsort(order, axis=1), batch_dims=1)


def _numbered(rows: tf.Tensor, items: tf.Tensor, width: int) -> tf.Tensor:
    return tf.cast(rows, tf.int64) * width + tf.cast(items, tf.int64)


def variable(values: np.ndarray | tf.Tensor) -> tf.Variable:
    """A variable that holds what a constant would, which the graph cannot beyond 2 GB."""
    return tf.Variable(values, trainable=False)
