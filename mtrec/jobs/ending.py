"""How a job ends that does not finish: what MLflow is told, and what people are."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, final

from mtrec.errors import PreemptedError
from mtrec.jobs import interrupts
from mtrec.tracking import run_dir

if TYPE_CHECKING:
    from mtrec.jobs.terminal import Terminal
    from mtrec.tracking.tracker import Tracker


@final
class Ending:
    """What is there to be told of the end.

    Attributes:
        tracker: The job's MLflow run, once it has one.
    """

    def __init__(self, terminal: "Terminal", directory: Path) -> None:
        self.tracker: Tracker | None = None
        self._terminal = terminal
        self._directory = directory
        self._said = False

    def stopped(self, how: str = "") -> None:
        """Says once that the job was stopped, and how to go on."""
        if self._said:
            return
        self._said = True
        how = how or f"stopped during {self._terminal.last}"
        if any((self._directory / run_dir.CHECKPOINTS).glob("step-*")):
            remedy = f"go on with the same command and train.resume={self._directory}"
        else:
            remedy = "nothing was there to save; start again with the same command"
        name = signal.Signals(interrupts.asked() or signal.SIGINT).name
        print(f"error: {name}: {how}; {remedy}", file=sys.stderr, flush=True)
        # It would warn, as the last word, of what was not read of a checkpoint that was cut off.
        logging.getLogger("tensorflow").disabled = True
        if self.tracker:
            self.tracker.finish("KILLED")


@contextmanager
def ending(terminal: "Terminal", directory: Path) -> Iterator[Ending]:
    """Ends the process with 128 + the signal where a job was stopped, and says that it was.

    Args:
        terminal: Who knows in which stage the job is.
        directory: The run directory.
    """
    told = Ending(terminal, directory)
    interrupts.say_at_the_end(told.stopped)
    try:
        yield told
    except BaseException as error:
        interrupts.hold(False)
        if interrupts.asked() or isinstance(error, KeyboardInterrupt | PreemptedError):
            told.stopped(str(error) if isinstance(error, PreemptedError) else "")
            sys.exit(128 + (interrupts.asked() or signal.SIGINT))
        if told.tracker:
            told.tracker.finish("FAILED")
        raise
