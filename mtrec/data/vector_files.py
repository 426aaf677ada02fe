"""Vectors of users or items in a `.npy` file of their own, beside one of their ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrec.data.columns import Texts
from mtrec.data.vocabulary import as_text
from mtrec.errors import UserError


def read_vectors(files: Sequence[str], *, known: Texts, named_by: str) -> np.ndarray:
    """Returns the vector of each known id, `[n, F]` float32, NaN for one that the files lack.

    Args:
        files: The vectors, `[rows, F]`, and their ids, `[rows]` texts or whole numbers.
        known: The ids, `[n]`; others that the files have are left out.
        named_by: The option that named the files.

    Raises:
        UserError: There are not two files, one cannot be read, or they do not fit each other.
    """
    import pyarrow.compute as pc

    if len(files) != 2:
        raise UserError(
            f"`{named_by}` must name two files, vectors and ids; got {list(files)}. "
            f"Set `{named_by}`={{cover:[covers.npy,ids.npy]}}."
        )
    vectors, ids = (_array(file, named_by) for file in files)
    if vectors.ndim != 2 or vectors.dtype.kind not in "iuf" or ids.shape != vectors.shape[:1]:
        raise UserError(
            f"`{named_by}` must name vectors of numbers, [rows, F], and as many ids; {files[0]} is "
            f"{list(vectors.shape)} and {files[1]} {list(ids.shape)}. Write them again."
        )
    texts = as_text(ids)
    assert isinstance(texts, Texts)
    found = pc.index_in(known.arrow(), value_set=texts.arrow())
    rows = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    result = np.full((len(known), vectors.shape[1]), np.nan, np.float32)
    result[rows >= 0] = vectors[rows[rows >= 0]]
    return result


def _array(file: str, named_by: str) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"`{named_by}` must name .npy files of numbers or texts; {file} cannot be read "
            f"({reason}). Correct it."
        ) from error
