"""Values and the row numbers that stand for them."""

from typing import Any

import numpy as np

from mtrec.data.columns import Bags, Texts, held


def as_text(values: Any) -> Texts | Bags:
    """Values as text: whole numbers without a fraction, NaN as `""`.

    Args:
        values: Texts or bags, or an array of numbers or texts: `[rows]`, or `[rows, L]` for a bag.
    """
    values = held(values)
    if isinstance(values, Texts | Bags):
        return values
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.rint(values))
        text = np.where(whole, np.where(whole, values, 0).astype(np.int64).astype(str), values)
        values = np.where(np.isnan(values), "", text)
    return held(values.astype(str))


class Vocabulary:
    """The distinct values of a column; row 0 is for every value not among them.

    Values are taken as text. A missing value, the empty string or NaN, is never a member.

    Args:
        values: Texts, bags or an array; repeats are fine. Rows follow the order of first
            appearance, so that the ids of a table keep the row numbers of that table.
    """

    def __init__(self, values: Any) -> None:
        text = as_text(values)
        if isinstance(text, Bags):
            codes, first = np.unique(text.codes, return_index=True)
            text = text.labels[codes[np.argsort(first)]]
        distinct = text.arrow().unique()
        self._values = distinct.filter(_filled(distinct))

    def __len__(self) -> int:
        """Number of rows, row 0 included."""
        return len(self._values) + 1

    def kept(self, which: np.ndarray) -> "Vocabulary":
        """One of some of the values, in their order, given whether each is among them."""
        import pyarrow as pa

        return Vocabulary(Texts.of_arrow(self._values.filter(pa.array(which))))

    @property
    def values(self) -> list[str]:
        """The values of rows 1, 2, ... in order."""
        return self._values.to_pylist()

    def rows(self, values: Any) -> np.ndarray:
        """Row numbers of `values [rows]`, or of each entry of bags; int32, 0 where unknown."""
        import pyarrow.compute as pc

        text = as_text(values)
        if isinstance(text, Bags):
            return self.rows(text.labels)[text.codes]
        found = pc.index_in(text.arrow(), value_set=self._values)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32) + 1


def _filled(text: Any) -> Any:
    import pyarrow.compute as pc

    return pc.not_equal(text, "")
