"""Columns of a table, whose row 0 is the unknown user or item."""

import numpy as np

Columns = dict[str, np.ndarray]


def with_unknown(column: np.ndarray) -> np.ndarray:
    """Returns `column` with the row of the unknown, `""` or NaN, put before the others.

    Args:
        column: Strings or floats of `[rows, ...]`.
    """
    unknown = "" if column.dtype.kind == "U" else np.nan
    return np.concatenate([np.full((1, *column.shape[1:]), unknown, column.dtype), column])
