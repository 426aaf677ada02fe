"""Prepared columns on disk, memory-mapped when they are read again."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data.columns import held, of_parts, parts_of
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

# Part of every key: a change of the layout below must never meet columns written before it.
_FORMAT_VERSION = 2
_ASIDE = ".writing-"
_TABLES = ("users", "items", "interactions", "requests")
_SCALARS = ("name", "user_key", "item_key", "title", "rating_scale", "source", "digest")


def cached(*, cache_dir: str, key: Mapping[str, Any], build: Callable[[Path], Dataset]) -> Dataset:
    """Returns the dataset kept under `key`, or builds it and keeps it.

    The columns lie as `.npy` files in `<cache_dir>/<key["name"]>-<hash of key>/`. They are written
    aside and renamed, so that a directory under its final name is whole; its digest is checked on
    every read all the same, and a damaged one is built again. Of several jobs that want the same,
    one builds and the others wait. What a job that was killed left aside is removed by the next.

    Args:
        cache_dir: Directory of all cached datasets; created where it is missing.
        key: Everything that shapes the columns, as JSON values; `key["name"]` names the data.
        build: Makes the dataset when the cache does not hold it; takes an empty directory on the
            same disk, to write what is then kept without a copy.

    Returns:
        A dataset whose columns are read-only memory maps.

    Raises:
        UserError: `cache_dir` cannot be written.
    """
    text = json.dumps({**key, "format": _FORMAT_VERSION}, sort_keys=True)
    hashed = hashlib.sha256(text.encode()).hexdigest()[:16]
    directory = Path(cache_dir).expanduser() / f"{key['name']}-{hashed}"
    dataset = read_columns(directory)
    if dataset is not None:
        return dataset
    with _locked(directory.parent):
        dataset = read_columns(directory)  # another job may have built it in the meantime
        if dataset is None:
            for left in directory.parent.glob(f"{_ASIDE}*"):
                shutil.rmtree(left, ignore_errors=True)
            _build(build, directory)
            dataset = read_columns(directory)
    if dataset is None:
        raise UserError(
            f"`cache_dir` must keep what is written to it; the columns in {directory} came back "
            "changed. Set `cache_dir` to a directory on another disk."
        )
    return dataset


def digest_of(**tables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) over names, types, shapes and contents of all columns.

    Args:
        **tables: Columns by name, for each table; their order does not matter.
    """
    digest = hashlib.sha256()
    for table in sorted(tables):
        for name in sorted(tables[table]):
            for part, values in parts_of(held(tables[table][name])).items():
                values = np.ascontiguousarray(values)
                label = f"{table}.{name}.{part}:{values.dtype.str}:{values.shape}\n"
                digest.update(label.encode())
                digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()


def fingerprint(files: Iterable[Path]) -> dict[str, list[int]]:
    """Returns name, size and time of change of those `files` that exist, for a cache key."""
    stats = {str(file.absolute()): file.stat() for file in files if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def read_digest(directory: Path) -> str | None:
    """Returns the digest that the columns in `directory` were written with, or None."""
    try:
        about = json.loads((directory / "about.json").read_text(encoding="utf-8"))
        return str(about["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_columns(directory: Path) -> Dataset | None:
    """Maps the columns that `write_columns` wrote; None where they are missing or damaged."""
    try:
        about = json.loads((directory / "about.json").read_text(encoding="utf-8"))
        tables: dict[str, Any] = {
            table: {
                name: of_parts({part: mapped(directory / file) for part, file in parts.items()})
                for name, parts in about["files"][table].items()
            }
            for table in _TABLES
        }
        scalars: dict[str, Any] = {name: about[name] for name in _SCALARS}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if digest_of(**tables) != scalars["digest"]:
        return None
    scalars["rating_scale"] = tuple(scalars["rating_scale"])
    return Dataset(**tables, **scalars)


def mapped(file: Path) -> np.ndarray:
    """The array of a `.npy` file, read as it is looked at; an empty one cannot be mapped."""
    return np.load(file, mmap_mode="r" if file.stat().st_size > 128 else None, allow_pickle=False)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Waits for other jobs that build there; the system lets go of it when one is killed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"`cache_dir` must be a directory that can be written; {directory} is not "
            f"({error.strerror}). Set `cache_dir` to one that is."
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:  # some shared storage has no locks
        print(f"{directory} cannot be locked ({error.strerror}): prepare data in one job alone.")
    try:
        yield
    finally:
        os.close(held)


def _build(build: Callable[[Path], Dataset], directory: Path) -> None:
    """Builds and writes the dataset aside, and renames it to `directory`."""
    aside = directory.with_name(f"{_ASIDE}{directory.name}")
    made, written = aside / "made", aside / "written"
    try:
        for folder in (made, written):
            folder.mkdir(parents=True)
        write_columns(build(made), written)
        shutil.rmtree(directory, ignore_errors=True)
        written.rename(directory)
    except OSError as error:
        raise UserError(
            f"`cache_dir` must have room for the prepared columns; writing {directory} "
            f"failed ({error.strerror}). Set `cache_dir` to a disk with room."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_columns(dataset: Dataset, aside: Path) -> None:
    """Writes the `.npy` files of each column into `aside`, and what describes them.

    A column that is the map of a whole file on the same disk becomes another name of that file.
    """
    files: dict[str, dict[str, dict[str, str]]] = {}
    for table in _TABLES:
        files[table] = {}
        # Numbered, because a column of a user's own table may be called anything.
        for number, (name, column) in enumerate(getattr(dataset, table).items()):
            parts = parts_of(column)
            files[table][name] = {part: f"{table}.{number}.{part}.npy" for part in parts}
            for part, values in parts.items():
                _save(values, aside / files[table][name][part])
    about = {name: getattr(dataset, name) for name in _SCALARS}
    text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False)
    (aside / "about.json").write_text(text + "\n", encoding="utf-8")


def _save(values: np.ndarray, file: Path) -> None:
    if isinstance(values, np.memmap) and values.flags.c_contiguous:
        source = Path(str(values.filename))
        kept = np.load(source, mmap_mode="r", allow_pickle=False)
        if (kept.dtype, kept.shape) == (values.dtype, values.shape):
            # Another disk, or one that has no links, gets a copy.
            with suppress(OSError):
                os.link(source, file)
                return
    np.save(file, values, allow_pickle=False)
