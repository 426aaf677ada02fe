"""Values and the row numbers that stand for them."""

import numpy as np
import pandas as pd


class Vocabulary:
    """The distinct values of a column; row 0 is for every value not among them.

    Values are strings. The empty string stands for a missing value and is never a member.

    Args:
        values: Array of strings of any shape; repeats are fine. Rows follow the order of first
            appearance, so that the ids of a table keep the row numbers of that table.
    """

    def __init__(self, values: np.ndarray) -> None:
        distinct = pd.unique(np.asarray(values).ravel().astype(str))
        self._index = pd.Index(distinct[distinct != ""])

    def __len__(self) -> int:
        """Number of rows, row 0 included."""
        return len(self._index) + 1

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Row numbers of `values`, an int32 array of the same shape; 0 where unknown."""
        values = np.asarray(values).astype(str)
        rows = self._index.get_indexer(pd.Index(values.ravel())) + 1
        return rows.astype(np.int32).reshape(values.shape)
