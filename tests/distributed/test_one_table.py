"""No process ever holds all rows of a sharded table, from the first step to the SavedModel."""

from collections import defaultdict

import pytest
from layouts import run
from one_table_job import DIM, ROWS

WORKERS = 2
TABLE = 4 * ROWS * DIM


def held(directory):
    """The most that any process held in each stage, in bytes."""
    found = defaultdict(int)
    for file in directory.glob("memory-*.txt"):
        for line in file.read_text().splitlines():
            stage, held = line.split()
            found[stage] = max(found[stage], int(held))
    return found


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one_table")
    run("one_table_job.py", directory, "train", workers=WORKERS)
    run("one_table_job.py", directory, "serve", workers=1)
    return held(directory)


@pytest.mark.parametrize(("stage", "moments"), [("model", 0), ("train", 2)])
def test_a_worker_holds_its_own_rows_and_their_moments_and_never_a_whole_table(
    stages, stage, moments
):
    own = (1 + moments) * TABLE / WORKERS
    assert own < stages[stage] < own + 0.75 * TABLE


@pytest.mark.parametrize("stage", ["restore", "evaluate", "index", "answer", "export", "log"])
def test_after_the_training_no_stage_holds_half_a_table(stages, stage):
    assert 0 < stages[stage] < 0.5 * TABLE
