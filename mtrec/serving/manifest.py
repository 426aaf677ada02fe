"""The manifest of an index: what it is, which tower it serves, and that its files are whole."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtrec.data.columns import Texts
from mtrec.errors import UserError
from mtrec.libraries import called_to_go_on

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index is, and how good it was measured to be.

    Attributes:
        kind: `exact` or `scann`.
        digest: `tower_digest` of the candidates that the index was built from.
        catalogue_size: Number of candidates C.
        dimension: Width D of a vector.
        settings: `num_leaves`, `leaves_to_search` and `reorder` of ScaNN; empty when exact.
        k: Depth at which recall was measured; C when exact, where it is 1 at any depth.
        num_queries: Number of queries it was measured on.
        recall_at_k: Mean share of the exact top k that the index finds.
        versions: Of the libraries that built it.
    """

    kind: str
    digest: str
    catalogue_size: int
    dimension: int
    settings: dict[str, int]
    k: int
    num_queries: int
    recall_at_k: float
    versions: dict[str, str]


def tower_digest(
    weights: Sequence[tuple[tuple[int, ...], Iterable[np.ndarray]]],
    ids: Texts | np.ndarray,
    encoded: Mapping[str, Sequence[np.ndarray]],
) -> str:
    """Returns the SHA-256 that names a candidate tower, all that its vectors are made of.

    Weights, not vectors: those would differ in the last bit from one machine to another.

    Args:
        weights: Shape of each of its weights, and its numbers in blocks of rows.
        ids: The items' ids, `[C]`.
        encoded: The arrays that each of its features reads of the items, by the feature.
    """
    shapes = [shape for shape, _ in weights]
    digest = hashlib.sha256(json.dumps([shapes, np.asarray(ids).tolist()]).encode())
    for path, arrays in sorted(encoded.items()):
        for array in map(np.ascontiguousarray, arrays):
            digest.update(f"{path}:{array.dtype.str}:{array.shape}\n".encode())
            digest.update(array.tobytes())
    for _, blocks in weights:
        for rows in blocks:
            digest.update(np.asarray(rows, "<f4").tobytes())
    return digest.hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes `manifest.json` beside the files of an index, with the digest of each."""
    content = asdict(manifest) | {"files": _file_digests(directory)}
    (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Returns the manifest of an index whose files are the ones it was written with.

    Raises:
        UserError: If the manifest or a file is missing or cut off, or a file is foreign.
    """
    try:
        content = json.loads((directory / MANIFEST).read_text())
        files, manifest = content.pop("files"), Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"an index needs a whole {MANIFEST}; {directory} has none ({error}). "
            f"{how_to_build(directory)}"
        ) from error
    found = _file_digests(directory)
    wrong = [name for name in files | found if files.get(name) != found.get(name)]
    if wrong:
        raise UserError(
            f"the files of an index must be the ones in its manifest; {', '.join(wrong)} in "
            f"{directory} is missing, foreign or cut off. {how_to_build(directory)}"
        )
    return manifest


def how_to_build(directory: Path) -> str:
    """The command that builds the index of a run anew, which has lost its own."""
    return f"Build it again: rm -r {directory}; {called_to_go_on(directory.parent)}"


def _file_digests(directory: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                name = path.relative_to(directory).as_posix()
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
