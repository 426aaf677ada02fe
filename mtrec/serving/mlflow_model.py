"""The MLflow model of a run: users in, titles with scores and ratings out.

MLflow copies this file into the model and runs it where mtrec need not be installed.
"""

import json
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

# A query may be scored against the whole catalogue; this bounds the memory it takes.
USERS_AT_ONCE = 256
SECONDS_PER_DAY = 86_400
# Before the names of columns that tell of a request.
CONTEXT = "context."

Row = dict[str, Any]


class RecommenderModel(PythonModel):
    """Answers with the SavedModel's signatures."""

    def load_context(self, context: Any) -> None:
        """Loads the SavedModel.

        Args:
            context: Holds the artifacts `model`, the SavedModel, and `index_manifest`.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        import tensorflow as tf

        # Answers are those of the trained model, on GPUs too.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        manifest = json.loads(Path(context.artifacts["index_manifest"]).read_text())
        if manifest["kind"] == "scann":
            import scann  # noqa: F401  # registers the ops of the tree

        self._tf = tf
        self._model = tf.saved_model.load(context.artifacts["model"])
        new_users = json.loads(Path(context.artifacts["model"], "new_users.json").read_text())
        self._columns: dict[str, str] = new_users["columns"]
        self._encoded: list[dict[str, Any]] = new_users["encoded"]
        warnings = logging.getLogger("mlflow.models.utils")
        # MLFLOW_LOGGING_LEVEL=ERROR would keep them from the filter.
        warnings.setLevel(logging.WARNING)
        warnings.addFilter(_refuse_what_would_be_ignored)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The best items for each user, of those that may be recommended, or figures on pairs.

        Args:
            context: Unused.
            model_input: A row for each question. `user_id`, a text or whole number; `history`, the
                ids of items that a user whom the model does not know has chosen, oldest first; the
                columns of the users' table, with what is known of such a user. One of them must be
                there. Columns of the request, such as `context.device`, say when or where any user
                asks. With `item_id` in every row, the rows are pairs of user and item.
            params: `k`, the number of items for each user; not read for pairs. MLflow fills in the
                default of the model's signature.

        Returns:
            A row for each user and rank: `user_id`, `rank` from 1, `item_id`, `title`, `score`,
            `rating` where the run predicts one, and `known`, whether the model knows the user. For
            pairs a row each: `user_id`, `item_id` and what the SavedModel's `score_pairs` says.

        Raises:
            MlflowException: If fewer than k items are left for a user, or a row does not fit.
        """
        assert params is not None
        rows = [self._row(row) for row in model_input.to_dict("records")]
        pairs = [row["item_id"] is not None for row in rows]
        if any(pairs) and not all(pairs):
            _refuse("item_id must be in every row or in none; got rows of both kinds.")
        starts = range(0, max(1, len(rows)), USERS_AT_ONCE)
        answer = self._pairs if any(pairs) else self._recommend
        found = [answer(rows[i : i + USERS_AT_ONCE], params["k"]) for i in starts]
        return pd.concat(found, ignore_index=True)

    def _row(self, row: Row) -> Row:
        """A question with each value as its column's type says, None where there is none."""
        kinds = {"user_id": "string", "item_id": "string", "history": "string[]", **self._columns}
        read = {name: _value(name, row.get(name), kind) for name, kind in kinds.items()}
        of_users = [name for name in self._columns if not name.startswith(CONTEXT)]
        told = [name for name in ("history", *of_users) if read[name] is not None]
        if read["user_id"] is None and not told:
            _refuse(
                "a row must hold a user_id, or what is known of a new user: "
                f"{', '.join(('history', *of_users))}; got none of them."
            )
        return read | {"told": told}

    def _recommend(self, rows: list[Row], k: int) -> pd.DataFrame:
        # The signature checks the type, and lets null through.
        if not isinstance(k, int | np.integer) or not -(2**31) <= k < 2**31:
            _refuse(f"k must be at least 1 and no more than the items there are; got {k}.")
        number = self._tf.constant(k, self._tf.int32)
        columns = self._of_both(
            rows,
            lambda ids, asked: self._ask(
                "recommend", user_id=ids, k=number, **self._context(asked)
            ),
            lambda new, told: self._ask(
                "recommend_new", count=self._tf.constant(len(new)), k=number, **told
            ),
        )
        table = {
            "user_id": [row["user_id"] for row in rows for _ in range(k)],
            "rank": np.tile(np.arange(1, k + 1), len(rows)),
            "item_id": _text(columns["item_id"]),
            "title": _text(columns["title"]),
            "score": columns["score"].ravel(),
        }
        if "rating" in columns:
            table["rating"] = columns["rating"].ravel()
        return pd.DataFrame(table | {"known": np.repeat(columns["known"], k)})

    def _pairs(self, rows: list[Row], k: int) -> pd.DataFrame:
        def items(rows: list[Row]) -> Any:
            return self._tf.constant([row["item_id"] for row in rows], self._tf.string)

        columns = self._of_both(
            rows,
            lambda ids, asked: self._ask(
                "score_pairs", user_id=ids, item_id=items(asked), **self._context(asked)
            ),
            lambda new, told: self._ask("score_new", item_id=items(new), **told),
        )
        table = {name: [row[name] for row in rows] for name in ("user_id", "item_id")}
        return pd.DataFrame(table | columns)

    def _of_both(
        self,
        rows: list[Row],
        of_ids: Callable[[Any, list[Row]], dict[str, np.ndarray]],
        of_new: Callable[[list[Row], dict[str, Any]], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """What is answered to rows with an id alone and to those that tell of a new user."""
        new = np.array([bool(row["told"]) for row in rows], bool)
        if new.any():
            self._check_new([row for row in rows if row["told"]])
        parts = {}
        if not new.all() or not len(new):
            asked = [row for row in rows if not row["told"]]
            ids = self._tf.constant([row["user_id"] for row in asked], self._tf.string)
            parts[False] = of_ids(ids, asked)
        if new.any():
            asked = [row for row in rows if row["told"]]
            parts[True] = of_new(asked, self._told(asked))
        order = np.argsort(np.argsort(new, kind="stable"), kind="stable")
        names = next(iter(parts.values()))
        return {n: np.concatenate([parts[p][n] for p in sorted(parts)])[order] for n in names}

    def _check_new(self, rows: list[Row]) -> None:
        named = [row for row in rows if row["user_id"] is not None]
        ids = self._tf.constant([row["user_id"] for row in named], self._tf.string)
        known = self._ask("embed_query", user_id=ids, **self._context(named))["known"]
        for row, is_known in zip(named, known, strict=True):
            if is_known:
                _refuse(
                    f"{' and '.join(row['told'])} must be left out for users that the model knows; "
                    f"it knows {row['user_id']!r}."
                )

    def _told(self, rows: list[Row]) -> dict[str, Any]:
        """What rows tell of new users, as the SavedModel's signatures take it."""
        histories = [row["history"] or [] for row in rows]
        owners = np.repeat(np.arange(len(rows), dtype=np.int32), [len(h) for h in histories])
        history = self._tf.constant([item for h in histories for item in h], self._tf.string)
        encoded = self._encode(rows, "")
        return {"history": history, "owners": self._tf.constant(owners), **encoded}

    def _context(self, rows: list[Row]) -> dict[str, Any]:
        """What rows tell of their requests, likewise."""
        return self._encode(rows, CONTEXT)

    def _encode(self, rows: list[Row], start: str) -> dict[str, Any]:
        """What features make of the columns whose names begin so."""
        return {
            f"encoded_{place}": self._tf.constant(
                _encoded(recipe, [row[recipe["column"]] for row in rows])
            )
            for place, recipe in enumerate(self._encoded)
            if recipe["column"].startswith(start)
        }

    def _ask(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        try:
            outputs = self._model.signatures[signature](**inputs)
        except self._tf.errors.InvalidArgumentError as error:
            # The graph's own sentence stands among TensorFlow's.
            found = re.search(r"assertion failed: \[(.*)\]", error.message)
            _refuse(found[1] if found else error.message)
        return {name: value.numpy() for name, value in outputs.items()}


def _refuse(message: str) -> None:
    raise MlflowException.invalid_parameter_value(message)


def _refuse_what_would_be_ignored(record: logging.LogRecord) -> bool:
    """Makes an error of MLflow's warning of a column or parameter that it will drop.

    A model never sees those, and who asks over HTTP never sees the warning. Where no server runs,
    the warning is enough.
    """
    message = record.getMessage()
    ignored = message.startswith(("Found extra inputs", "Unrecognized params"))
    if ignored and os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT"):
        names = re.search(r"\[.*?\]", message)
        _refuse(
            "a request must hold columns and params of the model's signature alone; got "
            f"{names[0] if names else 'others'}. Leave them out, or correct their names."
        )
    return True


def _value(name: str, value: Any, kind: str) -> Any:
    """A value as its column's type says; None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind.endswith("[]"):
        if not isinstance(value, list | tuple | np.ndarray) or np.ndim(value) != 1:
            _refuse(f"{name} must be a list; got {_shown(value)}.")
        found = [_value(name, each, kind.removesuffix("[]")) for each in value]
        if None in found:
            _refuse(f"{name} must be a list without nulls; got {_shown(value)}.")
        return found
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    whole = number and float(value).is_integer() and not isinstance(value, float)
    fits = {
        "string": isinstance(value, str) or whole,
        "double": number,
        "boolean": isinstance(value, bool | np.bool_),
    }
    if not fits[kind]:
        _refuse(
            f"{name} must be one {'number' if kind == 'double' else kind} a row; got "
            f'{_shown(value)}. Send rows as {{"dataframe_records": [{{"{name}": ...}}]}}.'
        )
    return str(value) if kind == "string" else value


def _shown(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)


def _text(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.ravel()]


def _encoded(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    """Values of a column as its feature encodes them; rows of a table that are not trained as 0."""
    found = ENCODERS[recipe["kind"]](recipe, values)
    if recipe["trained"] is None:
        return found
    return np.where(np.isin(found, recipe["trained"]), found, 0).astype(np.int64)


# What each kind of `Feature` makes of raw values, by `Feature.recipe`; zeros where there is none.


def _name(value: Any) -> str:
    """A value as text, as `mtrec.data.vocabulary.as_text` writes it."""
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value)


def _rows(recipe: dict[str, Any], values: Sequence[Any], row: Callable[[str], int]) -> np.ndarray:
    """Row numbers of values `[B]`, or of bags `[B, L]` padded with 0."""
    if not recipe["bag"]:
        return np.array([0 if v is None else row(_name(v)) for v in values], np.int64)
    bags = [[row(_name(each)) for each in bag or []] for bag in values]
    return _padded(bags, max(1, *map(len, bags)))


def _padded(bags: Sequence[Sequence[int]], length: int) -> np.ndarray:
    rows = np.zeros((len(bags), length), np.int64)
    for place, bag in enumerate(bags):
        rows[place, : len(bag)] = bag
    return rows


def _vocabulary(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    rows = {name: row for row, name in enumerate(recipe["values"], start=1)}
    return _rows(recipe, values, lambda name: rows.get(name, 0))


def _hash(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    bins = recipe["bins"]
    return _rows(recipe, values, lambda n: zlib.crc32(n.encode()) % bins + 1 if n else 0)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _seconds(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    return np.array([0 if value is None else int(value) for value in values], np.int64)


def _buckets(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    numbers = _numbers(values)
    rows = np.searchsorted(recipe["boundaries"], numbers, side="right") + 1
    return np.where(np.isfinite(numbers), rows, 0).astype(np.int64)


def _words(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    rows = {word: row for row, word in enumerate(recipe["values"], start=1)}
    length = recipe["max_words"]
    texts = [re.findall(r"\w+", (value or "").lower())[:length] for value in values]
    return _padded([[rows.get(word, 0) for word in words] for words in texts], length)


def _number(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    scaled = (_numbers(values) - recipe["mean"]) / recipe["deviation"]
    return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)[:, np.newaxis]


def _moment(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    seconds, first, last = _numbers(values), recipe["first"], recipe["last"]
    known = np.isfinite(seconds) & (seconds != 0)
    seconds = np.where(known, seconds, first)
    trend = 2 * (seconds - first) / max(last - first, 1.0) - 1
    day = 2 * np.pi * seconds / SECONDS_PER_DAY
    columns = [trend, np.sin(day), np.cos(day), np.sin(day / 7), np.cos(day / 7)]
    return np.where(known[:, np.newaxis], np.stack(columns, 1), 0.0).astype(np.float32)


def _vectors(recipe: dict[str, Any], values: Sequence[Any]) -> np.ndarray:
    width = len(recipe["mean"])
    missing = [math.nan] * width
    for value in values:
        if value is not None and len(value) != width:
            _refuse(f"{recipe['column']} must have {width} numbers; got {len(value)}.")
    found = np.array([missing if value is None else value for value in values], np.float64)
    known = np.isfinite(found).all(axis=1, keepdims=True)
    return np.where(known, (found - recipe["mean"]) / recipe["scale"], 0.0).astype(np.float32)


ENCODERS = {
    "vocabulary": _vocabulary,
    "hash": _hash,
    "buckets": _buckets,
    "words": _words,
    "number": _number,
    "seconds": _seconds,
    "moment": _moment,
    "vectors": _vectors,
}

set_model(RecommenderModel())
