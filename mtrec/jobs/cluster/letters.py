"""What a worker writes to the process that follows it, and how that reads it; nothing of Ray."""

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from mtrec.data.progress import Stage

if TYPE_CHECKING:
    from mtrec.jobs.worker import Listener
    from mtrec.training.loop import Metrics

_TELL_SECONDS = 1.0
_ASK_SECONDS = 0.2


@final
class Correspondent:
    """The listener of a worker, and who follows its stages.

    Of stages the chief alone tells, and of how far they have come first and then now and then: from
    the first step on, training holds what is to be saved.

    Args:
        put: Leaves a letter of a kind.
        asks: Whether training is asked to stop.
        chief: Whether this is the chief.
    """

    def __init__(
        self, put: Callable[[str, Any], None], asks: Callable[[], bool], *, chief: bool
    ) -> None:
        self._put = put
        self._asks = asks
        self._chief = chief
        self._asked_at = self._told_at = -math.inf
        self._stop = False

    def on_epoch(self, metrics: "Metrics") -> None:
        """See `mtrec.jobs.worker.Listener`."""
        self._put("epoch", metrics)

    def say(self, text: str) -> None:
        """See `mtrec.jobs.worker.Listener`."""
        self._put("line", text)

    def begin(self, stage: Stage) -> None:
        """See `mtrec.data.progress.Follower`."""
        self._told_at = -math.inf
        self._tell("begin", stage)

    def advance(self, done: float, total: float, unit: str) -> None:
        """See `mtrec.data.progress.Follower`."""
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS or done >= total:
            self._told_at = now
            self._tell("advance", done, total, unit)

    def end(self, peak: int) -> None:
        """See `mtrec.data.progress.Follower`."""
        self._tell("end", peak)

    def should_stop(self) -> bool:
        """See `mtrec.data.progress.Follower`; asked after each of many short steps."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_SECONDS:
            self._asked_at = now
            self._stop = self._asks()
        return self._stop

    def _tell(self, what: str, *content: Any) -> None:
        if self._chief:
            self._put("stage", (what, *content))


@final
class Delivery:
    """Hands letters to the listener of a job.

    Args:
        listener: The listener.
    """

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._depth = 0  # stages that a worker has begun and not ended

    def __call__(self, letters: Sequence[tuple[str, Any]]) -> None:
        """Hands over letters, in their order."""
        handlers: dict[str, Callable[[Any], None]] = {
            "epoch": self._listener.on_epoch,
            "line": self._listener.say,
            "stage": self._on_stage,
        }
        for kind, content in letters:
            handlers[kind](content)

    def close(self) -> None:
        """Ends what a worker began that has died."""
        while self._depth:
            self._listener.end(0)
            self._depth -= 1

    def _on_stage(self, told: tuple[Any, ...]) -> None:
        what, *content = told
        if what == "begin" and not content[0].part:
            self.close()
        getattr(self._listener, what)(*content)
        self._depth += {"begin": 1, "end": -1}.get(what, 0)
