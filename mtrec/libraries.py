"""How mtrec is called, and how heavy libraries are imported: without what nobody here uses."""

import gc
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Keras imports them where they are installed, for wrappers and plots: a third of its start-up.
_NOT_NEEDED_BY_KERAS = ("sklearn", "matplotlib")


def called(command: str) -> str:
    """How a command of mtrec is called from here, whether or not the environment is active."""
    python = Path(sys.executable)
    found = shutil.which("mtrec")
    if found and Path(found).parent == python.parent:
        return f"mtrec {command}"
    here = Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{shlex.quote(str(shown))} -m mtrec.{command}"


def called_to_go_on(run: Path) -> str:
    """How a job is called that goes on in a run directory, with the config that is there."""
    return f"{called('launch')} train.resume={shlex.quote(str(run))}"


def quiet_libraries() -> None:
    """Silences the start-up chatter of TensorFlow; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def first_import(library: str) -> Iterator[None]:
    """Keeps Python from collecting garbage while a large library is imported.

    It would look through a million objects again and again, a fifth of the time of the import, and
    find nothing. Later collections leave out what is there at the end. Where the library has been
    imported before, this does nothing.
    """
    if library in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras as if scikit-learn and Matplotlib were not installed.

    Both can be imported afterwards. Matrices are multiplied in float32, on GPUs as well, where
    TensorFlow's own default is TF32.
    """
    hidden = [name for name in _NOT_NEEDED_BY_KERAS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        with first_import("tensorflow"):
            import tensorflow as tf
    finally:
        for name in hidden:
            del sys.modules[name]
    tf.config.experimental.enable_tensor_float_32_execution(False)
