"""BLAS takes one thread where that is asked for, and as many as before afterwards."""

import numpy as np  # noqa: F401 (brings BLAS)
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mtrec.heads.blas import one_blas_thread


def threads():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_matrices_are_multiplied_on_one_thread_for_a_while():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with one_blas_thread():
            inside = threads()
        after = threads()

    assert before
    assert set(inside) == {1}
    assert after == before


def test_blas_has_its_threads_again_after_an_error():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with pytest.raises(KeyError), one_blas_thread():
            raise KeyError
        assert threads() == before
