"""Trains three epochs: `python evaluation_job.py <directory> <devices> [overrides]`.

Each worker writes the rows of the users that it judges, a line for each evaluation, to
`judged-<worker>.json`.
"""

import json
import os
import sys
from pathlib import Path

from silent import Silent
from small_config import config_of

from mtrec.jobs import worker
from mtrec.jobs.load import load
from mtrec.tracking import run_dir
from mtrec.training import evaluate

JOB = (
    "data=synthetic",
    "data.num_users=200",
    "data.num_items=60",
    "data.num_interactions=4000",
    "data.rating_share=0.5",
    "train.global_batch=20",
    "train.epochs=3",
)


def recorded(measure, lines):
    """`Evaluator.measure`, with a line for each call: the users whose queries it asks for."""

    def wrapped(self, model, *arguments, **keywords):
        asked = []
        queries = model.queries

        def asking(users, *rest, **options):
            asked.extend(users.tolist())
            return queries(users, *rest, **options)

        model.queries = asking
        try:
            return measure(self, model, *arguments, **keywords)
        finally:
            del model.queries
            lines.append(asked)

    return wrapped


if __name__ == "__main__":
    directory, devices, *overrides = sys.argv[1:]
    config = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    run_dir.save_config(config, Path(directory))
    judged = []
    evaluate.Evaluator.measure = recorded(evaluate.Evaluator.measure, judged)
    worker.train(config, *load(config.data), Path(directory), Silent())
    rank = json.loads(os.environ["TF_CONFIG"]).get("task", {"index": 0})["index"]
    (Path(directory) / f"judged-{rank}.json").write_text(json.dumps(judged))
