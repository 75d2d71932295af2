"""Hashes and distinct values of columns: the same on every machine, for every block and library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.parsing import combine

MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
WHOLE_NUMBERS = ("time_ns", "order", "place")


def mix(values: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 well-mixed hashes of (N,) uint64 values.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators").
    """
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Return (N,) float64 in [0, 1), a function of each hash and the seed."""
    mixed = mix(hashes ^ mix(np.full(1, seed, dtype=np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


@dataclass(frozen=True)
class Coded:
    """A column as its distinct values, as text, and (N,) int32 codes into them; null is the last code."""

    values: pa.Array
    codes: np.ndarray

    @staticmethod
    def of(column: pa.Array | pa.ChunkedArray) -> "Coded":
        """Return a column of text or integers; distinct values in the order in which they come."""
        coded = combine(column)
        if not pa.types.is_dictionary(coded.type):
            coded = coded.dictionary_encode()
        indices, values = coded.indices.cast(pa.int32()), coded.dictionary.cast(pa.large_string())
        if indices.null_count:
            indices = pc.fill_null(indices, len(values))
        return Coded(values, np.asarray(indices.to_numpy(zero_copy_only=False)))

    def hashes(self, seed: int = 0) -> np.ndarray:
        """Return (V + 1,) uint64: the hash of each distinct value and, last, of null."""
        return _hash_distinct(self.values, seed)

    def ranks(self) -> np.ndarray:
        """Return (V + 1,) int64: each value's rank in byte order; null ranks last."""
        rank = np.empty(len(self.values) + 1, dtype=np.int64)
        rank[np.asarray(pc.sort_indices(self.values).to_numpy())] = np.arange(len(self.values))
        rank[-1] = len(self.values)
        return rank


def _hash_distinct(text: pa.Array, seed: int) -> np.ndarray:
    """FNV-1a over the bytes, one byte position of all values at a time, then `mix`; null is the last."""
    lengths = np.asarray(pc.binary_length(text).to_numpy(zero_copy_only=False)).astype(np.int64)
    buffers = text.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    payload = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    start = (0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15)) & int(MASK)
    state = np.full(len(text) + 1, start, dtype=np.uint64)
    prime = np.uint64(0x100000001B3)
    for position in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > position)
        state[rows] = (state[rows] ^ payload[offsets[rows] + position]) * prime
    state[-1] ^= np.uint64(0xFF51AFD7ED558CCD)
    return mix(state)


def hash_text(text: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """Return (N,) uint64 hashes of the UTF-8 bytes of each value; null hashes as a value of its own.

    The same on every machine, library version and block size; an integer hashes as its decimal text.
    """
    coded = Coded.of(text)
    return coded.hashes(seed)[coded.codes]


def hash_rows(
    table: pa.Table, columns: Sequence[str], coded: Mapping[str, Coded] | None = None
) -> np.ndarray:
    """Return (N,) uint64 hashes over the named columns; which value is in which column counts.

    Args:
        table: the rows.
        columns: names; times, orders and places are whole numbers, floats numbers, anything else ids.
        coded: columns that are coded already.
    """
    state = np.zeros(table.num_rows, dtype=np.uint64)
    for name in columns:
        # An odd factor per column keeps columns from commuting; `mix` at the end spreads the sum.
        factor = _hash_distinct(pa.array([name], pa.large_string()), 0)[0] | np.uint64(1)
        column = table.column(name)
        if name in WHOLE_NUMBERS:
            value = np.asarray(column.to_numpy()).view(np.uint64) * factor
        elif pa.types.is_floating(column.type):
            value = (
                np.asarray(column.to_numpy()).astype(np.float32).view(np.uint32).astype(np.uint64) * factor
            )
        else:
            ids = (coded or {}).get(name) or Coded.of(column)
            value = (ids.hashes() * factor)[ids.codes]
        state += value
    return mix(state)


def content_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that say what happened, without where it was logged."""
    return [name for name in names if name != "place"]


def content_digest(table: pa.Table, coded: Mapping[str, Coded] | None = None) -> tuple[int, int]:
    """Return two 64-bit sums over the events; `coded` as in `hash_rows`.

    Sums of parts add up (mod 2**64), in any order and partitioning.
    """
    hashes = hash_rows(table, content_columns(table.schema.names), coded)
    return int(hashes.sum(dtype=np.uint64)), int((hashes * hashes).sum(dtype=np.uint64))


def text_rank(text: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return (N,) int64 ranks of values in byte order of their text; null ranks last."""
    coded = Coded.of(text)
    return coded.ranks()[coded.codes]
