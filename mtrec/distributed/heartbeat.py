"""The heartbeat of each worker's training, and who judges from all of them which one has stalled.

Training beats after each call of the step, each chunk of an evaluation or a search, each exchange
between workers, and each checkpoint. What is longer without a beat, such as building, tracing or
writing a large checkpoint, is told from a stall by the CPU that it uses.

It needs the standard library alone.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Of a CPU; Ray's own threads take 0.01 in a worker that does nothing.
BUSY = 0.05
# What uses the CPU may last so many timeouts without a beat.
BUSY_PATIENCE = 10
# Where a frame says nothing of what training does.
_LIBRARIES = ("tensorflow", "keras", "numpy", "concurrent")

_beaten_at = 0.0


def beat() -> None:
    """Notes that training has made progress."""
    global _beaten_at
    _beaten_at = time.monotonic()


@dataclass(frozen=True)
class Pulse:
    """How the training of a worker stands.

    Attributes:
        silent_s: Seconds since it last beat.
        idle_s: Seconds since its process last used a CPU.
        in_tensorflow: Whether it is within TensorFlow, where workers wait for each other.
        place: Where it is in the source, for people.
    """

    silent_s: float
    idle_s: float
    in_tensorflow: bool
    place: str


class Heart:
    """Feels the pulse of the training in a thread of this process.

    Args:
        thread: The thread's identifier.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._looked_at = self._busy_at = self._began_at = time.monotonic()
        self._cpu = time.process_time()

    def pulse(self) -> Pulse:
        """The pulse now; call it every second or so."""
        now, cpu = time.monotonic(), time.process_time()
        if cpu - self._cpu >= BUSY * (now - self._looked_at):
            self._busy_at = now
        self._looked_at, self._cpu = now, cpu
        stack = list(_frames(sys._current_frames().get(self._thread)))
        return Pulse(
            silent_s=now - max(_beaten_at, self._began_at),
            idle_s=now - self._busy_at,
            in_tensorflow=bool(stack) and _module(stack[0]) == "tensorflow",
            place=next((_place(f) for f in stack if _module(f) not in _LIBRARIES), "its end"),
        )


class Vigil:
    """Judges from the pulses of all workers which of them has stalled.

    One that stands still within TensorFlow may only wait for another, so that one which stands
    still elsewhere is to blame; where all of them stand still there, the exchange itself is.

    Args:
        timeout: Seconds without progress after which a worker has stalled.
    """

    def __init__(self, timeout: float) -> None:
        self._workers = 0
        self._timeout = timeout
        self._pulses: dict[int, Pulse] = {}
        self._finished: set[int] = set()

    def enter(self, worker: int, workers: int) -> None:
        """Takes note that a worker of so many begins, perhaps in place of one that ended."""
        if workers != self._workers:
            self._workers, self._pulses, self._finished = workers, {}, set()
        self.leave(worker)
        self._finished.discard(worker)

    def leave(self, worker: int) -> None:
        """Takes note that a worker is done."""
        self._pulses.pop(worker, None)
        self._finished.add(worker)

    def verdict(self, worker: int, pulse: Pulse) -> str:
        """Takes the pulse of a worker; a sentence if that worker is to be ended, or nothing."""
        self._pulses[worker] = pulse
        verdict = self._verdict(worker, pulse) if self._still(pulse) else ""
        if verdict:
            del self._pulses[worker]
        return verdict

    def _verdict(self, worker: int, pulse: Pulse) -> str:
        """The verdict on a worker that stands still."""
        waited = f"{self._without(pulse):.0f} s (`health_timeout_s`={self._timeout:g})"
        if not pulse.in_tensorflow:
            return f"worker {worker} has made no progress for {waited} at {pulse.place}"
        missing = set(range(self._workers)) - self._pulses.keys() - self._finished
        if missing and self._without(pulse) > BUSY_PATIENCE * self._timeout:
            return f"worker {min(missing)} has not begun while worker {worker} waited for {waited}"
        pulses = self._pulses.values()
        if missing or not all(self._still(other) and other.in_tensorflow for other in pulses):
            return ""
        places = [f"worker {n} at {p.place}" for n, p in sorted(self._pulses.items())]
        return f"the workers' exchange has not ended for {waited}: {', '.join(places)}"

    def _still(self, pulse: Pulse) -> bool:
        return self._without(pulse) > self._timeout

    def _without(self, pulse: Pulse) -> float:
        """Seconds without progress; computing for long without a beat is none either."""
        if pulse.silent_s > BUSY_PATIENCE * self._timeout:
            return pulse.silent_s
        return min(pulse.silent_s, pulse.idle_s)


def _frames(innermost: FrameType | None) -> Iterator[FrameType]:
    """The frames of a stack, from the innermost one."""
    while innermost:
        # Replicas run in threads of their own, for which TensorFlow waits.
        if _module(innermost) != "threading":
            yield innermost
        innermost = innermost.f_back


def _module(frame: FrameType) -> str:
    """The package, or module without one, that the code of a frame is of."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
