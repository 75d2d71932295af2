"""Sizes of indexes that were not built yet; the oracle is the file of one that is built."""

import numpy as np
import pytest

from raysys.errors import ConfigError
from raysys.retrieval.index import IndexConfig, build_index, load_index, set_search_threads
from raysys.retrieval.index_size import index_size
from raysys.storage import Folder

DIM = 32
KINDS = [
    "exact", "flat", "IVF16,Flat", "IVF16,PQ8x4", "IVF16,PQ8x4fs", "IVF16,SQ8", "IVF16_HNSW8,Flat",
    "HNSW16", "HNSW8,SQ8", "HNSW16,PQ8x4", "PQ8x4", "PQ8x4fs", "SQ8", "SQfp16", "PCA16,Flat",
    "OPQ8_32,IVF16,PQ8x4", "IVF16,PQ8x4,RFlat", "IVF16,PQ8x4,Refine(SQfp16)", "IVF16,RaBitQ", "RaBitQ",
]  # fmt: skip
TOLERANCE = 0.02
"""Levels of HNSW are drawn, blocks of a fast scan are filled by chance; all else is exact but for headers."""


@pytest.fixture(scope="module")
def vectors():
    set_search_threads(1)
    return np.random.default_rng(0).normal(size=(1500, DIM)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_that_of_the_file(kind, vectors, tmp_path):
    index = build_index(IndexConfig(kind=kind), "inner_product", DIM)
    index.train(vectors)
    index.add(np.arange(2, len(vectors) + 2), vectors)
    index.save(Folder(tmp_path), "one")
    size = index_size(IndexConfig(kind=kind), "inner_product", DIM, len(vectors))
    assert size.is_known
    assert size.file == pytest.approx((tmp_path / "one").stat().st_size, rel=TOLERANCE, abs=600)
    assert size.file <= size.resident <= size.loading <= size.building


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_metric_does_not_matter(metric, vectors, tmp_path):
    index = build_index(IndexConfig(kind="flat"), metric, DIM)
    index.add(np.arange(2, 12), vectors[:10])
    index.save(Folder(tmp_path), "one")
    assert load_index(Folder(tmp_path), "one").num_items == 10
    size = index_size(IndexConfig(kind="flat"), metric, DIM, 10)
    # vectors, item_idx, and the headers of the index and of its map
    assert size.file == pytest.approx(10 * (4 * DIM + 8) + 96, abs=64)
    assert (tmp_path / "one").stat().st_size == pytest.approx(size.file, abs=64)


def test_a_billion_items_cost_no_memory_to_plan_for():
    size = index_size(IndexConfig(kind="IVF65536,PQ32"), "inner_product", 128, 10**9)
    # code, id in its list and id in the map, beside 65,536 centroids and 256 codewords of each sub-space
    lists, codewords = 65_536 * (128 * 4 + 8), 256 * 128 * 4
    assert size.file == pytest.approx(10**9 * (32 + 8 + 8) + lists + codewords, rel=1e-6)


def test_a_kind_that_is_not_known_counts_as_flat_and_says_so():
    size = index_size(IndexConfig(kind="NSG16,PQ8x4"), "l2", DIM, 1000)
    assert not size.is_known
    assert size.file == pytest.approx(1000 * (4 * DIM + 8), rel=0.01)


def test_a_kind_that_does_not_suit_the_dimension_is_refused():
    with pytest.raises(ConfigError, match=r"^index.kind: 'PQ7' cannot be built for inner_product and 32"):
        index_size(IndexConfig(kind="PQ7"), "inner_product", DIM, 1000)
