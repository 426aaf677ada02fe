"""Makes what tests share importable from all of them, and runs as jobs do."""

import sys
from pathlib import Path

from mtrec.libraries import quiet_libraries

sys.path += [str(Path(__file__).parent / folder) for folder in ("cluster", "distributed")]
quiet_libraries()
