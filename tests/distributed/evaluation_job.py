"""Trains three epochs: `python evaluation_job.py <directory> <devices> [overrides]`.

Each worker writes the rows of the users that it judges, a line for each evaluation, to
`judged-<worker>.json`; what the first one is told for people goes to `said.txt`.
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


if __name__ == "__main__":
    directory, devices, *overrides = sys.argv[1:]
    config = config_of(*JOB, f"cluster.devices_per_worker={devices}", *overrides)
    run_dir.save_config(config, Path(directory))
    judged, listener = [], Noting()
    for name in ("measure", "tally"):
        setattr(evaluate.Evaluator, name, recorded(getattr(evaluate.Evaluator, name), judged))
    worker.train(config, *load(config.data), Path(directory), listener)
    rank = json.loads(os.environ["TF_CONFIG"]).get("task", {"index": 0})["index"]
    (Path(directory) / f"judged-{rank}.json").write_text(json.dumps(judged))
    if rank == 0:
        (Path(directory) / "said.txt").write_text("\n".join(listener.said))
