"""How many bytes a search index takes, worked out from its kind before it is built.

Faiss makes an empty index of a kind at once and without memory; what its parts store per vector and once for
all is read off their fields. Sizes are those of the file; a loaded index takes as much, and the item_idx once
more (`index_memory`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raysys.retrieval.exact import Metric
from raysys.retrieval.index import IndexConfig, make_faiss_index, own_class, transforms_of

FLOAT, IDX = 4, 8
"""Bytes of a float32 and of an item_idx."""
HEADER = 48
"""Bytes that the file has for each part of an index, about."""
FAST_SCAN_BLOCK = 32
"""Codes of a fast-scan index are stored in blocks of so many vectors."""
COPIES = {"exact": (3, 4), "flat": (3, 3), "faiss": (3, 3)}
"""How often the bytes of a shard are there at once while it is loaded, and while it is built and written:
the file twice and the Faiss index; vectors, Faiss index and the file twice."""


@dataclass(frozen=True)
class Layout:
    """Bytes of a part of an index: `fixed`, and `per_item` for each vector (an average)."""

    fixed: float
    per_item: float

    def bytes(self, num_items: int) -> float:
        return self.fixed + self.per_item * num_items


@dataclass(frozen=True)
class IndexSize:
    """Bytes of one shard.

    Attributes:
        file: of the Faiss file.
        resident: of the loaded shard in the memory of its process.
        loading: peak while it is loaded.
        building: peak while it is built and written.
        is_known: False where the kind has a part that this module does not know, which counts as flat.
    """

    file: int
    resident: int
    loading: int
    building: int
    is_known: bool = True


def index_size(config: IndexConfig, metric: Metric, dim: int, num_items: int) -> IndexSize:
    """Return the bytes of an index of one shard.

    Args:
        config: its kind.
        metric: what vectors are compared by.
        dim: of the vectors.
        num_items: vectors of the shard.
    Raises:
        ConfigError: Faiss cannot build the kind for this metric and dimension.
    """
    exact = config.kind in ("exact", "flat")
    empty = make_faiss_index("Flat" if exact else config.kind, metric, dim)
    layout, known = _layout(empty)
    file = int(layout.bytes(num_items)) + HEADER + IDX * num_items  # the map of places to item_idx
    loading, building = COPIES[config.kind if exact else "faiss"]
    norms = IDX * num_items if config.kind == "exact" else 0
    resident = file + norms + (0 if config.kind == "exact" else IDX * num_items)
    return IndexSize(file, resident, loading * file, building * file, known)


def _layout(index: Any) -> tuple[Layout, bool]:
    """Return the layout of an empty index of its own class, and whether all of its parts are known."""
    name = type(index).__name__
    for start, describe in _KINDS:
        if name.startswith(start):
            return describe(index)
    return Layout(HEADER, FLOAT * index.d), False


def _codes(index: Any) -> tuple[Layout, bool]:
    return Layout(HEADER + _trained(index), index.code_size), True


def _trained(index: Any) -> float:
    """Return the bytes of what training fits to the vectors, but for lists and their centroids."""
    if hasattr(index, "pq"):
        return FLOAT * index.d * index.pq.ksub
    if hasattr(index, "sq"):
        return 2 * FLOAT * index.d
    return FLOAT * index.d if "RaBitQ" in type(index).__name__ else 0.0


def _fast_scan(index: Any) -> tuple[Layout, bool]:
    # the last block of an index, or of each of its lists, is half empty on average
    spare = FAST_SCAN_BLOCK / 2 * index.code_size
    if not hasattr(index, "nlist"):
        return Layout(HEADER + _trained(index) + spare, index.code_size), True
    layout, known = _lists(index)
    return Layout(layout.fixed + index.nlist * spare, layout.per_item), known


def _lists(index: Any) -> tuple[Layout, bool]:
    quantizer, known = _layout(own_class(index.quantizer))
    once = HEADER + quantizer.bytes(index.nlist) + IDX * index.nlist + _trained(index)
    return Layout(once, index.code_size + IDX), known


def _graph(index: Any) -> tuple[Layout, bool]:
    """Return the layout of HNSW (Malkov & Yashunin 2016, arXiv:1603.09320): a vector is on level l or above
    with probability M^-l and has 2 M links on level 0 and M on others; Faiss adds its level and an offset."""
    storage, known = _layout(own_class(index.storage))
    links = index.hnsw.nb_neighbors(1)
    per_item = 2 * FLOAT * links + FLOAT * links / (links - 1) + FLOAT + IDX
    return Layout(HEADER + storage.fixed, storage.per_item + per_item), known


def _transformed(index: Any) -> tuple[Layout, bool]:
    inner, known = _layout(own_class(index.index))
    fixed = inner.fixed + HEADER
    for name, d_in, d_out in transforms_of(index):
        fixed += HEADER + FLOAT * (d_in * d_out + d_out)
        if "PCA" in name:
            fixed += FLOAT * (d_in * d_in + 2 * d_in)
    return Layout(fixed, inner.per_item), known


def _refined(index: Any) -> tuple[Layout, bool]:
    base, known = _layout(own_class(index.base_index))
    exact, both = _layout(own_class(index.refine_index))
    return Layout(base.fixed + exact.fixed + HEADER, base.per_item + exact.per_item), known and both


_KINDS: tuple[tuple[str, Callable[[Any], tuple[Layout, bool]]], ...] = (
    ("IndexFlat", _codes),
    ("IndexPQFastScan", _fast_scan),
    ("IndexPQ", _codes),
    ("IndexScalarQuantizer", _codes),
    ("IndexRaBitQ", _codes),
    ("IndexIVFPQFastScan", _fast_scan),
    ("IndexIVFFlat", _lists),
    ("IndexIVFPQ", _lists),
    ("IndexIVFScalarQuantizer", _lists),
    ("IndexIVFRaBitQ", _lists),
    ("IndexHNSW", _graph),
    ("IndexPreTransform", _transformed),
    ("IndexRefine", _refined),
)
"""How the name of a Faiss class begins -> its layout; the first that fits counts."""
