"""The stages of the main job, in order. Each but the first works in the run directory."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra.utils import instantiate

from mtrec import build, run
from mtrec import index as indexing
from mtrec.config import Config
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split
from mtrec.distribute import local_strategy
from mtrec.evaluate import Evaluator, embed_items, embed_users, flat_metrics
from mtrec.heads.head import Report
from mtrec.train import Metrics, fit

# Users whose queries the index is measured with.
MOST_QUERIES = 1024


def train(
    config: Config,
    dataset: Dataset,
    parts: Split,
    directory: Path,
    on_epoch: Callable[[Metrics], None],
) -> list[Metrics]:
    """Trains and leaves the selected checkpoint in `checkpoints/`; returns each epoch's metrics."""
    strategy = local_strategy(config.cluster.devices_per_worker)
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = build.model(config, dataset, parts.fit)
        balancer = build.balancer(config)
        batches = build.batches(config, dataset, parts.fit, model.heads, replicas)
        optimizers = build.optimizers(config, batches.steps_per_epoch)
    evaluator = Evaluator(dataset, known=parts.fit, held_out=parts.validation)
    return fit(
        model,
        batches,
        balancer=balancer,
        optimizers=optimizers,
        strategy=strategy,
        schedule=build.schedule(config),
        validate=lambda: flat_metrics(evaluator(model, full=False), "val"),
        checkpoints=directory / run.CHECKPOINTS,
        on_epoch=on_epoch,
    )


def evaluate(trained: run.Run) -> tuple[Metrics, dict[str, Report]]:
    """Looks at the test part, once; writes `metrics.json` and `evaluation.json`."""
    parts = trained.parts
    metrics: Metrics = {}
    for split, known, held_out in (
        ("val", parts.fit, parts.validation),
        ("test", parts.train, parts.test),
    ):
        evaluator = Evaluator(trained.dataset, known=known, held_out=held_out)
        reports = evaluator(trained.model, full=True)
        metrics |= flat_metrics(reports, split)
    details = {name: {"slices": report.slices, **report.tables} for name, report in reports.items()}
    (trained.directory / "evaluation.json").write_text(json.dumps(details, indent=1) + "\n")
    run.save_metrics(metrics, trained.directory)
    return metrics, reports


def index(trained: run.Run, head: str) -> indexing.Index:
    """Indexes a retrieval head's candidates, checked against exact search; writes `index/`."""
    known = trained.known
    active = np.flatnonzero(np.diff(known.offsets))
    users = active[:: -(-len(active) // MOST_QUERIES)]
    embed = trained.model.heads[head].embed
    queries = embed(embed_users(trained.model, users, known)[head])
    vectors = embed(embed_items(trained.model, trained.dataset.num_items)[head])
    built = instantiate(trained.config.index)(
        np.asarray(vectors),
        ids=trained.item_ids,
        digest=trained.tower_digest,
        queries=np.asarray(queries),
    )
    built.save(trained.directory / run.INDEX)
    return built
