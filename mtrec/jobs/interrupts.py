"""SIGINT and SIGTERM are one wish: stop, save what would be lost, and say how to go on.

The wish interrupts what the process does (`KeyboardInterrupt`), unless it holds something unsaved:
then it is only noted, and whoever holds it asks. Where an interruption cannot be raised, as within
an object's `__del__`, it comes again. A process that has not ended in time, because it is within a
long call of a library, is ended from a thread. A second signal ends it at once.
"""

import os
import select
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What the process has to end by itself, and to say its last words after that.
_PATIENCE_SECONDS = 3.5
_WORDS_SECONDS = 1.0
_LOOK_SECONDS = 0.2

_number: int | None = None
_holds = False
_swallowed = False
_last_words: Callable[[], None] | None = None


def asked() -> int | None:
    """The number of the signal that came, or None."""
    return _number


def hold(holds: bool) -> None:
    """Says whether the process holds something unsaved from now on."""
    global _holds
    _holds = holds


def say_at_the_end(words: Callable[[], None] | None) -> None:
    """Takes what is to be done where the process has to be ended from a thread."""
    global _last_words
    _last_words = words


@contextmanager
def heard() -> Iterator[None]:
    """Hears both signals until the end. Elsewhere than in the main thread it does nothing."""
    global _number, _swallowed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _number, _swallowed = None, False
    hold(False)
    say_at_the_end(None)
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    # Python hears a signal after the call that it is in; this pipe gets it at once.
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_unraised, hook)
    watch = threading.Thread(target=_watch, args=(read,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        watch.join()
        os.close(read)
        # Python forgets by this that it was interrupted within an `exec`, as those of a dataclass;
        # or else it would end by SIGINT, whatever the status that it is asked to end with.
        exec("")


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _number
    _number = number
    if not _holds:
        raise KeyboardInterrupt


def _unraised(hook: Callable[[Any], object], found: "sys.UnraisableHookArgs") -> None:
    global _swallowed
    if isinstance(found.exc_value, KeyboardInterrupt) and _number is not None:
        _swallowed = True
    else:
        hook(found)


def _watch(read: int) -> None:
    global _number, _swallowed
    deadline, again = None, False
    while True:
        ready, _, _ = select.select([read], [], [], None if deadline is None else _LOOK_SECONDS)
        numbers = os.read(read, 64) if ready else b""
        if ready and not numbers:
            return  # no longer heard
        for number in numbers:
            if number not in SIGNALS:
                continue
            if again:
                again = False
                continue
            if deadline is not None:
                _end(number)
            _number = number
            deadline = time.monotonic() + _PATIENCE_SECONDS
        if deadline is None or _number is None:
            continue
        if _swallowed:
            _swallowed, again = False, True
            interrupt_main(signal.Signals(_number))
        if _holds:
            deadline = time.monotonic() + _PATIENCE_SECONDS
        elif time.monotonic() > deadline:
            if _last_words:
                words = threading.Thread(target=_last_words, daemon=True)
                words.start()
                words.join(_WORDS_SECONDS)
            _end(_number)


def _end(number: int) -> None:
    if sys.stdout.isatty():
        print("\x1b[?25h", end="")  # a bar hides the cursor
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)
