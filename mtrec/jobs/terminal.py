"""The stages of a job on the terminal: a bar while one lasts, and a line on what it took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mtrec.data.progress import Stage, followed_by
from mtrec.jobs import interrupts

# Without a terminal, a stage that goes on says so after this, and then ever less often.
_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class _Took:
    """What a stage took, all its rounds together."""

    rounds: int = 0
    seconds: float = 0.0
    total: float = 0.0
    peak: int = 0

    def line(self, stage: Stage) -> str:
        name = stage.name if self.rounds == 1 else f"{stage.name}, {self.rounds} times"
        parts = [f"{name}: {self.seconds:.1f} s"]
        if self.total and self.seconds:
            parts.append(f"{self.total / self.seconds:,.0f} {stage.unit}/s")
        return ", ".join([*parts, f"peak {_size(self.peak)}"])


@dataclass
class _Open:
    """A stage that is not over."""

    stage: Stage
    began: float
    own: float = 0.0  # seconds, those of stages within it aside
    parts: dict[Stage, _Took] = field(default_factory=dict)
    done: float = 0.0  # the most of its unit, if it does several things one after the other
    now: tuple[float, float, str] | None = None  # done, total and unit of what it does now
    now_began: float = 0.0
    now_at: float = 0.0

    def progress(self) -> str:
        """How far it has come, at what rate, and the time that is left of what it does now."""
        if self.now is None:
            return ""
        done, total, unit = self.now
        rate = done / max(time.monotonic() - self.now_began, 1e-9)
        share = f"{done:,.0f} of {total:,.0f} {unit}, {rate:,.0f} {unit}/s"
        return f"{share}, {_duration((total - done) / rate)} left" if 0 < done < total else share


@final
class Terminal:
    """Follows the stages of a job; a `mtrec.data.progress.Follower`.

    Each second is of one stage: what a stage within another takes is not billed to that one.

    Args:
        console: Where to write.
        began: When the job began, as `time.time()`; what passed since is its start.
    """

    def __init__(self, console: Console, *, began: float) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[progress]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._open: list[_Open] = []
        self._began = self._mark = time.monotonic() - (time.time() - began)
        self._accounted = 0.0
        self._said_at = self._mark
        self._over = threading.Event()
        self.last = "start"

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follows this process's stages until the end."""
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            with self._bar, followed_by(self):
                self._started()
                yield
        finally:
            self._over.set()
            watch.join()

    def _started(self) -> None:
        """Says how long it took to come here."""
        now = time.monotonic()
        self._accounted += now - self._mark
        self.console.print(f"start: {now - self._mark:.1f} s")
        self._mark = now

    def total(self) -> None:
        """Says how long the job took, and how much of it the stages account for."""
        took = time.monotonic() - self._began
        share = self._accounted / took
        self.console.print(f"total: {took:.1f} s, {share:.0%} of it in these stages")

    def begin(self, stage: Stage) -> None:
        """Opens a stage within the one that is open."""
        self._bill()
        self._note(stage)
        self._open.append(_Open(stage, self._mark))
        self._show()

    def advance(self, done: float, total: float, unit: str) -> None:
        """Shows how far the innermost stage has come."""
        innermost = self._open[-1]
        if innermost.stage.saves:
            interrupts.hold(True)
        if innermost.now is None:
            innermost.now_began = innermost.began
        elif innermost.now[0] >= done:  # what it does next began when that was over
            innermost.now_began = innermost.now_at
        if unit == innermost.stage.unit:
            innermost.done = max(innermost.done, done)
        innermost.now, innermost.now_at = (done, total, unit), time.monotonic()
        self._bar.update(
            self._bar.task_ids[-1], completed=done, total=total, progress=innermost.progress()
        )

    def end(self, peak: int) -> None:
        """Closes the innermost stage and says what it took."""
        self._bill()
        over = self._open.pop()
        self._accounted += over.own
        parents = [each for each in self._open if not each.stage.part]
        took = _Took()
        if over.stage.part and parents:
            took = parents[-1].parts.setdefault(over.stage, took)
        took.rounds += 1
        took.seconds += over.own
        took.total += over.stage.total or over.done
        took.peak = max(took.peak, peak)
        if not (over.stage.part and parents):
            for stage, each in [(over.stage, took), *over.parts.items()]:
                self.console.print(each.line(stage))
            self._said_at = time.monotonic()
        self._note((self._open[-1] if self._open else over).stage)
        self._show()

    def should_stop(self) -> bool:
        """Whether SIGINT or SIGTERM came."""
        return interrupts.asked() is not None

    def _note(self, stage: Stage) -> None:
        """Notes which stage the job is in, up to the one in which it is to stop."""
        if not self.should_stop():
            self.last = stage.name

    def _bill(self) -> None:
        """Bills the time since the last change to the innermost stage."""
        now = time.monotonic()
        if self._open:
            self._open[-1].own += now - self._mark
        self._mark = now

    def _show(self) -> None:
        """Shows the innermost stage in the bar."""
        interrupts.hold(any(each.stage.saves and each.now is not None for each in self._open))
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        if self._open:
            self._bar.add_task(self._open[-1].stage.name, total=None, progress="")

    def _watch(self) -> None:
        """Says without a terminal, now and then, how a long stage stands."""
        while not self._over.wait(1.0):
            now, innermost = time.monotonic(), next(reversed(self._open), None)
            if innermost is None or not self._bar.disable:
                continue
            lasts = now - innermost.began
            if min(lasts, now - self._said_at) < max(_SECONDS_BETWEEN_LINES, lasts / 10):
                continue
            self._said_at = now
            progress = innermost.progress() or f"{_duration(lasts)} so far"
            self.console.print(f"{innermost.stage.name}: {progress}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
