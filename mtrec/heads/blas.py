"""BLAS, by which NumPy multiplies matrices, on one thread: for who multiplies on several of them.

Its own threads wait for the next product by spinning: where others count meanwhile, half of the CPU
time went to that.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Has products of matrices take the thread that asks for them alone, in all of the process."""
    with _blas().limit(limits=1):
        yield


@functools.cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
