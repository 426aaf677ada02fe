"""Where the MLflow store is."""

import os
import re
from pathlib import Path

from mtrec.errors import UserError

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def resolve_uri(uri: str | None) -> str:
    """Returns the address of the tracking store, independent of the working directory.

    Args:
        uri: A database such as `sqlite:///mlflow.db`, the address of a server, or None for the
            store that MLflow opens here without flags: `MLFLOW_TRACKING_URI` where it is set, else
            `mlflow.db` in the current directory.

    Raises:
        UserError: If `uri` is a plain folder, which MLflow 3 refuses, or no address at all.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = re.match(r"(\w+)(\+\w+)?(:|$)", uri)
    nowhere = re.fullmatch(r"https?:/*", uri)
    if scheme is None or scheme[1] not in _SCHEMES or nowhere:
        raise UserError(
            f"tracking.uri must start with one of {', '.join(_SCHEMES)}; got {uri}. "
            "Set tracking.uri=null for mlflow.db in the current directory, "
            "or tracking.uri=sqlite:////absolute/path/mlflow.db."
        )
    file = sqlite_file(uri)
    return f"sqlite:///{file}" if file else uri


def sqlite_file(uri: str) -> Path | None:
    """Returns the file of an SQLite store, None for any other store."""
    scheme, _, path = uri.partition(":///")
    return Path(path).resolve() if scheme.startswith("sqlite") and path else None


def shown(uri: str) -> str:
    """Returns the address without the user and password it may carry."""
    return re.sub(r"//[^@/]+@", "//***@", uri)
