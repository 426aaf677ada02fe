"""Heads of joint runs against the same heads of other runs, such as of each alone.

    python experiments/ta_feng/alone.py --joint DIRECTORY ... --others DIRECTORY ... [--table FILE]

Runs are paired in their order, which is that of their seeds. Of each metric that is a sum over
customers there is the joint runs' value, the others', and `value [low, high]`: joint less the
other, of a paired bootstrap over customers. The others' answers may be those that `answers.py` has
made, such as `--table answers/repeat.parquet`.
"""

import argparse
from pathlib import Path

import numpy as np

from mtrec.heads.metrics import from_totals
from mtrec.reports import paired, per_user

TABLE = "evaluation_users.parquet"
SHOWN = ("recall_at_10", "ndcg_at_10", "log_loss", "rmsle")


def main(joint: list[Path], others: list[Path], table: str) -> None:
    ours = [per_user.load(run / TABLE) for run in joint]
    theirs = [per_user.load(run / table) for run in others]
    for column in theirs[0].columns:
        head, _, metric = column.rpartition("/")
        if metric not in SHOWN or column not in ours[0]:
            continue
        count = theirs[0][f"{head}/count"]
        if any((each[f"{head}/count"] != count).any() for each in (*ours, *theirs)):
            raise SystemExit(f"{head} was asked for other customers: it cannot be compared")
        sums = [np.stack([each[column] for each in tables], axis=1) for tables in (ours, theirs)]
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
    parser.add_argument("--table", default=TABLE)
    arguments = parser.parse_args()
    main(arguments.joint, arguments.others, arguments.table)
