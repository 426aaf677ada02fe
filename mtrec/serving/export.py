"""The export: a TensorFlow SavedModel, and an MLflow model made of it."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Texts
from mtrec.data.inputs import HistoryInputs, QueryInputs
from mtrec.errors import UserError
from mtrec.heads.max_similarity import score_pairs
from mtrec.model.bags import BagRows, EncodedBags, from_padded
from mtrec.model.experts import SHARED
from mtrec.model.recommender import Recommender
from mtrec.serving.index import Index
from mtrec.serving.manifest import MANIFEST
from mtrec.serving.run import Run
from mtrec.tracking.run_dir import CONFIG, EVALUATION, INDEX, METRICS, MODEL, OURS
from mtrec.tracking.whole import replacing

if TYPE_CHECKING:
    import pandas as pd

    from mtrec.tracking.tracker import Tracker

# How many items the MLflow model answers with where no `k` is sent.
DEFAULT_K = 10
# A file in the SavedModel's folder; see `new_users`.
NEW_USERS = "new_users.json"
# Columns of a question, which a user's own column of that name cannot be.
RESERVED = ("user_id", "history", "item_id")

Outputs = dict[str, tf.Tensor]
Functions = dict[str, Callable[..., Outputs]]


def save(run: Run, index: Index | None) -> list[str]:
    """Writes the run's SavedModel to `model/` and returns the names of its signatures.

    The SavedModel needs TensorFlow alone, and `import scann` before it is loaded if the index is a
    ScaNN tree. Its signatures are methods of `Served` and `ServedSearch`; the latter are there
    if the run has a retrieval head.

    Args:
        run: The trained run.
        index: Its index; None without a retrieval head.

    Raises:
        UserError: If an id holds a line break, two heads serve something under one name, or
            `model/` holds what no job wrote.
    """
    directory = run.directory / MODEL
    with (
        replacing(directory, OURS[MODEL]) as aside,
        tempfile.TemporaryDirectory() as vocabularies,
        _encoded_as_variables(run.model),
    ):
        root, signatures = _module(run, index, vocabularies=Path(vocabularies))
        tf.saved_model.save(root, str(aside), signatures=signatures)
        (aside / NEW_USERS).write_text(json.dumps(new_users(run)), encoding="utf-8")
    return list(signatures)


def _module(run: Run, index: Index | None, *, vocabularies: Path) -> tuple[tf.Module, Functions]:
    """The module to save and its functions, which are its attributes as well."""
    user_id = tf.TensorSpec([None], tf.string, name="user_id")
    item_id = tf.TensorSpec([None], tf.string, name="item_id")
    history = tf.TensorSpec([None], tf.string, name="history")
    owners = tf.TensorSpec([None], tf.int32, name="owners")
    encoded = _encoded_specs(run)
    served = Served(run, vocabularies=vocabularies)
    root = tf.Module()
    root.resources = served.resources
    functions = {
        "score_pairs": tf.function(served.score_pairs, [user_id, item_id]),
        "score_new": tf.function(served.score_new, [item_id, history, owners, *encoded]),
    }
    if run.retrieval and index:
        search = ServedSearch(run, served, run.retrieval, index)
        root.search_resources = search.resources
        k = tf.TensorSpec([], tf.int32, name="k")
        functions["embed_query"] = tf.function(search.embed_query, [user_id])
        functions["recommend"] = tf.function(search.recommend, [user_id, k])
        count = tf.TensorSpec([], tf.int32, name="count")
        new = [count, k, history, owners, *encoded]
        functions["recommend_new"] = tf.function(search.recommend_new, new)
    for name, function in functions.items():
        setattr(root, name, function)
    return root, functions


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
        self._offsets = _variable(run.known.offsets.astype(np.int64))
        self._history = _variable(run.known.items.astype(np.int32))
        self._labels = {name: _variable(run.known.labels[name]) for name in run.model.reads}
        self.resources = [
            *(self._users, self._items, self._offsets, self._history, *self._labels.values()),
            *(weight.value for weight in run.model.weights),
            *tf.nest.flatten([run.model.query.encoded, run.model.candidate.encoded]),
        ]

    def user_rows(self, user_id: tf.Tensor) -> tf.Tensor:
        """Rows of users, 0 where the model does not know them."""
        return _rows(self._users, user_id)

    def known(self, rows: tf.Tensor) -> QueryInputs:
        """User rows `[B]` with all that is known of them."""
        starts, ends = tf.gather(self._offsets, rows), tf.gather(self._offsets, rows + 1)
        entries = tf.ragged.range(starts, ends)
        owners = tf.cast(entries.value_rowids(), tf.int32)
        labels = {n: tf.gather(values, entries.flat_values) for n, values in self._labels.items()}
        items = tf.gather(self._history, entries.flat_values)
        return QueryInputs(rows, HistoryInputs(items, owners, labels=labels))

    def new(
        self, count: tf.Tensor, history: tf.Tensor, owners: tf.Tensor, encoded: Sequence[tf.Tensor]
    ) -> QueryInputs:
        """So many users whom the model does not know; see `score_new`."""
        rows = HistoryInputs(self._item_rows(history), owners)
        return QueryInputs(tf.zeros([count], tf.int32), rows, replaced=self._replaced(encoded))

    def score_pairs(self, user_id: tf.Tensor, item_id: tf.Tensor) -> Outputs:
        """Figures on pairs of user and item `[N]`.

        Returns:
            `known` `[N]`, whether the model knows both; `score` `[N]`, the retrieval score, and
            `rating` `[N]`, the predicted rating, where the run has a head for them; what other
            heads say of pairs, such as a probability, by their names, `[N]`; of an ordinal head
            the standard deviation too, such as `rating_spread`.
        """
        users = self.user_rows(user_id)
        # Many pairs may be of one user: the query tower runs once for each.
        rows, place = tf.unique(users)
        queries = self._model.queries(self.known(rows))
        query = {name: tf.gather(vectors, place) for name, vectors in queries.items()}
        return self._score(query, users, item_id)

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
        return self._score(self._model.queries(inputs), inputs.users, item_id)

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

    def _replaced(self, encoded: Sequence[tf.Tensor]) -> dict[str, tf.Tensor | BagRows]:
        """Encoded columns of new users by the paths of the query tower's features."""
        held = self._run.model.query.encoded
        return {
            path: from_padded(column) if isinstance(held[path], EncodedBags) else column
            for path, column in zip(_recipes(self._run), encoded, strict=True)
        }

    def _score(self, query: Outputs, users: tf.Tensor, item_id: tf.Tensor) -> Outputs:
        items = _rows(self._items, item_id)
        candidate = self._model.candidates(items)
        outputs = {"known": (users > 0) & (items > 0)}
        if self._retrieval:
            embed = self._model.heads[self._retrieval].embed
            outputs["score"] = score_pairs(
                embed(query[self._retrieval]), embed(candidate[self._retrieval])
            )
        for name, head in self._model.heads.items():
            told = "rating" if name == self._rating else name
            found = head.score_pairs(query[name], candidate[name], users, items, name=told)
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
        retrieval: The retrieval head that the index serves.
        index: The index.

    Attributes:
        resources: What the methods read beyond the resources of `served`.
    """

    def __init__(self, run: Run, served: Served, retrieval: str, index: Index) -> None:
        self._model, self._served = run.model, served
        self._retrieval, self._rating = retrieval, run.rating
        data = run.dataset
        self._item_ids = _variable(np.asarray(data.items[data.item_key]))
        self._titles = _variable(np.asarray(data.items[data.title]))
        self._index = index.as_module()
        self.resources = [self._item_ids, self._titles, self._index]

    def embed_query(self, user_id: tf.Tensor) -> Outputs:
        """What the index is asked with for users `[B]`.

        Returns:
            `embedding` `[B, D]`, or `[B, K, D]` of a head with K query vectors above 1; `known`
            `[B]`, whether the model knows the user.
        """
        rows = self._served.user_rows(user_id)
        queries = self._model.queries(self._served.known(rows))
        return {"embedding": self._embed(queries), "known": rows > 0}

    def recommend(self, user_id: tf.Tensor, k: tf.Tensor) -> Outputs:
        """The k best items for users `[B]` among those each does not have yet, best first.

        Returns:
            `item_id`, `title`, `score` and, with a rating head, `rating`, all `[B, k]`; `known`
            `[B]`, whether the model knows the user.

        Raises:
            tf.errors.InvalidArgumentError: If fewer than k items are left for a user.
        """
        return self._found(self._served.known(self._served.user_rows(user_id)), k)

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
        rows, history, queries = inputs.users, inputs.history, self._model.queries(inputs)
        excluded = tf.stack([history.owners, history.items - 1], axis=1)
        scores, positions = self._index.search(self._embed(queries), k, excluded)
        items = positions + 1
        outputs = {
            "item_id": tf.gather(self._item_ids, items),
            "title": tf.gather(self._titles, items),
            "score": scores,
            "known": rows > 0,
        }
        if self._rating:
            flat, k = tf.reshape(items, [-1]), tf.shape(items)[1]
            rating = self._model.heads[self._rating].score_pairs(
                tf.repeat(queries[self._rating], k, axis=0),
                self._model.candidates(flat)[self._rating],
                tf.repeat(rows, k),
                flat,
                name="rating",
            )["rating"]
            outputs["rating"] = tf.reshape(rating, tf.shape(items))
        return outputs

    def _embed(self, queries: Outputs) -> tf.Tensor:
        return self._model.heads[self._retrieval].embed(queries[self._retrieval])


def _recipes(run: Run) -> dict[str, dict[str, Any]]:
    """How each feature of the query tower that new users can send reads its column, by path."""
    tower, kept = run.model.query, {}
    for scope in (SHARED, *tower.heads):
        for name, feature in tower.features.get(scope, {}).items():
            recipe = feature.recipe()
            if recipe and feature.column not in (run.dataset.user_key, *RESERVED):
                path = f"query/{scope}/{name}"
                bag = isinstance(tower.encoded[path], EncodedBags)
                trained = tower.trained_rows.get(path)
                kept[path] = recipe | {
                    "column": feature.column,
                    "bag": bag,
                    "trained": None if trained is None else trained.tolist(),
                }
    return kept


def _encoded_specs(run: Run) -> list[tf.TensorSpec]:
    columns = [run.model.query.encoded[path] for path in _recipes(run)]
    return [
        # A bag's values come padded with 0, and may be more than any in the table.
        tf.TensorSpec([None, None], tf.int32, name=f"encoded_{place}")
        if isinstance(c, EncodedBags)
        else tf.TensorSpec([None, *c.shape[1:]], c.dtype, name=f"encoded_{place}")
        for place, c in enumerate(columns)
    ]


def new_users(run: Run) -> dict[str, Any]:
    """How `serving_model.py` reads what is sent of a new user.

    Returns:
        `columns`: the columns of the users' table that may be sent, with their types as in
        `Tracker.log_model`; `encoded`: what each feature makes of its column, in the order of the
        SavedModel's inputs `encoded_0`, `encoded_1`, ...
    """
    recipes = list(_recipes(run).values())
    kinds = {"b": "boolean", "i": "double", "u": "double", "f": "double"}
    columns = {}
    for recipe in recipes:
        values = np.asarray(run.dataset.users[recipe["column"]])
        kind = kinds.get(values.dtype.kind, "string")
        columns[recipe["column"]] = kind + ("[]" if values.ndim > 1 else "")
    return {"columns": columns, "encoded": recipes}


@contextmanager
def _encoded_as_variables(model: Recommender) -> Iterator[None]:
    """Puts variables in place of the towers' encoded columns while the functions are traced.

    Constants would go into the graph, which TensorFlow cannot save beyond 2 GB.
    """
    towers = model.query, model.candidate
    constants = [tower.encoded for tower in towers]
    try:
        for tower in towers:
            tower.encoded = tf.nest.map_structure(_variable, tower.encoded)
        yield
    finally:
        for tower, encoded in zip(towers, constants, strict=True):
            tower.encoded = encoded


def _variable(values: np.ndarray | tf.Tensor) -> tf.Variable:
    return tf.Variable(values, trainable=False)


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


def log(run: Run, index: Index | None, tracker: "Tracker") -> str | None:
    """Logs to MLflow what the run directory holds, and its SavedModel as a pyfunc model.

    Returns:
        The model's address in MLflow. Without a retrieval head there is nothing to recommend, and
        no model is logged; while MLflow is out of reach, it has no address yet.
    """
    for name in (CONFIG, METRICS, EVALUATION):
        tracker.log_file(run.directory / name, "")
    if index is None:
        return None
    manifest = run.directory / INDEX / MANIFEST
    tracker.log_file(manifest, INDEX)
    return tracker.log_model(
        name=f"{run.dataset.name} {' and '.join(run.model.heads)}",
        description=_description(run, index),
        code_path=Path(__file__).with_name("mlflow_model.py"),
        artifacts={"model": run.directory / MODEL, "index_manifest": manifest},
        inputs={"user_id": "string", "history": "string[]", "item_id": "string"}
        | new_users(run)["columns"],
        outputs=_columns(run),
        params={"k": DEFAULT_K},
        input_example=_example(run),
        pip_requirements=_requirements(index),
    )


def _description(run: Run, index: Index) -> str:
    """What MLflow's UI says of the model."""
    data, manifest = run.dataset, index.manifest
    return (
        f"Recommends items of {data.name} ({data.num_users:,} users, {data.num_items:,} items, "
        f"from {data.source}) for {' and '.join(run.model.heads)}, out of {run.directory}.\n\n"
        "In: `user_id`, or what is known of a new user (`history` and columns of the users); with "
        "`item_id`, figures on the pair. Out: the best items that the user does not have.\n\n"
        f"Index: {manifest.kind}, recall@{manifest.k} against exact search "
        f"{manifest.recall_at_k:.4f}."
    )


def _columns(run: Run) -> dict[str, str]:
    """The columns that `mlflow_model.py` answers with, by MLflow's types."""
    columns = {"user_id": "string", "rank": "long", "item_id": "string", "title": "string"}
    columns |= {"score": "float"} | ({"rating": "float"} if run.rating else {})
    return columns | {"known": "boolean"}


def _example(run: Run) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"user_id": run.dataset.users[run.dataset.user_key][1:3].tolist()})


def _requirements(index: Index) -> list[str]:
    names = ["mlflow", "numpy", "pandas", "tensorflow"]
    if index.manifest.kind == "scann":
        names.append("scann")
    return [f"{name}=={version(name)}" for name in names]
