"""Heads of joint runs against the same heads of other runs, such as of each alone.

    python experiments/ta_feng/alone.py --joint DIRECTORY ... --others DIRECTORY ...

Runs are paired in their order, which is that of their seeds. Of each metric that is a sum over
customers there is the joint runs' value, the others', and `value [low, high]`: joint less the
other, of a paired bootstrap over customers.
"""

import argparse
from pathlib import Path

import numpy as np

from mtrec.heads.metrics import from_totals
from mtrec.reports import paired, per_user

SHOWN = ("recall_at_10", "ndcg_at_10", "log_loss", "rmsle")


def main(joint: list[Path], others: list[Path]) -> None:
    files = [[run / "evaluation_users.parquet" for run in runs] for runs in (joint, others)]
    ours, theirs = ([per_user.load(path) for path in paths] for paths in files)
    for column in theirs[0].columns:
        head, _, metric = column.rpartition("/")
        if metric not in SHOWN or column not in ours[0]:
            continue
        count = theirs[0][f"{head}/count"]
        if any((table[f"{head}/count"] != count).any() for table in (*ours, *theirs)):
            raise SystemExit(f"{head} was asked for other customers: it cannot be compared")
        sums = [np.stack([table[column] for table in tables], axis=1) for tables in (ours, theirs)]
        means = [from_totals(metric, each.sum(axis=0), np.asarray(count.sum())) for each in sums]
        found = paired.difference(
            metric, *sums, count.to_numpy(), confidence=0.95, resamples=1000, seed=0
        )
        told = [f"{each.mean():.4f} ± {each.std(ddof=min(1, len(each) - 1)):.4f}" for each in means]
        print(
            f"{column} joint {told[0]}, other {told[1]}, {found.value:+.4f} "
            f"[{found.low:+.4f}, {found.high:+.4f}]",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--joint", type=Path, nargs="+", required=True)
    parser.add_argument("--others", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    main(arguments.joint, arguments.others)
