"""What is made beside the step: in order, one ahead, and with its errors where they belong."""

import threading
from contextlib import closing

import pytest

from mtrec.training.ahead import made_ahead


def test_each_is_made_once_in_order_by_another_thread():
    made = []

    def make(number):
        made.append((number, threading.current_thread() is threading.main_thread()))
        return number * 10

    assert list(made_ahead(make, range(5))) == [(k, 10 * k) for k in range(5)]
    assert made == [(k, False) for k in range(5)]
    assert list(made_ahead(make, [])) == []


def test_the_next_is_made_while_one_is_used_and_no_more():
    begun = [threading.Event() for _ in range(4)]
    with closing(made_ahead(lambda k: begun[k].set(), range(4))) as found:
        next(found)
        # Nobody asks for the second, and yet it is made.
        assert begun[1].wait(timeout=60)
        assert not begun[2].is_set()


def test_an_error_is_raised_where_its_turn_comes():
    found = made_ahead(lambda k: 6 // (2 - k), range(4))

    assert [next(found), next(found)] == [(0, 3), (1, 6)]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_an_iterator_that_is_left_early_leaves_no_thread():
    before = threading.active_count()
    with closing(made_ahead(lambda k: k, range(100))) as found:
        next(found)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
