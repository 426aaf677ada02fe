"""Other answers of trained runs: what each of their parts brings, and lists of new products alone.

    python experiments/ta_feng/answers.py --validated DIRECTORY [--runs DIRECTORY ...]

The weights of each answer are chosen on the validation part of the run `--validated`, and what it
reaches there is told; then the runs, which were fitted to all of train, are judged with them on the
test part. What each customer adds to an answer's metrics goes to `answers/<name>.parquet` in the
run's directory.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrec.libraries import import_tensorflow, quiet_libraries

if TYPE_CHECKING:
    from mtrec.serving.answers.pipeline import Answer
    from mtrec.serving.run import Run

METRICS = ("recall_at_10", "ndcg_at_10")
# Values that are tried for the weights of a formula; shares of popularity are small numbers.
TRIED = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
# Formula, half-life of popularity in days, and whether own products may be in it.
ANSWERS: dict[str, tuple[str, float | None, bool]] = {
    "retrieval": ("retrieval", None, True),
    "popular": ("popular", 3, True),
    "repeat": ("repeat", None, True),
    "repeat and what sold ever": ("repeat + w * popular", None, True),
    "repeat and what sells": ("repeat + w * popular", 3, True),
    "joint": ("repeat + w * popular * exp(v * retrieval)", 3, True),
    "new by popularity": ("popular", 3, False),
    "new by retrieval": ("retrieval", None, False),
    "new": ("popular * exp(v * retrieval)", 3, False),
}


def answer_of(formula: str, half_life: float | None, own: bool) -> "Answer":
    """An answer that is ordered by a formula, whose weights `w` and `v` are to be chosen."""
    import mtrec as mt

    sources: dict[str, Any] = {"best": mt.Best(count=50 if own else 200)}
    sources["popular"] = mt.Popular(count=100 if own else 200, half_life=half_life)
    if own:
        sources["own"] = mt.Own(count=80)
    weights = {name: None for name in ("w", "v") if f"{name} *" in formula}
    return mt.Answer(
        candidates=sources,
        filter=mt.Filter(seen=own, where=None, allow=None, deny=()),
        fuse=mt.Formula(formula=formula, weights=weights),
        arrange=None,
    )


def measured(run: "Run", split: str, name: str) -> dict[str, float]:
    """What a run's answer reaches on a part; keeps what each customer adds."""
    from mtrec.jobs import answers
    from mtrec.reports import per_user
    from mtrec.serving.index import load
    from mtrec.training.evaluate import evaluator_of

    known = run.fitted if split == "val" else run.known
    held_out = evaluator_of(split, run.dataset, run.parts, known=known).held_out
    index = load(run.directory / "index", digest=run.tower_digest)
    reports = answers.measure(run, index, held_out)
    (run.directory / "answers").mkdir(exist_ok=True)
    ids = np.asarray(run.dataset.users[run.dataset.user_key][np.unique(held_out.users)])
    path = run.directory / "answers" / f"{split}-{name}.parquet"
    path = path if split == "val" else path.with_name(f"{name}.parquet")
    path.unlink(missing_ok=True)
    per_user.save(reports, ids, path)
    return over_known(run, split, path)


def over_known(run: "Run", split: str, path: Path) -> dict[str, float]:
    """Metrics over the baskets of customers who are known; of a list of new products, of those."""
    from mtrec.reports import per_user

    table = per_user.load(path)
    histories = run.fitted if split == "val" else run.known
    rows = np.flatnonzero(np.diff(histories.offsets))
    ids = set(np.asarray(run.dataset.users[run.dataset.user_key][rows]))
    table = table[table.index.isin(ids)]
    kinds = ("", "new/", "repeat/")
    return {
        f"{kind}{name}": table[f"answer/{kind}{name}"].sum() / table[f"answer/{kind}count"].sum()
        for kind in kinds
        for name in METRICS
        if f"answer/{kind}{name}" in table
    }


def told(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())


def main(validated: Path, directories: list[Path], names: list[str]) -> None:
    from mtrec.jobs import answers
    from mtrec.jobs.restore import load_run
    from mtrec.serving.answers.fuse import Fusion
    from mtrec.serving.index import load
    from mtrec.training.evaluate import evaluator_of

    Fusion.tried = TRIED
    first = load_run(validated)
    index = load(first.directory / "index", digest=first.tower_digest)
    held_out = evaluator_of("val", first.dataset, first.parts, known=first.fitted).held_out
    chosen = {}
    for name in names:
        run = answers.tuned(replace(first, answer=answer_of(*ANSWERS[name])), index, held_out)
        assert run.answer.fuse
        chosen[name] = run.answer
        weights = dict(run.answer.fuse.weights)
        print(f"val {name} {weights}: {told(measured(run, 'val', name))}", flush=True)
    for directory in directories:
        run = load_run(directory)
        for name in names:
            found = measured(replace(run, answer=chosen[name]), "test", name)
            print(f"{directory} {name}: {told(found)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--validated", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--answers", nargs="*", default=list(ANSWERS))
    arguments = parser.parse_args()
    quiet_libraries()
    import_tensorflow()
    main(arguments.validated, arguments.runs, arguments.answers)
