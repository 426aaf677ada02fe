"""Trains three epochs: `python evaluation_job.py <directory> <devices> [overrides]`.

Each worker writes the rows of the users that it judges, a line for each evaluation, to
`judged-<worker>.json`; what the first one is told for people goes to `said.txt`.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

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
    """A method of `Evaluator`, with a line for each call: the users whose queries it asks for."""

    def wrapped(self, model, *arguments, **keywords):
        asked = []
        queries = model.queries

        def asking(inputs, *rest, **options):
            asked.extend(inputs.users.tolist())
            return queries(inputs, *rest, **options)

        model.queries = asking
        try:
            return measure(self, model, *arguments, **keywords)
        finally:
            del model.queries
            lines.append(asked)

    return wrapped


class Noting(Silent):
    """Keeps the lines for people."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def judge(directory, devices, overrides):
    """Trains in this process."""
    config = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    run_dir.save_config(config, directory)
    judged, listener = [], Noting()
    made = {
        name: recorded(getattr(evaluate.Evaluator, name), judged) for name in ("measure", "tally")
    }
    with mock.patch.multiple(evaluate.Evaluator, **made):
        worker.train(config, *load(config.data), directory, listener)
    rank = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"index": 0})["index"]
    (directory / f"judged-{rank}.json").write_text(json.dumps(judged))
    if rank == 0:
        (directory / "said.txt").write_text("\n".join(listener.said))


if __name__ == "__main__":
    judge(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
