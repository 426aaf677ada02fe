"""The stages of the main job after training, in order; each works in the run directory."""

import json
from collections.abc import Mapping

import numpy as np

from mtrec.heads.head import Report
from mtrec.jobs import answers
from mtrec.model.encode import embed_items, embed_users
from mtrec.reports import per_user
from mtrec.serving import export as exporting
from mtrec.serving import index as indexing
from mtrec.serving import run
from mtrec.tracking import run_dir
from mtrec.tracking.whole import write_text
from mtrec.training.evaluate import (
    EVERYBODY,
    SPLITS,
    Evaluator,
    Sample,
    evaluator_of,
    flat_metrics,
)
from mtrec.training.loop import Metrics
from mtrec.training.measured import Measured

# Users whose queries the index is measured with.
MOST_QUERIES = 1024


def evaluate(
    trained: run.Run,
    measured: Mapping[str, Measured] | None = None,
    sample: Sample = EVERYBODY,
) -> tuple[Metrics, dict[str, Report]]:
    """Looks at the test part, once.

    Writes `metrics.json`, `evaluation.json` and, for tests over users, `evaluation_users.parquet`.

    Args:
        trained: The run.
        measured: What the workers that trained it measured of each split, which
            `mtrec.training.measured` reads; without it, the run's model is judged here, in this
            process.
        sample: The users of each split who are judged, or were.

    Returns:
        The metrics of both splits, and the report of each head on the test part.
    """
    metrics: Metrics = {}
    for split in SPLITS:
        evaluator = _evaluator(trained, split, sample)
        if measured is None:
            reports = evaluator(trained.model, full=True)
        else:
            reports = evaluator.report(measured[split], trained.model.heads)
        metrics |= flat_metrics(reports, split)
    details = {name: {"slices": report.slices, **report.tables} for name, report in reports.items()}
    (trained.directory / run_dir.EVALUATION).write_text(json.dumps(details, indent=1) + "\n")
    _save_users(trained, reports, evaluator)
    run_dir.save_metrics(metrics, trained.directory)
    return metrics, reports


def _save_users(trained: run.Run, reports: Mapping[str, Report], evaluator: Evaluator) -> None:
    rows = np.unique(evaluator.held_out.users)
    user_ids = np.asarray(trained.dataset.users[trained.dataset.user_key][rows])
    per_user.save(reports, user_ids, trained.directory / run_dir.USERS)


def _evaluator(trained: run.Run, split: str, sample: Sample) -> Evaluator:
    known = trained.fitted if split == "val" else trained.known
    return evaluator_of(split, trained.dataset, trained.parts, known=known, sample=sample)


def index(trained: run.Run, head: str, builder: indexing.IndexBuilder) -> indexing.Index:
    """Indexes a retrieval head's candidates, checked against exact search; writes `index/`."""
    known = trained.known
    active = np.flatnonzero(np.diff(known.offsets))
    users = active[:: -(-len(active) // MOST_QUERIES)]
    embed = trained.model.heads[head].embed
    queries = embed(embed_users(trained.model, users, known)[head])
    vectors = embed(embed_items(trained.model, trained.dataset.num_items)[head])
    built = builder(
        np.asarray(vectors),
        ids=trained.item_ids,
        digest=trained.tower_digest,
        queries=np.asarray(queries),
    )
    built.save(trained.directory / run_dir.INDEX)
    return built


def answer(
    trained: run.Run, index: indexing.Index, sample: Sample = EVERYBODY
) -> tuple[run.Run, Metrics]:
    """Chooses the weights of answers that are to be chosen, and looks at what answers reach.

    Adds to `metrics.json` and `evaluation_users.parquet`, and writes `answer.json` where weights
    were chosen.

    Args:
        trained: The run.
        index: Its index.
        sample: The users of each split who are answered.

    Returns:
        The run with those weights, and `test/answer/<metric>`; see `mtrec.jobs.answers.measure`.
    """
    chosen = answers.tuned(trained, index, _evaluator(trained, "val", sample).held_out)
    if chosen.answer.fuse and chosen is not trained:
        weights = dict(chosen.answer.fuse.weights)
        write_text(trained.directory / run_dir.WEIGHTS, json.dumps(weights) + "\n")
    test = _evaluator(trained, "test", sample)
    reports = answers.measure(chosen, index, test.held_out)
    _save_users(trained, reports, test)
    metrics = flat_metrics(reports, "test")
    run_dir.save_metrics(run_dir.load_metrics(trained.directory) | metrics, trained.directory)
    return chosen, metrics


def export(trained: run.Run, index: indexing.Index | None) -> list[str]:
    """Writes the SavedModel to `model/`; returns the names of its signatures.

    Args:
        trained: The run.
        index: Its index; None without a retrieval head.
    """
    return exporting.save(trained, index)
