"""A trained run for raw ids, in TensorFlow ops: what the SavedModel's signatures are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Texts, held
from mtrec.data.inputs import HistoryInputs, PairInputs, QueryInputs
from mtrec.data.requests import TIME, QueryColumns
from mtrec.errors import UserError
from mtrec.heads.max_similarity import score_pairs
from mtrec.model.bags import EncodedBags, from_padded
from mtrec.model.experts import SHARED
from mtrec.serving.answer import Answerer, variable
from mtrec.serving.index import Index
from mtrec.serving.run import Run

# Columns of a question, which a user's own column of that name cannot be.
RESERVED = ("user_id", "history", "item_id")

Outputs = dict[str, tf.Tensor]


class Served:
    """The model for raw ids.

    A user the model does not know is served as row 0 of the users' table without a history, an
    item it does not know as row 0 of the items' table.

    Args:
        run: The trained run.
        vocabularies: A directory for the files of ids, which the SavedModel copies.

    Attributes:
        resources: All variables and tables that the methods read.
    """

    def __init__(self, run: Run, *, vocabularies: Path) -> None:
        self._run, self._model = run, run.model
        self._retrieval, self._rating = run.retrieval, run.rating
        data = run.dataset
        self._users = _row_table(data.users[data.user_key], vocabularies / "users.txt")
        self._items = _row_table(data.items[data.item_key], vocabularies / "items.txt")
        self._offsets = variable(run.known.offsets.astype(np.int64))
        self._history = variable(run.known.items.astype(np.int32))
        self._labels = {name: variable(run.known.labels[name]) for name in run.model.reads}
        self._times = variable(run.known.times) if run.model.reads_before else None
        self.resources = [
            *([] if self._times is None else [self._times]),
            *(self._users, self._items, self._offsets, self._history, *self._labels.values()),
            *(weight.value for weight in run.model.weights),
            *tf.nest.flatten([run.model.query.encoded, run.model.candidate.encoded]),
        ]

    def user_rows(self, user_id: tf.Tensor) -> tf.Tensor:
        """Rows of users, 0 where the model does not know them."""
        return _rows(self._users, user_id)

    def known(self, rows: tf.Tensor, context: Sequence[tf.Tensor]) -> QueryInputs:
        """User rows `[B]` with all that is known of them, and the encoded context of each."""
        starts, ends = tf.gather(self._offsets, rows), tf.gather(self._offsets, rows + 1)
        entries = tf.ragged.range(starts, ends)
        owners = tf.cast(entries.value_rowids(), tf.int32)
        labels = {n: tf.gather(values, entries.flat_values) for n, values in self._labels.items()}
        items = tf.gather(self._history, entries.flat_values)
        times = () if self._times is None else tf.gather(self._times, entries.flat_values)
        history = HistoryInputs(items, owners, labels=labels, times=times)
        return self._asked(QueryInputs(rows, history), context, of_requests(self._run))

    def new(
        self, count: tf.Tensor, history: tf.Tensor, owners: tf.Tensor, encoded: Sequence[tf.Tensor]
    ) -> QueryInputs:
        """So many users whom the model does not know; see `score_new`."""
        rows = HistoryInputs(self._item_rows(history), owners)
        inputs = QueryInputs(tf.zeros([count], tf.int32), rows)
        return self._asked(inputs, encoded, recipes(self._run))

    def score_pairs(self, user_id: tf.Tensor, item_id: tf.Tensor, *context: tf.Tensor) -> Outputs:
        """Figures on pairs of user and item `[N]`, and of context if the model reads one.

        Returns:
            `known` `[N]`, whether the model knows both; `score` `[N]`, the retrieval score, and
            `rating` `[N]`, the predicted rating, where the run has a head for them; what other
            heads say of pairs, such as a probability, by their names, `[N]`; of an ordinal head
            the standard deviation too, such as `rating_spread`.
        """
        users = self.user_rows(user_id)
        # Many pairs may be of one user: the query tower runs once for each, but in any context.
        rows, place = (users, tf.range(tf.size(users))) if context else tf.unique(users)
        return self._score(self.known(rows, context), place, item_id)

    def score_new(
        self, item_id: tf.Tensor, history: tf.Tensor, owners: tf.Tensor, *encoded: tf.Tensor
    ) -> Outputs:
        """`score_pairs` of items `[N]` for N users whom the model does not know.

        Args:
            item_id: The items.
            history: Ids of the items that they chose before side by side, each oldest first, `[H]`.
            owners: The user, 0..N-1, that each belongs to, `[H]`.
            encoded: What `NEW_USERS` makes of their columns, `[N, ...]` each.

        Raises:
            tf.errors.InvalidArgumentError: If an item of a history is not in the catalogue.
        """
        inputs = self.new(tf.size(item_id), history, owners, encoded)
        return self._score(inputs, tf.range(tf.size(item_id)), item_id)

    def _item_rows(self, item_id: tf.Tensor) -> tf.Tensor:
        """Rows of items `[H]`, all of which must be in the catalogue."""
        rows = _rows(self._items, item_id)
        unknown = tf.boolean_mask(item_id, rows == 0)
        named = tf.concat([unknown, [""]], axis=0)[0]
        message = tf.strings.join(
            ["history must hold items of the catalogue; got ", named, ", which is none."]
        )
        with tf.control_dependencies([tf.debugging.Assert(tf.size(unknown) == 0, [message])]):
            return tf.identity(rows)

    def _asked(
        self, inputs: QueryInputs, encoded: Sequence[tf.Tensor], paths: Iterable[str]
    ) -> QueryInputs:
        """Queries with the encoded columns that were sent, by the paths of features."""
        held, sent = _encoded(self._run), dict(zip(paths, encoded, strict=True))
        time = sent.pop(TIME, tf.zeros_like(inputs.users, tf.int64))
        replaced = {
            path: from_padded(column) if isinstance(held[path], EncodedBags) else column
            for path, column in sent.items()
        }
        now = tf.constant(self._run.now, tf.int64)
        return inputs._replace(replaced=replaced, time=tf.where(time == 0, now, time))

    def _score(self, inputs: QueryInputs, place: tf.Tensor, item_id: tf.Tensor) -> Outputs:
        """What is told of items `[N]` and the queries at some places, `[N]`."""
        items = _rows(self._items, item_id)
        queries, candidate = self._model.queries(inputs), self._model.candidates(items)
        query = {name: tf.gather(vectors, place) for name, vectors in queries.items()}
        pairs = PairInputs(inputs, place, items)
        outputs = {"known": (tf.gather(inputs.users, place) > 0) & (items > 0)}
        if self._retrieval:
            embed = self._model.heads[self._retrieval].embed
            outputs["score"] = score_pairs(
                embed(query[self._retrieval]), embed(candidate[self._retrieval])
            )
        for name, head in self._model.heads.items():
            told = "rating" if name == self._rating else name
            found = head.score_pairs(query[name], candidate[name], pairs, name=told)
            if both := outputs.keys() & found.keys():
                raise UserError(
                    f"What is served of a pair must have names of its own; the head {name} and "
                    f"another one, or what every pair is served with, are both told as "
                    f"{', '.join(sorted(both))}. Give the head another name."
                )
            outputs |= found
        return outputs


class ServedSearch:
    """Recommendation for raw ids.

    Args:
        run: The trained run.
        served: Its model for raw ids.
        index: The index of its retrieval head.

    Attributes:
        resources: What the methods read beyond the resources of `served`.
    """

    def __init__(self, run: Run, served: Served, index: Index) -> None:
        self._served = served
        data = run.dataset
        self._item_ids = variable(np.asarray(data.items[data.item_key]))
        self._titles = variable(np.asarray(data.items[data.title]))
        self._answerer = Answerer(run, index, traced=True)
        self.resources = [self._item_ids, self._titles, *self._answerer.resources]

    def embed_query(self, user_id: tf.Tensor, *context: tf.Tensor) -> Outputs:
        """What the index is asked with for users `[B]`, and their context if the model reads one.

        Returns:
            `embedding` `[B, D]`, or `[B, K, D]` of a head with K query vectors above 1; `known`
            `[B]`, whether the model knows the user.
        """
        rows = self._served.user_rows(user_id)
        embedding = self._answerer.embed(self._served.known(rows, context))
        return {"embedding": embedding, "known": rows > 0}

    def recommend(self, user_id: tf.Tensor, k: tf.Tensor, *context: tf.Tensor) -> Outputs:
        """The k best items for users `[B]`, best first; without repeats, of those each lacks.

        Returns:
            `item_id`, `title`, `score` and, with a rating head, `rating`, all `[B, k]`; `known`
            `[B]`, whether the model knows the user.

        Raises:
            tf.errors.InvalidArgumentError: If there are fewer than k items for a user.
        """
        return self._found(self._served.known(self._served.user_rows(user_id), context), k)

    def recommend_new(
        self,
        count: tf.Tensor,
        k: tf.Tensor,
        history: tf.Tensor,
        owners: tf.Tensor,
        *encoded: tf.Tensor,
    ) -> Outputs:
        """`recommend` for so many users whom the model does not know; see `Served.score_new`."""
        return self._found(self._served.new(count, history, owners, encoded), k)

    def _found(self, inputs: QueryInputs, k: tf.Tensor) -> Outputs:
        found = self._answerer.best(inputs, k)
        items = found.pop("item")
        return found | {
            "item_id": tf.gather(self._item_ids, items),
            "title": tf.gather(self._titles, items),
            "known": inputs.users > 0,
        }


def recipes(run: Run) -> dict[str, dict[str, Any]]:
    """How each feature of the query tower that new users can send reads its column, by path."""
    tower, kept = run.model.query, {}
    read = {
        f"query/{scope}/{name}": (feature, tower.trained_rows.get(f"query/{scope}/{name}"))
        for scope in (SHARED, *tower.heads)
        for name, feature in tower.features.get(scope, {}).items()
    }
    read |= {path: (of.feature, of.trained) for path, of in run.model.of_rows.items()}
    for path, (feature, trained) in read.items():
        recipe = feature.recipe()
        if recipe and feature.column not in (run.dataset.user_key, *RESERVED):
            kept[path] = recipe | {
                "column": feature.column,
                "bag": isinstance(_encoded(run)[path], EncodedBags),
                "trained": None if trained is None else trained.tolist(),
            }
    if run.model.reads_time:
        kept[TIME] = {"kind": "seconds", "column": TIME, "bag": False, "trained": None}
    return kept


def of_requests(run: Run) -> list[str]:
    """The paths of `recipes` whose columns tell of a request: known users send them too."""
    told = (*run.model.query.contexts, *run.model.of_rows, TIME)
    return [path for path in recipes(run) if path in told]


def _encoded(run: Run) -> dict[str, tf.Tensor | EncodedBags]:
    """Columns as features have encoded them, by their paths; of rows' context, a single row."""
    of_rows = {path: of.served for path, of in run.model.of_rows.items()}
    return {**run.model.query.encoded, **of_rows, TIME: tf.zeros([1], tf.int64)}


def encoded_specs(run: Run) -> dict[str, tf.TensorSpec]:
    """The inputs of the SavedModel that take what `recipes` make of columns, by their paths."""
    columns = {path: _encoded(run)[path] for path in recipes(run)}
    return {
        # A bag's values come padded with 0, and may be more than any in the table.
        path: tf.TensorSpec([None, None], tf.int64, name=f"encoded_{place}")
        if isinstance(c, EncodedBags)
        else tf.TensorSpec([None, *c.shape[1:]], c.dtype, name=f"encoded_{place}")
        for place, (path, c) in enumerate(columns.items())
    }


def new_users(run: Run) -> dict[str, Any]:
    """How `mlflow_model.py` reads what is sent of a new user, and of any user's request.

    Returns:
        `columns`: the columns of users and requests that may be sent, with their types as in
        `model_record`; `encoded`: what each feature makes of its column, in the order of the
        SavedModel's inputs `encoded_0`, `encoded_1`, ...
    """
    encoded = list(recipes(run).values())
    sent = QueryColumns(run.dataset)
    kinds = {"b": "boolean", "i": "double", "u": "double", "f": "double"}
    columns = {}
    for recipe in encoded:
        values = np.zeros(1) if recipe["column"] == TIME else held(sent[recipe["column"]])
        kind = kinds.get(values.dtype.kind, "string")
        columns[recipe["column"]] = kind + ("[]" if values.ndim > 1 else "")
    return {"columns": columns, "encoded": encoded}


def _row_table(ids: Texts, file: Path) -> tf.lookup.StaticHashTable:
    """A table from id to row - 1, read from `file`, which gets the ids of rows 1, 2, ... in order.

    The SavedModel keeps the file beside its graph, which may not exceed 2 GB.
    """
    names = ids[1:].tolist()
    for name in names:
        if "\n" in name or "\r" in name:
            raise UserError(f"an id must not hold a line break; got {name!r}. Rename it.")
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    rows = tf.lookup.TextFileInitializer(
        str(file),
        key_dtype=tf.string,
        key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticHashTable(rows, default_value=-1)


def _rows(table: tf.lookup.StaticHashTable, ids: tf.Tensor) -> tf.Tensor:
    return tf.cast(table.lookup(ids) + 1, tf.int32)
