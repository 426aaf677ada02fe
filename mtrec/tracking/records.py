"""What a job tells MLflow, as records of plain JSON values."""

import json
import math
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrec.tracking.outbox import Record

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mtrec.data.dataset import Dataset

# What begins the name in MLflow of what the test part says.
TEST = "test/"
_MAX_DIGEST_LENGTH = 36  # MLflow's limit


def metrics_record(metrics: Mapping[str, float], *, step: int) -> Record:
    """Returns the record of metrics at one step, without those that are not finite."""
    values = {allowed_name(shown_name(key)): float(value) for key, value in metrics.items()}
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    return {"kind": "metrics", "step": step, "time": milliseconds(), "metrics": finite}


def dataset_record(dataset: "Dataset", *, split_counts: Mapping[str, int]) -> Record:
    """Returns the record of a dataset and of how many of its interactions are in each split."""
    rows = len(dataset.interactions["user"])
    profile = {
        "num_rows": rows,
        "num_elements": rows * len(dataset.interactions),
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
    }
    tables = {
        "interactions": dataset.interactions,
        "users": dataset.users,
        "items": dataset.items,
    }
    schema = [
        {"name": f"{table}.{name}", **_column_type(column), "required": True}
        for table, columns in tables.items()
        for name, column in columns.items()
    ]
    return {
        "kind": "dataset",
        "dataset": {
            "name": dataset.name,
            "digest": dataset.digest[:_MAX_DIGEST_LENGTH],
            "source_type": "local",
            "source": json.dumps({"uri": dataset.source}),
            "schema": json.dumps({"mlflow_colspec": schema}),
            "profile": json.dumps(profile),
        },
        "tags": {
            "mlflow.data.context": "training",
            **{f"mtrec.rows.{split}": str(count) for split, count in split_counts.items()},
        },
    }


def model_record(
    *,
    name: str,
    description: str,
    code_path: Path,
    artifacts: Mapping[str, Path],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    params: Mapping[str, Any],
    input_example: "pd.DataFrame",
    pip_requirements: Sequence[str],
) -> Record:
    """Returns the record of an MLflow pyfunc model made of a file of code and of artifacts.

    MLflow would predict once to infer the signature, once to find the requirements and once
    to try the example; here the caller states what it would infer, and nothing is predicted.

    Args:
        name: What the model is called; characters that MLflow does not allow become `_`.
        description: What the UI says of it, in Markdown.
        code_path: A Python file that calls `mlflow.models.set_model`.
        artifacts: Files and folders that the code finds in `context.artifacts`.
        inputs: The columns that a question may have, each with its type by MLflow's name (`string`,
            `long`, `float`, `double`, `boolean`, or `any` for what MLflow need not check), with
            `[]` behind it for a list of them.
        outputs: The columns that an answer may have.
        params: What may be sent beside the rows, with the values where nothing is sent.
        input_example: Rows as a user would send them.
        pip_requirements: What has to be installed where the model runs.
    """
    return {
        "kind": "model",
        "name": re.sub(r"[^\w\- ]", "_", name),
        "description": description,
        "code": str(code_path.resolve()),
        "artifacts": {key: str(path.resolve()) for key, path in artifacts.items()},
        "inputs": dict(inputs),
        "outputs": dict(outputs),
        "params": dict(params),
        "input_example": _packed(input_example),
        "pip_requirements": list(pip_requirements),
    }


def shown_name(key: str) -> str:
    """Returns the name of a metric in MLflow, which is its own unless it is telemetry.

    MLflow draws the charts of a run in sections, by what stands before a name's last slash and in
    alphabetical order; names without a slash come last. There telemetry goes, with dots.
    """
    charted = key.startswith(("val/", TEST)) or key.endswith("/loss")
    return key if charted else summary_name(key)


def summary_name(key: str) -> str:
    """Returns the name in MLflow of a metric that has one value a run, such as a baseline."""
    return key.replace("/", ".")


def named_again(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns a run's metrics in MLflow by their own names; what its summary says counts."""
    charted = {key: value for key, value in metrics.items() if "/" in key}
    summed = {key.replace(".", "/"): value for key, value in metrics.items() if "/" not in key}
    return charted | summed


def unpacked(table: Mapping[str, Any]) -> "pd.DataFrame":
    """Returns an example table of a model's record with its column types."""
    import pandas as pd

    return pd.DataFrame(table["data"], columns=table["columns"]).astype(table["types"])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns a nested config as one level of dotted names and of values as text.

    Values read as they would on the command line: `null`, `true`, and lists as JSON.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, prefix=f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[allowed_name(name)] = text
    return flat


def allowed_name(name: str) -> str:
    """Returns a name of a metric or parameter with what MLflow refuses in it replaced by `_`."""
    return posixpath.normpath(re.sub(r"[^\w\-. :/]", "_", name)).strip("/")


def milliseconds() -> int:
    """Returns the time since the epoch as MLflow counts it."""
    return int(time.time() * 1000)


def _column_type(column: "np.ndarray") -> dict[str, Any]:
    kinds = {"i": "long", "u": "long", "f": "double", "b": "boolean"}
    scalar = kinds.get(column.dtype.kind, "string")
    return {"type": scalar} if column.ndim == 1 else {"type": "array", "items": {"type": scalar}}


def _packed(table: "pd.DataFrame") -> dict[str, Any]:
    split = json.loads(table.to_json(orient="split", index=False, double_precision=15))
    types = {name: str(dtype) for name, dtype in table.dtypes.items()}
    return {"columns": split["columns"], "data": split["data"], "types": types}
