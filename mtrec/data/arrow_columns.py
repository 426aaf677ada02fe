"""Columns of Arrow: their types, in one file or several, and what is written in their cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrec.errors import UserError

NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_ZONE = r"(Z|:\d\d[-+]\d\d(:?\d\d)?)$"
# Up to here a float64 tells all whole numbers apart.
EXACT = 2.0**53


def plain(rows: Any, *, option: str, path: str) -> Any:
    """Turns dictionary-encoded columns into plain ones, and all text into large strings.

    Args:
        rows: A table of Arrow.
        option: The option that named it.
        path: The file that it is of.

    Raises:
        UserError: A column holds what features cannot be made of, such as structs.
    """
    import pyarrow as pa

    def of(field: Any) -> Any:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        try:
            pa.array([], kind.value_type if is_list(kind) else kind).cast(pa.large_string())
        except pa.ArrowNotImplementedError as error:
            raise UserError(
                f"column {field.name!r} of `{option}` must hold text, numbers or lists of them; in "
                f"{path} it holds {kind}. Write its parts as columns of their own, or leave it out."
            ) from error
        is_text = pa.types.is_string(kind) or pa.types.is_string_view(kind)
        # Some writers of Parquet leave text unmarked.
        is_text |= pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return pa.large_string() if is_text else kind

    return rows.cast(pa.schema([(field.name, of(field)) for field in rows.schema]))


def decoded(rows: Any) -> Any:
    """Columns of dictionaries, as categories are, as their values: text as large strings."""
    import pyarrow as pa

    def of(column: Any) -> Any:
        if not pa.types.is_dictionary(column.type):
            return column
        kind = column.type.value_type
        kind = pa.large_string() if pa.types.is_string_view(kind) else kind
        chunks = [c.dictionary.cast(kind).take(c.indices) for c in column.chunks]
        return pa.chunked_array(chunks, kind)

    return pa.table([of(column) for column in rows.columns], rows.column_names)


def together(schemas: Sequence[Any], *, option: str) -> Any:
    """One schema for all rows: a column has a type that all of its own can be, such as text.

    Args:
        schemas: Those of the chunks of a table.
        option: The option that named it.

    Raises:
        UserError: A column holds lists in some of them alone.
    """
    import pyarrow as pa

    types: dict[str, Any] = {}
    for field in (field for schema in schemas for field in schema):
        types[field.name] = _joined(types.get(field.name, field.type), field, option)
    return pa.schema(types.items())


def _joined(kind: Any, field: Any, option: str) -> Any:
    import pyarrow as pa

    fields = (pa.field("", kind), pa.field("", field.type))
    try:
        both = (pa.schema([each]) for each in fields)
        return pa.unify_schemas(list(both), promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        if pa.types.is_nested(kind) or pa.types.is_nested(field.type):
            raise UserError(
                f"column {field.name!r} of `{option}` must hold one kind of cells in all files; it "
                f"holds {kind} in one and {field.type} in another. Write one of them again."
            ) from None
        return pa.large_string()


def in_schema(rows: Any, schema: Any) -> Any:
    """Rows with the columns and types of a schema that `together` has made of theirs and others."""
    import pyarrow as pa

    have = set(rows.column_names)
    columns = [
        rows.column(f.name).cast(f.type) if f.name in have else pa.nulls(len(rows), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


# Texts that stand for 1 and 0, and those of them that stand for 1.
YES = r"(?i)^\s*(true|yes)\s*$"
YES_OR_NO = r"(?i)^\s*(true|yes|false|no)\s*$"


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    import pyarrow as pa

    fixed = pa.types.is_fixed_size_list(kind)
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or fixed


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is one of numbers."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def names_alone(column: Any, numbers: np.ndarray) -> bool:
    """Whether numbers are whole, and too large for float64 to tell them apart.

    Args:
        column: The numbers, as an Arrow array of numbers or text.
        numbers: The same as float64.
    """
    import pyarrow as pa

    if pa.types.is_floating(column.type) or not (np.abs(numbers) > EXACT).any():
        return False
    return pa.types.is_integer(column.type) or all_match(column, r"^[-+]?\d+$")


def all_match(column: Any, form: str) -> bool:
    """Whether a column is of text and all cells that are not blank have a form, and some are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_large_string(column.type):
        return False
    filled = without_blanks(column).drop_null()
    return len(filled) > 0 and pc.all(pc.match_substring_regex(filled, form)).as_py()


def iso(column: Any) -> Any:
    """Moments in ISO 8601 as Arrow reads them: no parts of a second, which none of ours has."""
    import pyarrow.compute as pc

    seconds = pc.replace_substring_regex(column, r"(:\d\d)\.\d+", r"\1")
    return pc.replace_substring_regex(seconds, r"\s*(UTC|GMT)$", "Z")


def iso_type(column: Any) -> Any:
    """The Arrow type of moments in ISO 8601, with or without a time zone."""
    import pyarrow as pa

    return pa.timestamp("s", "UTC" if all_match(iso(column), _ZONE) else None)


def without_blanks(column: Any) -> Any:
    """Makes blank cells of a text column null, and trims the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_large_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)
