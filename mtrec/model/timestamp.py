"""The feature that a moment is."""

from typing import Any

import numpy as np

from mtrec.data.columns import Column
from mtrec.model.features import Dense

SECONDS_PER_DAY = 86_400


class Timestamp(Dense):
    """A moment: its place in the observed span, and sine and cosine of the day and week it is in.

    Values are seconds since 1970 (UTC); a missing one is 0 or NaN and encodes to zeros.
    """

    width = 5

    def adapt(self, values: Column) -> None:
        """Learns the observed span."""
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known) & (known != 0)]
        self.first = float(known.min()) if len(known) else 0.0
        self.last = float(known.max()) if len(known) else 0.0

    def encode(self, values: Column) -> np.ndarray:
        """`[rows, 5]`: trend in [-1, 1], then sine and cosine of time of day and day of week."""
        seconds = np.asarray(values, np.float64)
        known = np.isfinite(seconds) & (seconds != 0)
        seconds = np.where(known, seconds, self.first)
        trend = 2 * (seconds - self.first) / max(self.last - self.first, 1.0) - 1
        day = 2 * np.pi * seconds / SECONDS_PER_DAY
        columns = [trend, np.sin(day), np.cos(day), np.sin(day / 7), np.cos(day / 7)]
        return np.where(known[:, np.newaxis], np.stack(columns, 1), 0.0).astype(np.float32)

    def recipe(self) -> dict[str, Any]:
        """The observed span."""
        return {"kind": "moment", "first": self.first, "last": self.last}
