"""What long stages tell whoever follows them, and where they hear that they are to stop.

A stage is a part of a job that people wait for. Without a follower, as in a notebook of one's own,
nothing is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from mtrec.errors import PreemptedError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a job.

    Attributes:
        name: What people call it.
        total: How much it does; 0 where `advance` says so, or nothing is counted.
        unit: Of what, such as `rows`.
        part: Whether it comes again and again within another stage.
        saves: Whether it saves by itself when it is to stop, as training does.
        stoppable: Whether `advance` ends it when it is to stop. All workers must do so together.
    """

    name: str
    total: float
    unit: str
    part: bool
    saves: bool
    stoppable: bool


class Follower(Protocol):
    """Who follows the stages of a process."""

    def begin(self, stage: Stage) -> None:
        """Takes note that a stage begins, perhaps within another."""

    def advance(self, done: float, total: float, unit: str) -> None:
        """Takes note of how far the innermost stage has come with what it does now."""

    def end(self, peak: int) -> None:
        """Takes note that the innermost stage is over, and of its peak memory in bytes."""

    def should_stop(self) -> bool:
        """Whether the job is to stop."""


_follower: Follower | None = None
_quiet = False
# The stages that are open, each with the bytes at its peak so far.
_open: list[tuple[Stage, int]] = []


@contextmanager
def followed_by(follower: Follower) -> Iterator[None]:
    """Tells a follower of the stages of this process until the end."""
    global _follower
    before, _follower = _follower, follower
    try:
        yield
    finally:
        _follower = before


@contextmanager
def stage(
    name: str,
    *,
    total: float = 0,
    unit: str = "",
    part: bool = False,
    saves: bool = False,
    stoppable: bool = False,
) -> Iterator[None]:
    """Tells the follower of a stage; see `Stage`."""
    follower = _follower
    if follower is None:
        yield
        return
    begun = Stage(name=name, total=total, unit=unit, part=part, saves=saves, stoppable=stoppable)
    _note_peak()
    _open.append((begun, 0))
    follower.begin(begun)
    try:
        yield
    finally:
        _note_peak()
        _, peak = _open.pop()
        follower.end(peak)


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, `advance` tells nobody, as it is of a part of what the caller advances by.

    It still ends a stage that is to stop.
    """
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def advance(done: float, total: float, unit: str) -> None:
    """Tells the follower how far the innermost stage has come with what it does now.

    Raises:
        PreemptedError: If the stage can be stopped here, and is to stop.
    """
    if _follower is None or not _open:
        return
    if not _quiet:
        _follower.advance(done, total, unit)
    innermost, _ = _open[-1]
    if innermost.stoppable and _follower.should_stop():
        raise PreemptedError(f"stopped during {innermost.name}")


def _note_peak() -> None:
    """Adds what memory this process took at most since the last look to the innermost stage."""
    if _open:
        innermost, peak = _open[-1]
        _open[-1] = innermost, max(peak, _high_water_mark())
    # Linux starts its mark anew; where it may not be told so, the mark stays that of the process.
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _high_water_mark() -> int:
    with suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
