"""What workers and the process that started the job leave for each other.

It imports nothing of Ray Train, so that the actor made of it starts quickly.
"""

from typing import Any

from mtrec.distributed.heartbeat import Pulse, Vigil


class Mailbox:
    """Letters from the workers, in order, the wish that they stop, and who of them has stalled.

    Args:
        health_timeout_s: Seconds without progress after which one has stalled.
    """

    def __init__(self, health_timeout_s: float) -> None:
        self._letters: list[tuple[str, Any]] = []
        self._stop = False
        self._workers = 0
        self._vigil = Vigil(health_timeout_s)
        self._stalled = ""

    def put(self, kind: str, content: Any) -> None:
        """Leaves a letter."""
        self._letters.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        """Takes all letters that are there."""
        letters, self._letters = self._letters, []
        return letters

    def stop(self) -> None:
        """Asks the chief to save and stop."""
        self._stop = True

    def should_stop(self) -> bool:
        """Whether it was asked."""
        return self._stop

    def enter(self, worker: int, workers: int) -> None:
        """Takes note that a worker of so many begins; a line tells of another number of them."""
        if self._workers not in (0, workers):
            self.put("line", f"workers: {workers}, where there were {self._workers}")
        self._workers = workers
        self._vigil.enter(worker, workers)
        self._stalled = ""

    def leave(self, worker: int) -> None:
        """Takes note that a worker is done."""
        self._vigil.leave(worker)

    def is_to_end(self, worker: int, pulse: Pulse) -> bool:
        """Takes a worker's pulse; whether it has stalled, of which a line tells."""
        verdict = self._vigil.verdict(worker, pulse)
        verdict = verdict.replace("`health_timeout_s`", "cluster.health_timeout_s")
        if verdict:
            self._stalled = verdict
            self.put("line", f"{verdict}; the workers are replaced")
        return bool(verdict)

    def stalled(self) -> str:
        """What the stall was that ended the present workers, or nothing."""
        return self._stalled
