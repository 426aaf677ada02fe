"""What a worker writes reaches whoever follows the job."""

import io
import logging
import time

import pytest
from rich.console import Console

from mtrec.data import progress
from mtrec.jobs.cluster.letters import Correspondent, Delivery
from mtrec.jobs.ending import ending
from mtrec.jobs.progress import Reporter
from mtrec.jobs.terminal import Terminal


def test_a_job_that_is_stopped_names_the_stage_of_its_workers(tmp_path, capsys, monkeypatch):
    tensorflow = logging.getLogger("tensorflow")
    monkeypatch.setattr(tensorflow, "disabled", False)
    letters = []
    terminal = Terminal(Console(file=io.StringIO()), began=time.time())
    worker = Correspondent(lambda *letter: letters.append(letter), lambda: False, chief=True)
    with (
        progress.followed_by(terminal),
        progress.stage("Ray"),
        progress.followed_by(worker),
        progress.stage("training", saves=True),
    ):
        Delivery(Reporter(None, terminal).training(1))(letters)
        with pytest.raises(SystemExit, match="130"), ending(terminal, tmp_path):
            raise KeyboardInterrupt
    assert capsys.readouterr().err == (
        "error: SIGINT: stopped during training; nothing was there to save; start again with the "
        "same command\n"
    )
    # TensorFlow warns, where the process ends, of what it had not yet read of a checkpoint.
    assert tensorflow.disabled


def test_the_first_step_of_a_stage_is_told_at_once():
    letters = []
    worker = Correspondent(lambda *letter: letters.append(letter), lambda: False, chief=True)
    with progress.followed_by(worker):
        for name in ("validation", "training"):
            with progress.stage(name):
                progress.advance(1, 10, "rows")
                progress.advance(2, 10, "rows")
    told = [content for _, (what, *content) in letters if what == "advance"]
    assert told == [[1, 10, "rows"], [1, 10, "rows"]]
