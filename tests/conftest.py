"""Makes the modules of this directory importable from the tests below it, and TensorFlow quiet."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
