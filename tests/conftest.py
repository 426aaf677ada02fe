"""Makes the modules of this directory importable from the tests below it, and runs as jobs do."""

from mtrec.libraries import quiet_libraries

quiet_libraries()
