"""The export: a TensorFlow SavedModel, and an MLflow model made of it."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from mtrec.distributed.sharded_tables import mapped
from mtrec.model.bags import row_of_unknown
from mtrec.model.recommender import Recommender
from mtrec.serving.answer import variable
from mtrec.serving.index import Index
from mtrec.serving.manifest import MANIFEST
from mtrec.serving.run import Run
from mtrec.serving.served import (
    Outputs,
    Served,
    ServedSearch,
    encoded_specs,
    new_users,
    of_requests,
)
from mtrec.tracking.records import model_record
from mtrec.tracking.run_dir import CONFIG, EVALUATION, INDEX, METRICS, MODEL, OURS
from mtrec.tracking.whole import replacing

if TYPE_CHECKING:
    import pandas as pd

    from mtrec.tracking.tracker import Tracker

# How many items the MLflow model answers with where no `k` is sent.
DEFAULT_K = 10
# A file in the SavedModel's folder; see `new_users`.
NEW_USERS = "new_users.json"
Functions = dict[str, Callable[..., Outputs]]


def save(run: Run, index: Index | None) -> list[str]:
    """Writes the run's SavedModel to `model/` and returns the names of its signatures.

    The SavedModel needs TensorFlow alone, and `import scann` before it is loaded if the index is a
    ScaNN tree. It holds every table; this process need not hold those that were left on disk,
    which it writes to disk once more meanwhile. Its signatures are methods of `Served` and
    `ServedSearch`; the latter are there if the run has a retrieval head.

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
        tempfile.TemporaryDirectory(dir=aside) as tables,
        mapped(run.model.weights, Path(tables)),
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
    specs = encoded_specs(run)
    encoded, context = list(specs.values()), [specs[path] for path in of_requests(run)]
    served = Served(run, vocabularies=vocabularies)
    root = tf.Module()
    root.resources = served.resources
    methods: dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]] = {
        "score_pairs": (served.score_pairs, [user_id, item_id, *context]),
        "score_new": (served.score_new, [item_id, history, owners, *encoded]),
    }
    if run.retrieval and index:
        search = ServedSearch(run, served, index)
        root.search_resources = search.resources
        k = tf.TensorSpec([], tf.int32, name="k")
        methods["embed_query"] = search.embed_query, [user_id, *context]
        methods["recommend"] = search.recommend, [user_id, k, *context]
        count = tf.TensorSpec([], tf.int32, name="count")
        methods["recommend_new"] = search.recommend_new, [count, k, history, owners, *encoded]
    # Turning Python's `if` into TensorFlow's, of which there is none, takes most of the time.
    functions = {n: tf.function(f, specs, autograph=False) for n, (f, specs) in methods.items()}
    for name, function in functions.items():
        setattr(root, name, function)
    return root, functions


@contextmanager
def _encoded_as_variables(model: Recommender) -> Iterator[None]:
    """Puts variables in place of the towers' encoded columns while the functions are traced.

    Constants would go into the graph, which TensorFlow cannot save beyond 2 GB.
    """
    towers = model.query, model.candidate
    constants = [tower.encoded for tower in towers]
    try:
        for tower in towers:
            tower.encoded = {
                # What was known of past requests is served to nobody.
                path: tf.nest.map_structure(
                    variable, row_of_unknown(column) if path in tower.contexts else column
                )
                for path, column in tower.encoded.items()
            }
        yield
    finally:
        for tower, encoded in zip(towers, constants, strict=True):
            tower.encoded = encoded


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
    record = model_record(
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
    return tracker.log_model(record)


def _description(run: Run, index: Index) -> str:
    """What MLflow's UI says of the model."""
    data, manifest = run.dataset, index.manifest
    lacking = "" if data.repeats else " that the user does not have"
    return (
        f"Recommends items of {data.name} ({data.num_users:,} users, {data.num_items:,} items, "
        f"from {data.source}) for {' and '.join(run.model.heads)}, out of {run.directory}.\n\n"
        "In: `user_id`, or what is known of a new user (`history` and columns of the users); with "
        f"`item_id`, figures on the pair. Out: the best items{lacking}.\n\n"
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
