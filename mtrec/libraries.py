"""How the heavy libraries are imported: quietly, and without what nobody here uses."""

import os
import sys

# Keras imports them where they are installed, for wrappers and plots: a third of its start-up.
_NOT_NEEDED_BY_KERAS = ("sklearn", "matplotlib")


def quiet_libraries() -> None:
    """Silences the start-up chatter of TensorFlow; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras as if scikit-learn and Matplotlib were not installed.

    Both can be imported afterwards.
    """
    hidden = [name for name in _NOT_NEEDED_BY_KERAS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        import tensorflow  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
