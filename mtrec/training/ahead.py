"""Input beside the step: what the next call needs is made while the current one computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Asked = TypeVar("_Asked")
_Made = TypeVar("_Made")


def made_ahead(
    make: Callable[[_Asked], _Made], asked: Iterable[_Asked], *, ahead: int = 1
) -> Generator[tuple[_Asked, _Made], None, None]:
    """Each that is asked for with what `make` makes of it, in order; one thread makes them.

    TensorFlow's execution and most of NumPy's leave the interpreter to it. What `make` raises is
    raised where its turn comes. Close the iterator where it is left early: it waits for what is
    being made.

    Args:
        make: Called in the thread, once for each and in their order.
        asked: What to make something of.
        ahead: How many are made before they are asked for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="input") as thread:
        waiting: deque[tuple[_Asked, Future[_Made]]] = deque()
        try:
            for one in asked:
                waiting.append((one, thread.submit(make, one)))
                if len(waiting) > ahead:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, made in waiting:
                made.cancel()
