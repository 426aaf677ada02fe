"""Vectors that were learnt elsewhere, such as of texts and images."""

from typing import Any

import numpy as np

from mtrec.data.columns import Bags, Column
from mtrec.errors import UserError
from mtrec.model.features import Dense


class Vectors(Dense):
    """A column of vectors of one width F, which stay as they are; how they are seen is learnt.

    `[B, F] x [F, D] -> [B, D]`, after their mean is taken off and all are scaled alike, so that the
    mean of their squared norms is 1. A missing vector is zeros.
    """

    def check(self, values: Column, *, named_by: str) -> None:
        """Raises for a column that does not hold vectors; see `Feature.check`."""
        if not isinstance(values, np.ndarray) or values.ndim != 2:
            raise UserError(
                f"`{named_by}` must read a column of vectors, lists of as many numbers in every "
                f"row; {self.column!r} is none. Name another column or another kind of feature."
            )

    def adapt(self, values: Column) -> None:
        """Learns mean and scale of the known vectors."""
        vectors = np.asarray(values)
        known = vectors[np.isfinite(vectors).all(axis=1)]
        self._width = vectors.shape[1]
        self.mean = known.mean(axis=0, dtype=np.float64) if len(known) else np.zeros(self._width)
        squares = ((known - self.mean) ** 2).sum(axis=1)
        self.scale = float(np.sqrt(squares.mean())) if len(known) else 0.0
        self.scale = self.scale or 1.0

    @property
    def width(self) -> int:
        """F."""
        return self._width

    def encode(self, values: Column) -> np.ndarray:
        """Centred and scaled vectors, `[rows, F]`.

        Raises:
            ValueError: One has another width.
        """
        # A list of numbers that somebody sends for a new user comes as a bag.
        plain = values.tolist() if isinstance(values, Bags) else values
        vectors = np.asarray(plain, np.float64)
        if vectors.shape[1:] != (self.width,):
            raise ValueError(f"A vector must have {self.width} numbers.")
        known = np.isfinite(vectors).all(axis=1, keepdims=True)
        return np.where(known, (vectors - self.mean) / self.scale, 0.0).astype(np.float32)

    def recipe(self) -> dict[str, Any]:
        """Mean and scale."""
        return {"kind": "vectors", "mean": self.mean.tolist(), "scale": self.scale}
