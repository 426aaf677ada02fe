"""Exact linear and factor models of retrieval alone, beside joint runs of the same split.

    python experiments/movielens_100k/specialists.py [--runs DIRECTORY ...] [-- overrides]

EASE (Steck, WWW 2019) and iALS (Hu, Koren, Volinsky 2008, with the regularisation of Rendle et
al., RecSys 2022) are tuned on the validation part by NDCG@10, fitted again to all of train, and
judged on the test part as the retrieval head is, over the users that are known in train, as they
know no others. With run directories, the joint models are compared with each over the same users:
`value [low, high] p`, joint less specialist.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtrec.config import Config, conf_directory
from mtrec.jobs.schema import register
from mtrec.libraries import import_tensorflow, quiet_libraries

if TYPE_CHECKING:
    from mtrec.heads.head import HeldOut

METRICS = ("recall_at_10", "recall_at_20", "ndcg_at_10")
# What a model says of users with these items: vectors whose dot products are scores.
Vectors = tuple[np.ndarray, np.ndarray]


def ease(chosen: np.ndarray, *, l2: float) -> Vectors:
    """Item-to-item weights in closed form; scores are a user's items times those."""
    gram = chosen.T @ chosen + l2 * np.eye(chosen.shape[1])
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return chosen, weights.T


def ials(
    chosen: np.ndarray, *, dim: int, unobserved: float, l2: float, epochs: int = 16
) -> Vectors:
    """Alternating least squares of `sum_observed (1 - s)^2 + unobserved sum_all s^2`."""
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, dim)) * 0.1 / np.sqrt(dim) for n in chosen.shape)
    for _ in range(epochs):
        users = _solved(chosen, items, unobserved, l2)
        items = _solved(chosen.T, users, unobserved, l2)
    return _solved(chosen, items, unobserved, l2), items


def _solved(chosen: np.ndarray, others: np.ndarray, unobserved: float, l2: float) -> np.ndarray:
    everywhere = unobserved * others.T @ others
    found = np.zeros((len(chosen), others.shape[1]))
    for row in np.flatnonzero(chosen.any(axis=1)):
        mine = others[chosen[row] > 0]
        ridge = l2 * (len(mine) + unobserved * len(others))
        matrix = mine.T @ mine + everywhere
        matrix.flat[:: len(matrix) + 1] += ridge
        found[row] = np.linalg.solve(matrix, mine.sum(axis=0))
    return found


def settings() -> Iterator[tuple[str, Callable[..., Vectors], dict[str, float]]]:
    for l2 in (50, 100, 200, 300, 500, 800, 1200):
        yield "EASE", ease, {"l2": l2}
    for dim, unobserved, l2 in itertools.product(
        (16, 64, 128), (0.1, 0.2, 0.4), (0.003, 0.01, 0.03)
    ):
        yield "iALS", ials, {"dim": dim, "unobserved": unobserved, "l2": l2}


def known_alone(held_out: "HeldOut") -> "HeldOut":
    """The held-out interactions of users with a row in train."""
    known = np.diff(held_out.known.offsets)[held_out.users] > 0
    rows = known[held_out.owner]
    return replace(
        held_out,
        users=held_out.users[known],
        owner=(np.cumsum(known) - 1)[held_out.owner[rows]],
        item=held_out.item[rows],
        labels={name: values[rows] for name, values in held_out.labels.items()},
        time=held_out.time[rows],
        new=held_out.new[rows],
    )


def main(runs: list[Path], overrides: list[str]) -> None:
    import pandas as pd

    from mtrec.data.negatives import Catalogue
    from mtrec.heads.head import Report
    from mtrec.heads.retrieval import Retrieval
    from mtrec.heads.retrieval_losses import ImplicitSquared
    from mtrec.jobs.load import load
    from mtrec.reports import paired, per_user
    from mtrec.training.evaluate import evaluator_of

    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config: Config = OmegaConf.to_object(compose("config", overrides))
    data, parts = load(config.data)
    head = Retrieval(
        dim=None,
        normalize=False,
        temperature=1.0,
        negatives=Catalogue(most_items=200_000),
        loss=ImplicitSquared(all_pairs_weight=0.1),
    )

    def judged(split: str, rows: np.ndarray, fit: Callable[..., Vectors], how: dict) -> Report:
        held_out = known_alone(evaluator_of(split, data, parts).held_out)
        columns = (np.asarray(data.interactions[name])[rows] for name in ("user", "item"))
        chosen = np.zeros((data.num_users + 1, data.num_items + 1))
        chosen[tuple(columns)] = 1.0
        users, items = fit(chosen[:, 1:], **how)
        query, candidate = users[held_out.users].astype(np.float32), items.astype(np.float32)
        return head.report(held_out, head.measure(held_out, query, candidate, full=True), full=True)

    best: dict[str, tuple[float, Callable[..., Vectors], dict[str, float]]] = {}
    for name, fit, how in settings():
        score = judged("val", parts.fit, fit, how).metrics["ndcg_at_10"]
        if name not in best or score > best[name][0]:
            best[name] = score, fit, how
    theirs = {}
    for name, (score, fit, how) in best.items():
        theirs[name] = judged("test", parts.train, fit, how)
        found = ", ".join(f"{m} {theirs[name].metrics[m]:.4f}" for m in METRICS)
        print(f"{name} {how}, validation {score:.4f}: {found}")
    if not runs:
        return
    tables = [per_user.load(directory / "evaluation_users.parquet") for directory in runs]
    held_out = known_alone(evaluator_of("test", data, parts).held_out)
    ids = np.asarray(data.users[data.user_key])[held_out.users]
    print(f"over {len(ids)} users:")
    for metric in METRICS:
        ours = np.stack([t[f"retrieval/{metric}"].loc[ids] for t in tables], axis=1)
        count = tables[0]["retrieval/count"].loc[ids].to_numpy()
        values = pd.Series(ours.sum(axis=0) / count.sum())
        print(f"joint {metric} {values.mean():.4f} +- {values.std():.4f}", end="")
        for name, report in theirs.items():
            assert report.per_user is not None
            other = np.repeat(report.per_user.totals[metric][:, np.newaxis], len(runs), axis=1)
            found = paired.difference(
                metric, ours, other, count, confidence=0.95, resamples=5000, seed=0
            )
            print(
                f"; to {name} {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] "
                f"p {found.p_value:.4f}",
                end="",
            )
        print()
    errors = pd.Series(
        [np.sqrt(t["rating/rmse"].sum() / t["rating/count"].sum()) for t in tables], dtype=float
    )
    print(f"joint rmse {errors.mean():.4f} +- {errors.std():.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    quiet_libraries()
    import_tensorflow()
    main(arguments.runs, arguments.overrides)
