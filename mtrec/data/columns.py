"""Columns of a table, whose row 0 is the unknown user or item.

Numbers are NumPy arrays. Texts lie side by side, as in Arrow's large strings: a long one costs its
own length, not that of all others, and together they may exceed 2 GiB. NumPy's `<U` arrays give
every cell the width of the longest, at four bytes a character.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """Numbers, any number of them a row.

    Attributes:
        offsets: `[rows + 1]`; row r has `values[offsets[r]:offsets[r + 1]]`.
        values: Those of all rows, one row after the other.
    """

    offsets: np.ndarray
    values: np.ndarray


def entries_of(encoded: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray:
    """The numbers of some rows, `[n, ...]`, or of `Ragged` ones side by side."""
    if not isinstance(encoded, Ragged):
        return encoded[rows]
    owners = np.repeat(np.arange(len(encoded.offsets) - 1), np.diff(encoded.offsets))
    return encoded.values[np.isin(owners, rows)]


class Texts:
    """One text a row.

    Indexed by a number it gives a `str`, by a slice or an array those rows as `Texts`. NumPy reads
    it as an array of objects.

    Args:
        offsets: `[rows + 1]` int64; row r has the bytes `offsets[r]:offsets[r + 1]`.
        data: The bytes of all texts in UTF-8.
    """

    dtype: ClassVar = np.dtype(object)
    ndim: ClassVar = 1

    def __init__(self, offsets: np.ndarray, data: np.ndarray) -> None:
        self.offsets = offsets
        self.data = data

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Texts":
        """Takes texts one by one; None is `""`."""
        import pyarrow as pa

        plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
        return cls.of_arrow(pa.array(plain, pa.large_string()))

    @classmethod
    def of_arrow(cls, column: Any) -> "Texts":
        """Takes an Arrow array of texts, a single chunk without a copy; null is `""`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column.cast(pa.large_string())
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if column.null_count:
            column = pc.fill_null(column, "")
        _, offsets, data = column.buffers()
        place = slice(column.offset, column.offset + len(column) + 1)
        return cls(
            np.zeros(1, np.int64) if offsets is None else np.frombuffer(offsets, np.int64)[place],
            np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8),
        )

    def arrow(self) -> Any:
        """A `pyarrow.LargeStringArray` of the same memory."""
        import pyarrow as pa

        offsets, data = (pa.py_buffer(np.ascontiguousarray(a)) for a in (self.offsets, self.data))
        return pa.LargeStringArray.from_buffers(len(self), offsets, data)

    @property
    def shape(self) -> tuple[int]:
        """The number of rows."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            start, stop = self.offsets[range(len(self))[rows] :][:2]
            return bytes(self.data[start:stop]).decode()
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return Texts(self.offsets[start : max(start, stop) + 1], self.data)
        return Texts.of_arrow(self.arrow().take(np.arange(len(self))[rows]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty(len(self), object)
        values[:] = self.tolist()
        return values if dtype is None else values.astype(dtype)

    def tolist(self) -> list[str]:
        """The texts."""
        return self.arrow().to_pylist()

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays that it is made of, with nothing before the first text or after the last."""
        first, last = self.offsets[0], self.offsets[-1]
        offsets = self.offsets - first if first else self.offsets
        return {"offsets": offsets, "data": self.data[first:last]}


class Bags:
    """Any number of labels a row, such as the genres of a film.

    Indexed by a number it gives a list, by a slice or an array those rows as `Bags`.

    Args:
        offsets: `[rows + 1]` int64; row r has the entries `offsets[r]:offsets[r + 1]`.
        codes: Position in `labels` of each entry, int32.
        labels: The distinct labels.
    """

    dtype: ClassVar = np.dtype(object)
    ndim: ClassVar = 2

    def __init__(self, offsets: np.ndarray, codes: np.ndarray, labels: Texts) -> None:
        self.offsets = offsets
        self.codes = codes
        self.labels = labels

    @classmethod
    def of(cls, rows: Iterable[Iterable[Any]]) -> "Bags":
        """Takes the labels row by row; empty ones and None are none."""
        import pyarrow as pa

        plain = [[str(label) for label in row if label is not None] for row in rows]
        return cls.of_arrow(pa.array(plain, pa.large_list(pa.large_string())))

    @classmethod
    def of_arrow(cls, column: Any) -> "Bags":
        """Takes an Arrow array of lists, chunked or not; blank labels and nulls are none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        flat = pa.chunked_array([chunk.flatten() for chunk in chunks], column.type.value_type)
        flat = pc.utf8_trim_whitespace(flat.cast(pa.large_string()))
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        counts = np.asarray(lengths.to_numpy(), np.int64)
        owners = np.repeat(np.arange(len(counts)), counts)
        kept = pc.not_equal(pc.fill_null(flat, ""), "").to_numpy()
        coded = flat.filter(pa.array(kept)).combine_chunks().dictionary_encode()
        counts = np.bincount(owners[kept], minlength=len(counts))
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            coded.indices.to_numpy().astype(np.int32),
            Texts.of_arrow(coded.dictionary),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and the most labels of one."""
        return len(self), int(np.diff(self.offsets).max(initial=0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            start, stop = self.offsets[range(len(self))[rows] :][:2]
            return [self.labels[code] for code in self.codes[start:stop]]
        chosen = np.arange(len(self))[rows]
        starts, counts = self.offsets[chosen], np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return Bags(offsets, self.codes[entries], self.labels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty(len(self), object)
        values[:] = self.tolist()
        return values

    def tolist(self) -> list[list[str]]:
        """The labels of each row."""
        labels = np.asarray(self.labels)[self.codes].tolist()
        return [labels[start:stop] for start, stop in pairwise(self.offsets.tolist())]

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays that it is made of."""
        labels = {f"label_{name}": part for name, part in self.labels.parts().items()}
        return {"offsets": self.offsets, "codes": self.codes, **labels}


Column = np.ndarray | Texts | Bags
Columns = dict[str, Any]


def held(values: Any) -> Any:
    """Returns values as a column: numbers as they are, texts as `Texts`, rows of texts as `Bags`.

    Args:
        values: A column, an array or a list: of `[rows]` numbers or texts, of lists of texts, or of
            `[rows, L]` texts, padded with `""`.
    """
    if isinstance(values, Texts | Bags):
        return values
    if isinstance(values, Sequence) and any(isinstance(v, list | tuple) for v in values):
        return Bags.of(values)
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype.kind in "biuf":
        return array
    if array.ndim > 1 or (len(array) and isinstance(array[0], list | tuple | np.ndarray)):
        return Bags.of(array.tolist())
    return Texts.of(array)


def parts_of(column: Any) -> dict[str, np.ndarray]:
    """The plain arrays that a column is made of, by name."""
    return column.parts() if isinstance(column, Texts | Bags) else {"values": np.asanyarray(column)}


def of_parts(parts: Mapping[str, np.ndarray]) -> Any:
    """The column that is made of `parts`."""
    if "values" in parts:
        return parts["values"]
    if "codes" not in parts:
        return Texts(parts["offsets"], parts["data"])
    labels = Texts(parts["label_offsets"], parts["label_data"])
    return Bags(parts["offsets"], parts["codes"], labels)


def with_unknown(column: Any) -> Any:
    """Returns `column` with the row of the unknown, `""`, no label or NaN, put before the others.

    Args:
        column: Texts, bags, or floats of `[rows, ...]`.
    """
    column = held(column)
    if isinstance(column, np.ndarray):
        return np.concatenate([np.full((1, *column.shape[1:]), np.nan, column.dtype), column])
    offsets = np.concatenate([column.offsets[:1], column.offsets])
    if isinstance(column, Texts):
        return Texts(offsets, column.data)
    return Bags(offsets, column.codes, column.labels)


def first_text(values: Texts) -> str:
    """Where the first value stands that is no number, if most are; or that all are empty."""
    import pyarrow.compute as pc

    filled = pc.utf8_trim_whitespace(values.arrow())
    if not pc.any(pc.not_equal(filled, "")).as_py():
        return ", and is empty in every row"
    number = pc.match_substring_regex(filled, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    odd = pc.and_(pc.invert(number), pc.not_equal(filled, "")).to_numpy(zero_copy_only=False)
    if odd.sum() > len(odd) / 2:
        return ""
    row = int(odd.argmax())  # row 0 is the unknown user or item, and empty
    return f", such as {values[row]!r} in row {row}"
