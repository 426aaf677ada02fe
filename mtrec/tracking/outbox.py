"""Records on their way to a server that may be away: sent at once, or kept in a file."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, final

from mtrec.errors import UserError

Record: TypeAlias = dict[str, Any]

_FIRST_PAUSE_SECONDS = 30.0


@final
class Outbox:
    """Delivers records in order, and never fails because the server does.

    Once the server cannot be reached, every record waits behind the first that failed, and all are
    tried again after a pause that doubles each time. A record that the server refuses while it
    answers others waits too, but holds up none. The first failure prints one line, and only that.

    A record may be delivered a second time when an answer got lost or the process died, so that
    delivering twice must change nothing.

    A thread of its own delivers, while the caller waits: what interrupts the caller, as Ctrl+C,
    cuts off nothing, and leaves no database locked for what is still to be told.

    Attributes:
        path: The file of waiting records, one JSON object a line; it exists while any wait.
        records: The waiting records, oldest first.
    """

    def __init__(
        self,
        path: Path,
        *,
        server: str,
        deliver: Callable[[Record], Any],
        answers: Callable[[], bool],
    ) -> None:
        """Takes up what an earlier process left in the file.

        Args:
            path: The file of waiting records.
            server: What the server is called in messages.
            deliver: Delivers one record; raises whatever it likes if it cannot.
            answers: Whether the server can be reached at all.
        """
        self.path = path
        self.records: list[Record] = list(_complete_lines(path))
        self._server = server
        self._deliver = deliver
        self._answers = answers
        # What an earlier process left goes before anything new.
        self._reached = not self.records
        self._retry_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._warned = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        # It begins here, since an interrupted beginning would leave two of them.
        self._thread.submit(int).result()

    def send(self, record: Record) -> Any:
        """Delivers a record, or keeps it; returns the answer, or None if there was none.

        Raises:
            UserError: If `deliver` raises it: the record will be wrong however often it is tried.
        """
        return self._thread.submit(self._send, record).result()

    def finish(self, record: Record) -> None:
        """Puts the last record behind those that wait, and tries all of them, in order, at once."""
        self._thread.submit(self._finish, record).result()

    def _finish(self, record: Record) -> None:
        self._keep(record)
        self.flush()

    def _send(self, record: Record) -> Any:
        if not self._reached:
            self._keep(record)
            if time.monotonic() >= self._retry_at:
                self.flush()
            return None
        try:
            return self._deliver(record)
        except UserError:
            raise
        except Exception as error:
            self._keep(record)
            self._note(error)
            return None

    def _keep(self, record: Record) -> None:
        """Puts a record behind those that wait, without trying to deliver it."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Tries all waiting records, in order, at once."""
        waiting = self.records
        left: list[Record] = []
        self._reached = True
        for position, record in enumerate(waiting):
            try:
                self._deliver(record)
            except Exception as error:
                left.append(record)
                self._note(error)
                if not self._reached:
                    left.extend(waiting[position + 1 :])
                    break
        self._replace(left)

    def discard(self) -> None:
        """Forgets all waiting records."""
        self._replace([])
        self._reached = True

    def _replace(self, records: Sequence[Record]) -> None:
        self.records = list(records)
        if not records:
            self.path.unlink(missing_ok=True)
            return
        aside = self.path.with_suffix(".part")
        aside.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        os.replace(aside, self.path)

    def _note(self, error: Exception) -> None:
        self._reached = self._answers()
        if not self._reached:
            self._retry_at = time.monotonic() + self._pause
            self._pause *= 2
        if self._warned:
            return
        self._warned = True
        problem = "refused a record" if self._reached else "cannot be reached"
        reason = first_line(error if self._reached else _root(error))
        print(
            f"{self._server} {problem} ({reason}): what is not sent waits in {self.path}, and "
            "nothing else is affected.",
            file=sys.stderr,
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, at most 200 characters of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…"


def _root(error: BaseException) -> BaseException:
    """Returns the error at the bottom, such as the refused connection below three libraries."""
    below = error.__cause__ or error.__context__
    return error if below is None else _root(below)


def _complete_lines(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            # The process was killed while it wrote this line.
            continue
