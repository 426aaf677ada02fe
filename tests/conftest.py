"""Makes the modules of this directory importable from the tests below it, and runs as jobs do."""

import os

from mtrec import devices
from mtrec.libraries import quiet_libraries

quiet_libraries()
# As a job without `cluster.use_gpu` does, so that tests find the same where there are GPUs.
os.environ.update(devices.environment(0))
