"""What MLflow's UI says of an experiment, a run and a model, in Markdown."""

from collections.abc import Mapping, Sequence

# The tag that the UI shows as a description.
NOTE_TAG = "mlflow.note.content"


def experiment_note(name: str) -> str:
    """What stands above the runs of an experiment."""
    return (
        "A run is called by its task, by what its command overrode and by its seed. Its "
        "description has the results and the commands that use its model.\n\n"
        "Metrics are `<split>/<head>/<metric>`. What is named with dots comes last in the charts: "
        "`baseline.…`, `val.…` of the selected epoch, and how training went.\n\n"
        f"`python -m mtrec.compare experiment={name}` compares the runs."
    )


def results_note(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    """A table of metrics on the validation and test part, and of the baselines on the latter.

    Args:
        metrics: A run's metrics.
        names: Those to show, without their split: `retrieval/recall_at_10`.
    """
    lines = ["| metric | validation | test | baseline, test |", "|:--|--:|--:|--:|"]
    for name in names:
        values = (metrics.get(f"{part}/{name}") for part in ("val", "test", "baseline/test"))
        cells = ("" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"| {name}&nbsp;&nbsp; | {' &nbsp;| '.join(cells)} |")
    return "\n".join(lines)


def commands_note(run_dir: str, address: str | None) -> str:
    """How a run's model is asked and served.

    Args:
        run_dir: The run directory.
        address: The model's address in MLflow; None where it has none.
    """
    lines = [f"python -m mtrec.recommend run={run_dir} user_id=..."]
    if address:
        lines.append(f"mlflow models serve -m {address} --env-manager local --port 5001")
    return "\n".join(["```", *lines, "```"])
