"""Vocabulary: ids to dense numbers and back, with a digest by which two holders prove that they share it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.parsing import combine
from raysys.errors import DataError
from raysys.schema import NUM_RESERVED, UNKNOWN_IDX
from raysys.storage import Folder


def _by_popularity(ids: pa.Array, counts: np.ndarray) -> np.ndarray:
    """Return (V,) int64: the order by (count down, id in byte order)."""
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.asarray(pc.sort_indices(ids).to_numpy())] = np.arange(len(ids))
    return np.lexsort((rank, -np.asarray(counts)))


@dataclass(frozen=True)
class Vocabulary:
    """Ids in the order of their idx; idx 0 is padding and 1 unknown, so the first id has idx 2.

    Attributes:
        ids: (V - 2,) text, distinct.
        counts: (V - 2,) int64 training events per id.
    """

    ids: pa.Array
    counts: np.ndarray

    @staticmethod
    def build(ids: pa.Array, counts: np.ndarray) -> "Vocabulary":
        """Return the vocabulary of distinct ids, ordered by (count down, id up): idx is a popularity rank."""
        order = _by_popularity(ids, counts)
        return Vocabulary(combine(ids.take(pa.array(order))), np.asarray(counts)[order].astype(np.int64))

    @staticmethod
    def merge(parts: Sequence[tuple[pa.Array, np.ndarray]]) -> tuple["Vocabulary", list[np.ndarray]]:
        """Return the vocabulary of parts that share ids, and per part (len(ids),) int32 idx of its ids.

        Args:
            parts: distinct ids, as text, and their counts.
        """
        coded = pa.concat_arrays([ids for ids, _ in parts]).dictionary_encode()
        codes = np.asarray(coded.indices.to_numpy())
        counts = np.zeros(len(coded.dictionary), dtype=np.int64)
        np.add.at(counts, codes, np.concatenate([counts for _, counts in parts]))
        order = _by_popularity(coded.dictionary, counts)
        idx = np.empty(len(order), dtype=np.int32)
        idx[order] = np.arange(NUM_RESERVED, NUM_RESERVED + len(order), dtype=np.int32)
        bounds = np.cumsum([len(ids) for ids, _ in parts])[:-1]
        vocabulary = Vocabulary(coded.dictionary.take(pa.array(order)), counts[order])
        return vocabulary, np.split(idx[codes], bounds)

    @property
    def size(self) -> int:
        """Rows of a table indexed by idx, with the reserved ones."""
        return len(self.ids) + NUM_RESERVED

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the ids in order; counts do not matter."""
        state = hashlib.sha256()
        text = self.ids.cast(pa.large_string())
        state.update(
            np.asarray(pc.binary_length(text).to_numpy(zero_copy_only=False)).astype("<i4").tobytes()
        )
        state.update("".join(text.to_pylist()).encode())
        return state.hexdigest()[:16]

    def encode(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return (N,) int32 idx; unknown ids and nulls get 1."""
        position = pc.index_in(combine(ids).cast(pa.string()), value_set=self.ids)
        found = np.asarray(pc.fill_null(position, UNKNOWN_IDX - NUM_RESERVED).to_numpy(zero_copy_only=False))
        return (found + NUM_RESERVED).astype(np.int32)

    def decode(self, idx: np.ndarray) -> pa.Array:
        """Return the ids of idx >= 2.

        Raises:
            DataError: an idx is reserved or too large.
        """
        if len(idx) and (idx.min() < NUM_RESERVED or idx.max() >= self.size):
            raise DataError(
                f"idx {idx.min()} to {idx.max()} found, the vocabulary holds {NUM_RESERVED} to "
                f"{self.size - 1}"
            )
        return self.ids.take(pa.array(np.asarray(idx, dtype=np.int64) - NUM_RESERVED))

    def write(self, folder: Folder, name: str) -> None:
        table = pa.table(
            {
                "idx": pa.array(np.arange(NUM_RESERVED, self.size, dtype=np.int32)),
                "id": self.ids,
                "count": pa.array(self.counts),
            }
        )
        with folder.open_output(f"{name}.parquet") as file:
            pq.write_table(table, file, compression="zstd")

    @staticmethod
    def load(folder: Folder, name: str) -> "Vocabulary":
        with folder.open_input(f"{name}.parquet") as file:
            table = pq.read_table(file)
        return Vocabulary(combine(table.column("id")), np.asarray(table.column("count").to_numpy()))
