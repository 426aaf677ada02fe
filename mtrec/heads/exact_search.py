"""Exact search of a catalogue, and how near another search comes to it."""

from collections.abc import Sequence

import numpy as np

from mtrec.heads.max_similarity import score_all_in_numpy

# Scores held at a time, 128 MB.
SCORES_AT_ONCE = 2**25
# Scores that are passed over several times while they are in a processor's cache.
SCORES_IN_CACHE = 2**20

_EIGHT_TRUE = np.ones(8, bool).view(np.uint64)


def rows_at_once(candidates: int) -> int:
    """Queries whose scores with all candidates are held at a time."""
    return max(1, SCORES_AT_ONCE // candidates)


def exact_top_k(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, exclude: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and positions `[B, k]` best first; ties go to the lower position.

    Scores of queries `[B, D]` or `[B, K, D]` are formed in chunks, so that memory stays bounded.
    """
    scores = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int32)
    rows = min(len(queries), rows_at_once(len(vectors)))
    held = np.empty((rows, len(vectors)), np.float32)
    for start in range(0, len(queries), max(1, rows)):
        chunk = slice(start, start + rows)
        asked = queries[chunk]
        products = score_all_in_numpy(asked, vectors, out=held[: len(asked)])  # [b, C]
        for row, seen in enumerate(exclude[chunk]):
            products[row, seen] = -np.inf
        scores[chunk], positions[chunk] = top_k(products, k)
    return scores, positions


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest of each row, best first, and their columns: `[B, C] -> [B, k]` each.

    Ties go to the lower column. NaN counts as higher than all others, and comes last.
    """
    total, width = scores.shape
    each = max(1, SCORES_IN_CACHE // width)
    if total > each:
        parts = [top_k(scores[start : start + each], k) for start in range(0, total, each)]
        values, columns = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(columns)
    # Columns that are the same modulo G make a group. At least k scores reach the k-th highest of
    # the groups' maxima, and of the rest two passes are all.
    groups = min(max(32 * k, 512, width // 256), width)
    whole = width - width % groups
    maxima = scores[:, :whole].reshape(total, -1, groups).max(axis=1)
    np.maximum(maxima[:, : width - whole], scores[:, whole:], out=maxima[:, : width - whole])
    bound = np.partition(maxima, groups - k, axis=1)[:, [groups - k]]
    below = np.empty(-(-scores.size // 8) * 8, bool)
    below[scores.size :] = True
    np.less(scores, bound, out=below[: scores.size].reshape(scores.shape))
    # Eight at a time, since few are not below.
    eights = np.flatnonzero(below.view(np.uint64) != _EIGHT_TRUE)
    found = np.flatnonzero(~below.reshape(-1, 8)[eights])
    row, column = np.divmod(8 * eights[found // 8] + found % 8, width)
    found = scores[row, column]
    best_first = np.lexsort((column, -found, row))
    first = np.searchsorted(row, np.arange(total))
    best = best_first[first[:, np.newaxis] + np.arange(k)]
    return found[best], column[best]


def recall_of(found: np.ndarray, best: np.ndarray) -> float:
    """Returns the mean share of found scores `[Q, k]` that belong to the exact top k.

    Judged by score, since of several equal candidates at place k any one is right.
    """
    rounding = 1e-5 * np.abs(best).max(axis=1, keepdims=True)
    return float(np.mean(found >= best[:, -1:] - rounding))
