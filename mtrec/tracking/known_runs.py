"""Where the run directories of this user's MLflow runs are, so that an id is enough anywhere.

One small file a run, called by its id, in `$XDG_STATE_HOME/mtrec/runs`, or else in
`~/.local/state/mtrec/runs`. It only spares a look at the store: nothing is lost without it.
"""

import os
from contextlib import suppress
from pathlib import Path


def remember(run_id: str, run_dir: Path) -> None:
    """Notes the run directory of a run, where the home can be written to."""
    with suppress(OSError):
        _place().mkdir(parents=True, exist_ok=True)
        (_place() / run_id).write_text(str(run_dir.resolve()), encoding="utf-8")


def recall(run_id: str) -> Path | None:
    """The run directory that was noted for a run; None where there is none."""
    with suppress(OSError):
        return Path((_place() / run_id).read_text("utf-8"))
    return None


def _place() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "mtrec" / "runs"
