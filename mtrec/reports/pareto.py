"""What can be had of two things at once: the Pareto front and the area it dominates."""

import numpy as np


def front(points: np.ndarray) -> np.ndarray:
    """Whether each of the points `[N, 2]` is on the front; larger is better in both columns.

    A point is on the front if no other is at least as good in both and better in one.
    """
    at_least = np.all(points[:, np.newaxis] <= points, axis=2)  # [N, N]
    better = np.any(points[:, np.newaxis] < points, axis=2)
    return ~np.any(at_least & better, axis=1)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The area between a reference point and the points `[N, 2]`; larger is better in both.

    It is the union of the rectangles from the reference up to each point (Zitzler, Thiele 1999).
    Points that are not better than the reference in both add nothing.
    """
    inside = points[(points > reference).all(axis=1)]
    area, height = 0.0, float(reference[1])
    for x, y in inside[np.argsort(-inside[:, 0], kind="stable")]:
        if y > height:
            area += float((x - reference[0]) * (y - height))
            height = float(y)
    return area
