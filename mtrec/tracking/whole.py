"""Directories that a job writes whole: aside, then renamed, and never over what is not its own."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from mtrec.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that it is never seen half-written."""
    aside = beside(path, "partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def beside(path: Path, what: str) -> Path:
    """The hidden name next to `path` under which a job keeps its `new`, `old` or `partial`."""
    return path.with_name(f".{path.name}.{what}")


def foreign(directory: Path, ours: Sequence[str]) -> list[str]:
    """The files below `directory` that match no pattern of `ours`, relative to it.

    Args:
        directory: It need not be there.
        ours: Patterns of what a job writes there, such as `scann/*`.
    """
    if directory.is_file():
        return [directory.name]
    names = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if not p.is_dir())
    return sorted(name for name in names if not any(fnmatch(name, own) for own in ours))


def refuse_foreign(directory: Path, ours: Sequence[str]) -> None:
    """Raises if somebody else's files lie where a job writes.

    Raises:
        UserError: With the names of the first few.
    """
    found = foreign(directory, ours)
    if found:
        named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise UserError(
            f"{directory} must hold nothing but what a job wrote, which is replaced; it holds "
            f"{named}. Move that elsewhere, or give another hydra.run.dir."
        )


@contextmanager
def replacing(directory: Path, ours: Sequence[str]) -> Iterator[Path]:
    """Yields an empty directory to write to, which then takes the place of `directory`.

    If writing fails, the old directory stays. If a rename fails, the old one is where it was, and
    the new one stays beside it as `.<name>.new`. A job that is killed between the two renames
    leaves both there, and the next one begins by putting the old one back.

    Args:
        directory: It need not be there.
        ours: Patterns of what a job writes there.

    Raises:
        UserError: If `directory` holds anything else.
    """
    new, old = beside(directory, "new"), beside(directory, "old")
    _put_back(old, directory)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    refuse_foreign(directory, ours)
    try:
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    except BaseException:
        _put_back(old, directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, directory: Path) -> None:
    if old.exists() and not directory.exists():
        old.rename(directory)
