"""Where MLflow's UI shows a run."""

from pathlib import Path

from mtrec.tracking.mlflow_client import connect
from mtrec.tracking.mlflow_run import PENDING_RUN_ID, RUN_ID_FILE
from mtrec.tracking.store import resolve_uri, shown

# Without it, the UI opens on traces of language models.
_VIEW = "workflowType=machine_learning"


def how_to_open(run_dir: Path, uri: str | None) -> str:
    """How to see a job's run in the UI: its address, and before it the command that serves it.

    Args:
        run_dir: The run directory of the job.
        uri: See `resolve_uri`.

    Returns:
        One line. Without the run's page where MLflow has not heard of it, or is out of reach.
    """
    uri = resolve_uri(uri)
    path = f"#/experiments?{_VIEW}"
    run_id = (run_dir / RUN_ID_FILE).read_text("utf-8")
    if run_id != PENDING_RUN_ID:
        try:
            path = page(connect(uri).get_run(run_id).info.experiment_id, run_id)
        except Exception:  # whatever MLflow and the libraries below it raise
            path = f"#/experiments?{_VIEW}"
    default = uri == resolve_uri(None)
    serve = "mlflow ui" if default else f"mlflow ui --backend-store-uri {shown(uri)}"
    return f"{'' if uri.startswith('http') else f'{serve}, then '}{server(uri)}/{path}"


def server(uri: str) -> str:
    """The address of the UI of a resolved store: where `mlflow ui` serves a database."""
    return shown(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def page(experiment_id: str, run_id: str) -> str:
    """The path of a run's page, after the address of the server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_VIEW}"
