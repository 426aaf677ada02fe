"""Makes what tests share importable from all of them, and runs as jobs do."""

import os
import sys
import tempfile
from pathlib import Path

from mtrec.distributed import devices
from mtrec.libraries import quiet_libraries

sys.path += [str(Path(__file__).parent / folder) for folder in ("jobs/cluster", "distributed")]
quiet_libraries()
# What jobs note of their runs is no business of the home.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
# As a job without `cluster.use_gpu` does, so that tests find the same where there are GPUs.
os.environ.update(devices.environment(0))


def pytest_configure(config):
    # xdist would begin with the files of most tests, and end with those of a few long jobs.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Puts the folders first whose tests start processes that train."""
    items.sort(key=lambda item: not {"cluster", "distributed"} & set(item.path.parts))
