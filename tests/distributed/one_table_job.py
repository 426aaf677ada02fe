"""Anonymous memory of a job with one large table: `python one_table_job.py <directory> <stages>`.

`<stages>` are `train`, on as many workers as `TF_CONFIG` tells of, or `serve`, all that comes
after it, in one process. Adds a line of `<stage> <bytes>` for each to `memory-<worker>.txt`: the
most that it held at once beyond what the process held before there was a table.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from silent import Silent
from small_config import SMALL, config_of

from mtrec.jobs import build, stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.jobs.sample import peak_of_memory
from mtrec.serving import export
from mtrec.tracking import mlflow_run, run_dir

ROWS, DIM = 1_500_000, 64
# A hashed column has as many rows as one says, however few users there are.
HASHED = f"{{_target_:mtrec.Hashed,column:user_id,bins:{ROWS - 1}}}"
JOB = (
    *SMALL,
    "optimizer=lazy_adam",
    "model.table_placement=sharded",
    f"model.query.dim={DIM}",
    f"model.candidate.dim={DIM}",
    f"+data.features.query.shared.hashed={HASHED}",
    "head@task.heads.retrieval=softmax",
    "task.heads.retrieval.negatives.mined=2",
    "train.epochs=2",
    "train.checkpoint_every=4",
    "index=exact",
)


def train(config, dataset, parts, directory, phase):
    """The training, and the making of the model in it before there are moments."""
    make = build.model

    def model(*arguments):
        with phase("model"):
            return make(*arguments)

    run_dir.save_config(config, directory)
    with mock.patch.object(build, "model", model), phase("train"):
        worker.train(config, dataset, parts, directory, Silent())


def tracker(directory):
    """That of an MLflow run that has begun."""
    found = mlflow_run.tracker(
        uri=f"sqlite:///{directory}/mlflow.db", run_dir=directory, run_id=None
    )
    found.begin(experiment="one_table", run_name="one_table", params={}, tags={})
    return found


def serve(config, dataset, parts, directory, phase, mlflow):
    """Everything after the training."""
    with phase("restore"):
        run = restore_run(config, dataset, parts, directory)
    with phase("evaluate"):
        stages.evaluate(run)
    with phase("index"):
        index = stages.index(run, "retrieval", build.index_builder(config))
    with phase("answer"):
        run, _ = stages.answer(run, index)
    with phase("export"):
        stages.export(run, index)
    with phase("log"):
        assert export.log(run, index, mlflow)
    mlflow.finish("FINISHED")


def main(directory, what):
    config = config_of(*JOB)
    dataset, parts = load(config.data)
    rank = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {"index": 0})["index"]
    mlflow = tracker(directory) if what == "serve" else None
    with peak_of_memory() as peak, (directory / f"memory-{rank}.txt").open("a") as file:
        before = peak()

        @contextmanager
        def phase(name):
            peak()
            yield
            print(name, peak() - before, file=file)

        if what == "serve":
            serve(config, dataset, parts, directory, phase, mlflow)
        else:
            train(config, dataset, parts, directory, phase)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
