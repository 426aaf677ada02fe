"""Prepared columns on disk, memory-mapped when they are read again."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data.columns import held, of_parts, parts_of
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

# Part of every key: a change of the layout below must never meet columns written before it.
_FORMAT_VERSION = 2
_TABLES = ("users", "items", "interactions")
_SCALARS = ("name", "user_key", "item_key", "title", "rating_scale", "source", "digest")


def cached(*, cache_dir: str, key: Mapping[str, Any], build: Callable[[], Dataset]) -> Dataset:
    """Returns the dataset kept under `key`, or builds it and keeps it.

    The columns lie as `.npy` files in `<cache_dir>/<key["name"]>-<hash of key>/`. They are written
    aside and renamed, so that a directory under its final name is whole; its digest is checked on
    every read all the same, and a damaged one is built again.

    Args:
        cache_dir: Directory of all cached datasets; created where it is missing.
        key: Everything that shapes the columns, as JSON values; `key["name"]` names the data.
        build: Makes the dataset when the cache does not hold it.

    Returns:
        A dataset whose columns are read-only memory maps.

    Raises:
        UserError: `cache_dir` cannot be written.
    """
    text = json.dumps({**key, "format": _FORMAT_VERSION}, sort_keys=True)
    hashed = hashlib.sha256(text.encode()).hexdigest()[:16]
    directory = Path(cache_dir).expanduser() / f"{key['name']}-{hashed}"
    dataset = read_columns(directory)
    if dataset is None:
        _write(build(), directory)
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
                name: of_parts({part: _mapped(directory / file) for part, file in parts.items()})
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


def _mapped(file: Path) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.load(file, mmap_mode="r" if file.stat().st_size > 128 else None, allow_pickle=False)


def _write(dataset: Dataset, directory: Path) -> None:
    """Writes the dataset aside and renames it to `directory`."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory.parent))
    except OSError as error:
        raise UserError(
            f"`cache_dir` must be a directory that can be written; {directory.parent} is not "
            f"({error.strerror}). Set `cache_dir` to one that is."
        ) from error
    try:
        write_columns(dataset, aside)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    except OSError as error:
        # Another job may have put the same columns there in the meantime; then theirs will do.
        if read_columns(directory) is None:
            raise UserError(
                f"`cache_dir` must have room for the prepared columns; writing {directory} "
                f"failed ({error.strerror}). Set `cache_dir` to a disk with room."
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_columns(dataset: Dataset, aside: Path) -> None:
    """Writes the `.npy` files of each column into `aside`, and what describes them."""
    files: dict[str, dict[str, dict[str, str]]] = {}
    for table in _TABLES:
        files[table] = {}
        # Numbered, because a column of a user's own table may be called anything.
        for number, (name, column) in enumerate(getattr(dataset, table).items()):
            parts = parts_of(column)
            files[table][name] = {part: f"{table}.{number}.{part}.npy" for part in parts}
            for part, values in parts.items():
                np.save(aside / files[table][name][part], values, allow_pickle=False)
    about = {name: getattr(dataset, name) for name in _SCALARS}
    text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False)
    (aside / "about.json").write_text(text + "\n", encoding="utf-8")
