"""Models of the next basket alone, beside joint runs that are asked for the same baskets.

    python experiments/ta_feng/specialists.py [--tune] [--new] [--runs DIRECTORY ...]

With `--tune` each is tried on the validation part with one setting changed after the other, and the
best by NDCG@10 is told. Without, those of `CHOSEN` are fitted to all of train and judged on the
baskets of the test part whose customers are known, as an answer is: by the first ten products. With
run directories, joint answers are compared with each over the same customers: `value [low, high]`,
joint less specialist, of a paired bootstrap over customers. With `--new`, lists are of products
that the customer did not have: no method gives a place to others, and of runs the answers are taken
that `answers.py` has made so.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.linalg import lapack

from mtrec.config import Config, conf_directory
from mtrec.jobs.schema import register
from mtrec.libraries import import_tensorflow, quiet_libraries

if TYPE_CHECKING:
    from mtrec.heads.head import HeldOut

METRICS = ("recall_at_10", "ndcg_at_10")
KINDS = ("", "new/", "repeat/")
DAY = 86_400
# Baskets that are asked for at once.
AT_ONCE = 512
# Scores of all products for some baskets, given by their numbers, `[B] -> [B, C]`.
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Log:
    """Baskets, each of a customer and a day.

    Attributes:
        user: User row of each purchase, of a product once a basket, `[N]`; of what is known when a
            basket is asked for, the number of that basket.
        item: Item row less 1, `[N]`.
        age: Days from it to the first basket that is asked for, or to that one, `[N]`.
        shape: User rows, or baskets, and items.
    """

    user: np.ndarray
    item: np.ndarray
    age: np.ndarray
    shape: tuple[int, int]

    def matrix(self, weights: np.ndarray | None = None) -> sp.csr_matrix:
        """Sums of the purchases' weights, 1 without, by user row and item."""
        weights = np.ones(len(self.user)) if weights is None else weights
        places = (self.user, self.item)
        return sp.csr_matrix((weights.astype(np.float32), places), shape=self.shape)

    def taken(self) -> sp.csr_matrix:
        """1 for what a row took."""
        matrix = self.matrix()
        matrix.data[:] = 1
        return matrix

    def popularity(self, half_life: float | None) -> np.ndarray:
        """Share of the purchases that is of each item; a half-life (days) ago half as much."""
        weights = np.ones(len(self.age)) if half_life is None else 0.5 ** (self.age / half_life)
        counts = np.bincount(self.item, weights, self.shape[1])
        return (counts / counts.sum()).astype(np.float32)


def popularity(log: Log, asked: "Asked", *, half_life: float | None) -> Scorer:
    """The same for everybody."""
    shares = log.popularity(half_life)
    return lambda baskets: np.broadcast_to(shares, (len(baskets), len(shares)))


def own(log: Log, asked: "Asked", *, half_life: float | None, fill: float | None) -> Scorer:
    """In how many baskets a customer had it, and among equals and after them what is popular.

    GP-TopFreq (Li et al. 2023, A Next Basket Recommendation Reality Check), with half-lives (days).
    """
    decayed = None if half_life is None else 0.5 ** (asked.known.age / half_life)
    counts, shares = asked.known.matrix(decayed), log.popularity(fill)
    return lambda baskets: counts[baskets].toarray() + shares


def tifu_knn(
    log: Log,
    asked: "Asked",
    *,
    group: int,
    within: float,
    between: float,
    neighbours: int,
    alpha: float,
) -> Scorer:
    """Temporal item frequencies of a customer and of the nearest ones (Hu et al., SIGIR 2020).

    Baskets lie in groups of `group`, the oldest of which may be short. A basket weighs `within`
    times the next one of its group, a group `between` times the next one.
    """

    def vectors(log: Log) -> sp.csr_matrix:
        basket = log.user.astype(np.int64) << 16 | log.age.max() - log.age
        baskets, place = np.unique(basket, return_inverse=True)
        of = baskets >> 16
        count = np.bincount(of, minlength=log.shape[0])
        later = (np.cumsum(count)[of] - 1) - np.arange(len(of))
        groups = -(-count[of] // group)
        size = np.where(later // group == groups - 1, count[of] - (groups - 1) * group, group)
        weight = within ** (later % group) / size * between ** (later // group) / groups
        return log.matrix(weight[place])

    mine, others = vectors(asked.known), vectors(log)
    customers = np.flatnonzero(np.diff(others.indptr))
    others = others[customers]
    squares = np.asarray(others.multiply(others).sum(axis=1)).ravel()

    def score(baskets: np.ndarray) -> np.ndarray:
        near = 2 * (mine[baskets] @ others.T).toarray() - squares  # less the square of the asker
        themselves = np.searchsorted(customers, asked.users[baskets])
        near[np.arange(len(baskets)), themselves] = -np.inf
        best = np.argpartition(-near, neighbours, axis=1)[:, :neighbours]
        owners = np.arange(0, best.size + 1, neighbours)
        share = np.full(best.size, 1 / neighbours, np.float32)
        chosen = sp.csr_matrix((share, best.ravel(), owners), shape=(len(baskets), len(customers)))
        return (alpha * mine[baskets] + (1 - alpha) * (chosen @ others)).toarray()

    return score


def item_knn(log: Log, asked: "Asked", *, neighbours: int, shrink: float, own: float) -> Scorer:
    """Sums of a customer's products' cosines with their nearest ones, and `own` with themselves."""
    taken = log.taken()
    together = (taken.T @ taken).tocsr()
    size = np.sqrt(together.diagonal())
    rows = np.repeat(np.arange(len(size)), np.diff(together.indptr))
    found = together.data / (size[rows] * size[together.indices] + shrink)
    same = rows == together.indices
    order = np.lexsort((-np.where(same, 0, found), rows))
    order = order[np.arange(len(rows)) - together.indptr[rows] < neighbours]
    values = np.where(same, own, found)[order].astype(np.float32)
    near = sp.csr_matrix((values, (rows[order], together.indices[order])), shape=together.shape)
    near.setdiag(own)
    near = near.T.tocsr()
    mine = asked.known.taken()
    return lambda baskets: (mine[baskets] @ near).toarray()


def ease(log: Log, asked: "Asked", *, l2: float, items: int) -> Scorer:
    """Item-to-item weights in closed form (Steck, WWW 2019), of so many of the products."""
    kept = np.argsort(-np.bincount(log.item, minlength=log.shape[1]), kind="stable")[:items]
    few, mine = log.taken()[:, kept], asked.known.taken()[:, kept]
    gram = (few.T @ few).toarray(order="F")
    np.fill_diagonal(gram, gram.diagonal() + l2)
    factor, _ = lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    below = np.tril(inverse, -1)  # all of it that is there: it is symmetric
    weights = (below + below.T) / -inverse.diagonal()

    def score(baskets: np.ndarray) -> np.ndarray:
        found = np.full((len(baskets), log.shape[1]), -np.inf, np.float32)
        found[:, kept] = mine[baskets] @ weights
        return found

    return score


def ials(
    log: Log, asked: "Asked", *, dim: int, unobserved: float, l2: float, power: float, epochs: int
) -> Scorer:
    """Alternating least squares (Hu, Koren, Volinsky 2008; Rendle et al., RecSys 2022).

    What was taken weighs its count to the power of `power`, all pairs `unobserved`.
    """
    taken, known = log.matrix(), asked.known.matrix()
    taken.data, known.data = taken.data**power, known.data**power
    sides = [taken, taken.T.tocsr()]
    rng = np.random.default_rng(0)
    items = rng.normal(size=(log.shape[1], dim), scale=0.1 / np.sqrt(dim)).astype(np.float32)
    for _ in range(epochs):
        users = _solved(sides[0], items, unobserved, l2)
        items = _solved(sides[1], users, unobserved, l2)
    mine = _solved(known, items, unobserved, l2)
    return lambda baskets: mine[baskets] @ items.T


def _solved(taken: sp.csr_matrix, others: np.ndarray, unobserved: float, l2: float) -> np.ndarray:
    everywhere = unobserved * others.T @ others
    found = np.zeros((taken.shape[0], others.shape[1]), np.float32)
    counts = np.diff(taken.indptr)
    for some in np.array_split(np.flatnonzero(counts), 1 + len(counts) // 1024):
        matrices = np.empty((len(some), *everywhere.shape), np.float32)
        sums = np.empty((len(some), others.shape[1], 1), np.float32)
        for place, row in enumerate(some):
            entries = slice(taken.indptr[row], taken.indptr[row + 1])
            mine, weight = others[taken.indices[entries]], taken.data[entries]
            matrices[place], sums[place, :, 0] = (mine.T * weight) @ mine, weight @ mine
        ridge = l2 * (counts[some] + unobserved * len(others))
        matrices += everywhere + ridge[:, None, None] * np.eye(len(everywhere), dtype=np.float32)
        found[some] = np.linalg.solve(matrices, sums)[..., 0]
    return found


HALF_LIVES = (None, 60, 30, 14, 7, 3, 1)
# Of each setting the values that are tried, beginning with the first of each.
SETTINGS: dict[str, tuple[Callable[..., Scorer], dict[str, tuple]]] = {
    "popularity": (popularity, {"half_life": HALF_LIVES}),
    "own most frequent": (own, {"half_life": HALF_LIVES[:4], "fill": HALF_LIVES}),
    "TIFU-KNN": (
        tifu_knn,
        {
            "group": (7, 3, 15, 30),
            "within": (0.9, 1.0, 0.8),
            "between": (0.7, 1.0, 0.9),
            "alpha": (0.7, 0.9, 0.5, 0.3),
            "neighbours": (300, 100, 900),
        },
    ),
    "item-KNN": (
        item_knn,
        {"own": (1.0, 0.0, 0.3), "neighbours": (100, 30, 300), "shrink": (10, 0, 50)},
    ),
    "EASE": (ease, {"items": (8000,), "l2": (300, 1000, 100, 30, 10, 3)}),
    "iALS": (
        ials,
        {
            "epochs": (4,),
            "unobserved": (0.1, 0.01, 0.3),
            "l2": (0.003, 0.01),
            "power": (0.0, 1.0),
            "dim": (32, 64),
        },
    ),
}


# By validation.
CHOSEN: dict[str, dict[str, Any]] = {
    "popularity": {"half_life": 3},
    "own most frequent": {"half_life": None, "fill": 1},
    "item-KNN": {"own": 1.0, "neighbours": 30, "shrink": 10},
    "TIFU-KNN": {"group": 30, "within": 1.0, "between": 0.7, "alpha": 0.7, "neighbours": 300},
    "EASE": {"items": 8000, "l2": 300},
    "iALS": {"epochs": 4, "unobserved": 0.1, "l2": 0.003, "power": 1.0, "dim": 64},
}
# The same where lists are of new products.
CHOSEN_NEW: dict[str, dict[str, Any]] = {
    "popularity": {"half_life": 3},
    "item-KNN": {"own": 1.0, "neighbours": 30, "shrink": 10},
    "EASE": {"items": 8000, "l2": 300},
    "iALS": {"epochs": 4, "unobserved": 0.1, "l2": 0.003, "power": 1.0, "dim": 64},
}


@dataclass(frozen=True)
class Asked:
    """The held-out baskets of known customers.

    Attributes:
        users: User row of each basket, `[Q]`, ascending.
        known: What the customer has when it is asked for, earlier held-out baskets among it.
        owner: Basket of each product that is in it, `[H]`, ascending.
        item: Item row less 1, `[H]`.
        new: Whether the customer did not have it before, `[H]`.
    """

    users: np.ndarray
    known: Log
    owner: np.ndarray
    item: np.ndarray
    new: np.ndarray

    @classmethod
    def of(cls, held_out: "HeldOut", log: Log) -> "Asked":
        known = np.isin(held_out.users, log.user)
        rows = np.flatnonzero(held_out.asked & known[held_out.owner])
        owner = (np.cumsum(known) - 1)[held_out.owner[rows]]
        users, had = held_out.users[known], held_out.histories
        entries, basket = had.entries(users, held_out.counts[known])
        age = held_out.times[known][basket] // DAY - had.times[entries] // DAY
        once = np.unique([basket, had.items[entries] - 1, age], axis=1)
        before = Log(*once, shape=(len(users), log.shape[1]))
        return cls(users, before, owner, held_out.item[rows] - 1, held_out.new[rows])

    def ranks(self, score: Scorer, *, new: bool = False) -> np.ndarray:
        """The place of each product among its basket's first ten, or one beyond, `[H]`.

        Args:
            score: Scores all products.
            new: Whether the ten are of those alone that the customer did not have.
        """
        had = self.known.taken()
        best = np.empty((len(self.users), 10), np.int64)
        for first in range(0, len(self.users), AT_ONCE):
            baskets = np.arange(len(self.users))[first : first + AT_ONCE]
            scores = score(baskets)
            if new:
                scores = np.where(had[baskets].toarray() > 0, -np.inf, scores)
            top = np.argpartition(-scores, 10, axis=1)[:, :10]
            order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
            best[first : first + AT_ONCE] = np.take_along_axis(top, order, 1)
        there = best[self.owner] == self.item[:, np.newaxis]
        return np.where(there.any(axis=1), there.argmax(axis=1), 10_000)

    def metrics(self, ranks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each metric its value for each basket with such a product, and the customer of it."""
        from mtrec.heads.metrics import ranking

        found = {}
        for kind, rows in zip(KINDS, (slice(None), self.new, ~self.new), strict=True):
            baskets, owner = np.unique(self.owner[rows], return_inverse=True)
            values = ranking(ranks[rows], owner, len(baskets))
            found |= {f"{kind}{name}": (values[name], self.users[baskets]) for name in METRICS}
        return found


def tune(name: str, log: Log, asked: Asked) -> None:
    """Prints what settings reach on validation, one being changed after the other.

    Of those that are tried it tells the best for lists of all products, and for lists of new ones.
    """
    fit, grid = SETTINGS[name]
    best = {"ndcg_at_10": (-1.0, {option: values[0] for option, values in grid.items()})}
    best["new/ndcg_at_10"] = best["ndcg_at_10"]
    for number, (option, values) in enumerate(grid.items()):
        for value in values[number > 0 :]:
            setting = best["ndcg_at_10"][1] | {option: value}
            scorer = fit(log, asked, **setting)
            for by, new in (("ndcg_at_10", False), ("new/ndcg_at_10", True)):
                found = asked.metrics(asked.ranks(scorer, new=new))
                print(name, setting, "new alone:" if new else "all:", told(found), flush=True)
                best[by] = max(best[by], (found[by][0].mean(), setting), key=lambda each: each[0])
    for by, (_, setting) in best.items():
        print(f"best by {by}: {name} {setting}", flush=True)


def told(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    return ", ".join(f"{metric} {values.mean():.4f}" for metric, (values, _) in found.items())


def log_of(data: Any, known: np.ndarray, held_out: np.ndarray) -> Log:
    """What a model is fitted to; of a basket that the split cuts in two, nothing is."""
    columns = {n: np.asarray(data.interactions[n]) for n in ("user", "item", "timestamp")}
    day = columns["timestamp"] // DAY
    basket = columns["user"].astype(np.int64) << 32 | day
    rows = known[~np.isin(basket[known], basket[held_out])]
    age = day[held_out].min() - day[rows]
    once = np.unique([columns["user"][rows], columns["item"][rows] - 1, age], axis=1)
    return Log(*once, shape=(data.num_users + 1, data.num_items))


def compared(
    runs: list[Path], theirs: Mapping[str, Mapping[str, tuple]], ids: np.ndarray, *, new: bool
) -> None:
    """Prints what the runs' answers reach, and their differences to each specialist."""
    import pandas as pd

    from mtrec.reports import paired, per_user

    table = "answers/new.parquet" if new else "evaluation_users.parquet"
    tables = [per_user.load(directory / table) for directory in runs]
    kinds = ("new/",) if new else KINDS
    for kind in kinds:
        users = next(iter(theirs.values()))[f"{kind}{METRICS[0]}"][1]
        rows, count = np.unique(users, return_counts=True)
        if (tables[0][f"answer/{kind}count"].loc[ids[rows]] != count).any():
            raise SystemExit("the runs were asked for other baskets: they cannot be compared")
    for metric in (kind + name for kind in kinds for name in METRICS):
        users = next(iter(theirs.values()))[metric][1]
        rows, place = np.unique(users, return_inverse=True)
        count = np.bincount(place)
        ours = np.stack([t[f"answer/{metric}"].loc[ids[rows]] for t in tables], axis=1)
        means = pd.Series(ours.sum(axis=0) / count.sum())
        print(f"joint {metric} {means.mean():.4f} ± {means.std():.4f}")
        for name, found in theirs.items():
            other = np.bincount(place, found[metric][0])
            other = np.repeat(other[:, np.newaxis], len(runs), axis=1)
            told = paired.difference(
                "recall_at_10", ours, other, count, confidence=0.95, resamples=1000, seed=0
            )
            print(f"  less {name} {told.value:+.4f} [{told.low:+.4f}, {told.high:+.4f}]")


def main(runs: list[Path], names: list[str], *, new: bool, tuning: bool) -> None:
    from mtrec.jobs import build
    from mtrec.jobs.load import load
    from mtrec.training.evaluate import evaluator_of

    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        composed = compose("config", ["experiment=ta_feng"])
        config: Config = OmegaConf.to_object(composed)
    data, parts = load(config.data)
    data = build.data(config, data)
    asked, logs = {}, {}
    for split, known, rows in (
        ("val", parts.fit, parts.validation),
        ("test", parts.train, parts.test),
    ):
        logs[split] = log_of(data, known, rows)
        asked[split] = Asked.of(evaluator_of(split, data, parts).held_out, logs[split])
    print(f"{len(asked['test'].users):,} baskets of known customers in the test part")
    theirs = {}
    for name in names:
        if tuning:
            tune(name, logs["val"], asked["val"])
            continue
        fit, _ = SETTINGS[name]
        chosen = (CHOSEN_NEW if new else CHOSEN)[name]
        scorer = fit(logs["test"], asked["test"], **chosen)
        found = asked["test"].metrics(asked["test"].ranks(scorer, new=new))
        print(f"{name} {chosen}: {told(found)}", flush=True)
        theirs[name] = found
    if runs:
        compared(runs, theirs, np.asarray(data.users[data.user_key].tolist()), new=new)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--models", nargs="*")
    arguments = parser.parse_args()
    quiet_libraries()
    import_tensorflow()
    names = arguments.models or list(CHOSEN_NEW if arguments.new else CHOSEN)
    main(arguments.runs, names, new=arguments.new, tuning=arguments.tune)
