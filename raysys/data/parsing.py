"""Columns of text and numbers to arrays, with a mask for what cannot be read, or None where all can."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import SchemaError

LARGEST = 2**62
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def combine(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a chunked array as one array."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionary encoding."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def missing_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return (N,) bool: where a column is null."""
    if not column.null_count:
        return np.zeros(len(column), dtype=bool)
    return np.asarray(combine(column.is_null()).to_numpy(zero_copy_only=False))


def is_empty(text: pa.Array) -> np.ndarray:
    """Return (N,) bool: null, or nothing but white space."""
    blank = pc.or_(pc.equal(pc.binary_length(text), 0), pc.utf8_is_space(text))
    return np.asarray(pc.fill_null(blank, True).to_numpy(zero_copy_only=False))


def parse_number(column: pa.ChunkedArray, file: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return float64 values and a mask of those that are null, no number or not finite, None where none is.

    Raises:
        SchemaError: the column holds neither numbers nor text.
    """
    kind = column.type
    if is_text(kind):
        values = _text_numbers(combine(column.cast(pa.string())))
    elif (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        values = combine(column.cast(pa.float64(), safe=False))  # beyond 2**53 the nearest number
    else:
        raise SchemaError(f"{file}: column {name!r} has type {kind}, expected numbers")
    numbers = np.asarray(pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False))
    bad = ~np.isfinite(numbers)
    return numbers, bad if bad.any() else None


def _text_numbers(text: pa.Array) -> pa.Array:
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:  # something is no number, has a plus sign or white space around it
        text = pc.utf8_trim_whitespace(text)
        fits = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
        return pc.if_else(fits, text, pa.scalar("nan")).cast(pa.float64())


def parse_whole(
    column: pa.ChunkedArray, file: str, name: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return numbers as their whole part and the rest, and a mask of what is null, no number or not finite.

    Returns:
        (N,) int64, exact for integers, also for those in text that a float64 cannot hold, and held to
        +-2**62 beyond it; (N,) float64 in [0, 1), None where all are whole; (N,) bool, None where none is.
    Raises:
        SchemaError: the column holds neither numbers nor text.
    """
    kind = column.type
    if is_text(kind):
        column = _text_integers(combine(column.cast(pa.string()))) or column
    if pa.types.is_integer(column.type):
        bad = missing_of(column) if column.null_count else None
        filled = column if bad is None else pc.fill_null(column, 0)
        whole = np.asarray(combine(filled).to_numpy(zero_copy_only=False))
        whole = np.minimum(whole, LARGEST) if column.type == pa.uint64() else whole
        return whole.astype(np.int64, copy=False), None, bad
    numbers, bad = parse_number(column, file, name)
    usable = numbers if bad is None else np.where(bad, 0.0, numbers)
    parts = np.divmod(np.clip(usable, -float(LARGEST), float(LARGEST)), 1.0)
    whole, rest = parts[0].astype(np.int64), parts[1]
    if is_text(kind):
        text = pc.utf8_trim_whitespace(combine(column.cast(pa.string())))
        short = pc.fill_null(pc.match_substring_regex(text, r"^-?[0-4]?\d{1,18}$"), False)
        exact = np.asarray(pc.if_else(short, text, pa.scalar("0")).cast(pa.int64()).to_numpy())
        whole = np.where(np.asarray(short.to_numpy(zero_copy_only=False)), exact, whole)
    return whole, rest if rest.any() else None, bad


def _text_integers(text: pa.Array) -> pa.ChunkedArray | None:
    """Return text as int64, None unless all of it is plain decimal integers up to 2**62 or null."""
    if text.null_count == len(text):
        return None
    data = text.buffers()[2]
    letters = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8)
    if (letters > ord("9")).any():  # a letter somewhere: Arrow would take 0x10 for a number
        return None
    try:
        whole = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    bounds = pc.min_max(whole).as_py()
    return pa.chunked_array([whole]) if max(-bounds["min"], bounds["max"]) <= LARGEST else None
