"""A task without rows is absent on all replicas, also where batches are encoded in parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def found_on(replicas):
    """What the steps found on so many replicas, in a process of its own."""
    path = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
    command = [sys.executable, str(HERE / "absent_job.py"), str(replicas)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_replicas_that_encode_in_parts_take_steps_without_rows_of_a_task():
    alone, together = found_on(1), found_on(2)
    rows = np.array(alone["rows"])[:, 1]
    assert 0 in rows
    assert rows.any()
    assert together["rows"] == alone["rows"]
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-5, atol=1e-6)
