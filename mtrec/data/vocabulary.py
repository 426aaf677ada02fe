"""Values and the row numbers that stand for them."""

import numpy as np
import pandas as pd


def as_text(values: np.ndarray) -> np.ndarray:
    """Values as strings of the same shape: whole numbers without a fraction, NaN as `""`."""
    values = np.asarray(values)
    if values.dtype.kind != "f":
        return values.astype(str)
    whole = np.isfinite(values) & (values == np.rint(values))
    text = np.where(whole, np.where(whole, values, 0).astype(np.int64).astype(str), values)
    return np.where(np.isnan(values), "", text)


class Vocabulary:
    """The distinct values of a column; row 0 is for every value not among them.

    Values are taken as text. A missing value, the empty string or NaN, is never a member.

    Args:
        values: Array of any shape; repeats are fine. Rows follow the order of first appearance, so
            that the ids of a table keep the row numbers of that table.
    """

    def __init__(self, values: np.ndarray) -> None:
        distinct = pd.unique(as_text(values).ravel())
        self._index = pd.Index(distinct[distinct != ""])

    def __len__(self) -> int:
        """Number of rows, row 0 included."""
        return len(self._index) + 1

    @property
    def values(self) -> list[str]:
        """The values of rows 1, 2, ... in order."""
        return [str(value) for value in self._index]

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Row numbers of `values`, an int32 array of the same shape; 0 where unknown."""
        values = as_text(values)
        rows = self._index.get_indexer(pd.Index(values.ravel())) + 1
        return rows.astype(np.int32).reshape(values.shape)
