"""The MLflow model of a run: raw user ids in, titles with scores and ratings out.

MLflow copies this file into the model and runs it where mtrec need not be installed.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

# A query may be scored against the whole catalogue; this bounds the memory it takes.
USERS_AT_ONCE = 256


class RecommenderModel(PythonModel):
    """Answers with the SavedModel's `recommend`."""

    def load_context(self, context: Any) -> None:
        """Loads the SavedModel.

        Args:
            context: Holds the artifacts `model`, the SavedModel, and `index_manifest`.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        manifest = json.loads(Path(context.artifacts["index_manifest"]).read_text())
        if manifest["kind"] == "scann":
            import scann  # noqa: F401  # registers the ops of the tree

        self._tf = tf
        self._model = tf.saved_model.load(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The best items for each user that the user does not have yet.

        Args:
            context: Unused.
            model_input: A column `user_id` of strings or whole numbers.
            params: `k`, the number of items for each user. MLflow fills in the default of the
                model's signature.

        Returns:
            A row for each user and rank: `user_id`, `rank` from 1, `item_id`, `title`, `score`,
            `rating` where the run predicts one, and `known`, whether the model knows the user.

        Raises:
            MlflowException: If fewer than k items are left for a user.
        """
        assert params is not None
        ids = [str(user) for user in model_input["user_id"]]
        starts = range(0, max(1, len(ids)), USERS_AT_ONCE)
        answers = [self._recommend(ids[i : i + USERS_AT_ONCE], params["k"]) for i in starts]
        return pd.concat(answers, ignore_index=True)

    def _recommend(self, ids: list[str], k: int) -> pd.DataFrame:
        recommend = self._model.signatures["recommend"]
        try:
            users = self._tf.constant(ids, self._tf.string)
            outputs = recommend(user_id=users, k=self._tf.constant(k))
        except self._tf.errors.InvalidArgumentError as error:
            # The graph's own sentence stands among TensorFlow's.
            found = re.search(r"assertion failed: \[(.*)\]", error.message)
            message = found[1] if found else error.message
            raise MlflowException.invalid_parameter_value(message) from error
        columns = {name: value.numpy() for name, value in outputs.items()}
        table = {
            "user_id": [user for user in ids for _ in range(k)],
            "rank": np.tile(np.arange(1, k + 1), len(ids)),
            "item_id": _text(columns["item_id"]),
            "title": _text(columns["title"]),
            "score": columns["score"].ravel(),
        }
        if "rating" in columns:
            table["rating"] = columns["rating"].ravel()
        return pd.DataFrame(table | {"known": np.repeat(columns["known"], k)})


def _text(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.ravel()]


set_model(RecommenderModel())
