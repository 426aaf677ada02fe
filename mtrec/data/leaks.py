"""Columns that tell a label which they should not: they are it, or are known only afterwards.

Shapes: `N` rows.
"""

import numpy as np

# A column that is a label in all but so many rows, or so closely related to one, is a leak.
_SAME, _RELATED = 0.99, 0.999
# Rows that a value has at least, as a mean, where its mean says something.
_ROWS_EACH = 10


def leak(
    name: str,
    label: str,
    truth: np.ndarray,
    *,
    numbers: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    request: np.ndarray | None = None,
) -> str | None:
    """A sentence on how a column tells a label, or None.

    Args:
        name: What the column is called.
        label: What the label is called.
        truth: The label, NaN where there is none, `[N]`.
        numbers: What the column holds, if that is numbers, NaN where there is none, `[N]`.
        codes: The number of each row's value, -1 where there is none, `[N]`, if what rows of one
            value have in common is looked at.
        request: The number of each row's request, `[N]`, if its rows have the column alike.
    """
    truth = truth.astype(np.float64)
    if numbers is not None:
        both = np.isfinite(numbers) & np.isfinite(truth)
        of, found = truth[both], numbers[both].astype(np.float64)
        if len(of) >= _ROWS_EACH and np.ptp(of) and np.ptp(found):
            # Labels are float32, columns of tables are not.
            if np.mean(np.isclose(found, of, rtol=1e-6, atol=0)) > _SAME:
                return f"{name} is the label {label}, in more than 99 % of the rows."
            if abs(np.corrcoef(found, of)[0, 1]) > _RELATED:
                return f"{name} tells the label {label}: their correlation is above {_RELATED}."
    if codes is not None and _explained(codes, truth) > _RELATED:
        return f"{name} tells the label {label}: rows of one value have one {label}."
    if numbers is not None and request is not None:
        if _is_each(numbers, np.bincount(request, np.nan_to_num(truth)), request):
            return f"{name} is the sum of the label {label} over a request."
        if _is_each(numbers, np.bincount(request), request):
            return f"{name} is the number of rows of a request."
    return None


def _explained(codes: np.ndarray, truth: np.ndarray) -> float:
    """The share of a label's variance that lies between the values of a column."""
    known = (codes >= 0) & np.isfinite(truth)
    truth, (values, of) = truth[known], np.unique(codes[known], return_inverse=True)
    if len(truth) < _ROWS_EACH * len(values) or not len(values) or not np.ptp(truth):
        return 0.0
    means = np.bincount(of, truth) / np.bincount(of)
    return float(1 - np.var(truth - means[of]) / np.var(truth))


def _is_each(numbers: np.ndarray, told: np.ndarray, request: np.ndarray) -> bool:
    """Whether a column is a number of each request, as far as these have several rows."""
    several = (np.bincount(request)[request] > 1) & np.isfinite(numbers)
    if np.count_nonzero(several) < _ROWS_EACH or not np.ptp(numbers[several]):
        return False
    return bool(np.mean(np.isclose(numbers[several], told[request[several]], rtol=1e-4)) > _SAME)
