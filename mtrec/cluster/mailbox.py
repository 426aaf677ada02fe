"""What the chief and the process that started the job leave for each other.

It imports nothing of Ray Train, so that the actor made of it starts quickly.
"""

from typing import Any


class Mailbox:
    """Letters from the chief, in order, and the wish that it stop."""

    def __init__(self) -> None:
        self._letters: list[tuple[str, Any]] = []
        self._stop = False

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
