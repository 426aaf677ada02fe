"""What people read of the stages of a job."""

import io
import re
import time

from rich.console import Console

from mtrec.data import progress
from mtrec.jobs.terminal import Terminal


def test_the_rate_of_a_stage_counts_what_is_of_its_unit_alone():
    written = io.StringIO()
    terminal = Terminal(Console(file=written), began=time.time())
    with progress.followed_by(terminal):
        for unit in ("MiB", "rows"):
            with progress.stage("data", unit="rows"):
                progress.advance(1, 1, unit)
                time.sleep(0.01)
    lines = re.findall("data: .*", written.getvalue())
    assert ["rows/s" in line for line in lines] == [False, True]


def test_the_rate_of_a_stage_counts_the_most_of_what_it_does_one_after_the_other():
    written = io.StringIO()
    terminal = Terminal(Console(file=written), began=time.time())
    with progress.followed_by(terminal), progress.stage("ranking", unit="users"):
        for users in (1_000_000, 1):
            progress.advance(users, users, "users")
        time.sleep(0.01)
    (rate,) = re.findall(r"ranking: .*s, ([\d,]+) users/s", written.getvalue())
    assert int(rate.replace(",", "")) > 10_000  # in less than a minute
