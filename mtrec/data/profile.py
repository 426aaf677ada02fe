"""What the columns of somebody's table hold, and whose property they are."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtrec.data.arrow_columns import (
    NUMBER,
    YES,
    YES_OR_NO,
    all_match,
    iso,
    iso_type,
    names_alone,
)

# Forms of dates and times in text beside ISO 8601, which needs no `data.timestamp_format`.
_DATES = (
    *("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
# A property may differ in so many of its owners, by mistake or as it moved.
_MOST_VARYING = 0.05


@dataclass(frozen=True, eq=False)
class Profile:
    """A column.

    Attributes:
        name: Its name.
        kind: `numbers`, `text`, `moments`, `lists` or `vectors`.
        codes: Position in `values` of each row's value, int32, -1 for none.
        values: The distinct values as text, a `pyarrow.LargeStringArray`.
        distinct: The distinct values as float64, for numbers.
        forms: What `data.timestamp_format` may be for `moments`; None is ISO 8601.
    """

    name: str
    kind: str
    codes: np.ndarray
    values: Any
    distinct: np.ndarray
    forms: tuple[str | None, ...] = ()

    @property
    def num_values(self) -> int:
        """Number of distinct values."""
        return len(self.values)

    @property
    def missing(self) -> float:
        """Share of rows without a value."""
        return float(np.mean(self.codes < 0)) if len(self.codes) else 1.0

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.kind == "numbers" and bool(np.all(self.distinct == np.rint(self.distinct)))

    def numbers(self) -> np.ndarray:
        """The number of each row, `[rows]` float64, NaN for none."""
        return np.append(self.distinct, np.nan)[self.codes]

    def filled(self) -> np.ndarray:
        """The numbers of the rows that have one."""
        return self.distinct[self.codes[self.codes >= 0]]


def profile(name: str, column: Any) -> Profile:
    """Looks at a column, a `pyarrow.ChunkedArray`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_nested(kind):
        fractions = pa.types.is_floating(kind.value_type)
        codes = np.where(column.is_valid().to_numpy(zero_copy_only=False), 0, -1).astype(np.int32)
        held, none = "vectors" if fractions else "lists", pa.array([], pa.large_string())
        return Profile(name, held, codes, none, np.zeros(0))
    text = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    # What Arrow writes for a fraction that is none; in text it is no number for the loader either.
    none = ["", "nan"] if pa.types.is_floating(kind) else [""]
    blank = pc.is_in(text, pa.array(none, pa.large_string()))
    text = pc.if_else(blank, None, text)
    coded = pa.chunked_array(text.chunks, pa.large_string()).combine_chunks()
    coded = coded.dictionary_encode() if isinstance(coded, pa.Array) else coded
    values = coded.dictionary
    codes = coded.indices.fill_null(-1).to_numpy().astype(np.int32)
    if pa.types.is_temporal(kind):
        return Profile(name, "moments", codes, values, np.zeros(0), (None,))
    if numbers := _numbers(values):
        return Profile(name, "numbers", codes, values, numbers[0])
    if forms := _forms(values):
        return Profile(name, "moments", codes, values, np.zeros(0), forms)
    return Profile(name, "text", codes, values, np.zeros(0))


def _numbers(values: Any) -> tuple[np.ndarray] | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if all_match(values, YES_OR_NO):
        yes = pc.match_substring_regex(values, YES)
        return (yes.cast(pa.float64()).to_numpy(zero_copy_only=False),)
    if not len(values) or not pc.all(pc.match_substring_regex(values, NUMBER)).as_py():
        return None
    # A leading zero marks a code.
    if pc.any(pc.match_substring_regex(values, r"^0\d")).as_py():
        return None
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return None if names_alone(values, numbers) else (numbers,)


def _forms(values: Any) -> tuple[str | None, ...]:
    """The forms under which all the texts are moments."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(values):
        return ()
    with suppress(pa.ArrowException):
        iso(values).cast(iso_type(values[:1]))
        return (None,)

    def reads(sample: Any, form: str) -> bool:
        read = pc.strptime(sample, format=form, unit="s", error_is_null=True)
        # %Y would also read the year 23.
        return not read.null_count and pc.min(pc.year(read)).as_py() >= 1900

    forms = (date + time for date in _DATES for time in _TIMES)
    return tuple(f for f in forms if reads(values[:20], f) and reads(values, f))


def span_of(column: Profile, form: str | None) -> float:
    """Seconds from the first to the last moment, where they are read as `form`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    moments = pc.strptime(column.values, format=form, unit="s").cast(pa.int64()).to_numpy()
    return float(np.ptp(moments))


class Owners(NamedTuple):
    """The rows of each owner that has several.

    Attributes:
        order: Those rows, one owner's after the other.
        starts: Where each owner's begin.
        entity: What the owners are: `user`, `item` or `request`.
    """

    order: np.ndarray
    starts: np.ndarray
    entity: str


def owners(codes: np.ndarray, entity: str) -> Owners:
    """The owners, numbered from 0, of rows `[rows]`; rows with -1 have none."""
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    sizes = np.bincount(codes[order]) if len(order) else np.zeros(0, int)
    order = order[sizes[codes[order]] > 1]
    kept = codes[order]
    return Owners(order, np.flatnonzero(np.diff(kept, prepend=-1)), entity)


def varying(of: Owners, codes: np.ndarray) -> float:
    """Share of the owners of whom rows have different values; rows without one (-1) differ not."""
    values = codes[of.order]
    low = np.minimum.reduceat(np.where(values < 0, np.iinfo(np.int32).max, values), of.starts)
    return float(np.mean(np.maximum.reduceat(values, of.starts) > low))


def belongs(of: Owners, codes: np.ndarray) -> float | None:
    """How surely a column is a property of its owners: chance to vary over share that varies.

    A column that hardly ever varies is nobody's property: values dealt at random must vary four
    times as often at least. None: it is none, or no owner has several rows.
    """
    if not len(of.starts):
        return None
    found = varying(of, codes)
    chance = varying(of, np.random.default_rng(0).permutation(codes))
    if found > min(_MOST_VARYING, chance / 4) or not chance:
        return None
    return chance / max(found, 1e-9)


def profiles(table: Any) -> Mapping[str, Profile]:
    """Looks at every column of a `pyarrow.Table`."""
    return {name: profile(name, table.column(name)) for name in table.column_names}
