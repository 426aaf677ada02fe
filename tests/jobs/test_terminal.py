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
