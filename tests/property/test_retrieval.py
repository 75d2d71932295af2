"""Properties of merging, sharding and filtering; oracles are flat sorts and plain loops, compared exactly."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.retrieval.candidates import Candidates, Ragged, drop_seen, merge_top_k, rank_top_k
from raysys.retrieval.exact import Metric
from raysys.retrieval.index import IndexConfig, build_index
from tests.reference.metrics import best_of, without

entry = st.tuples(st.integers(-1, 9), st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]))
seeds = st.integers(0, 2**32 - 1)


def as_candidates(row: list[tuple[int, float]]) -> Candidates:
    item_idx = np.array([[item for item, _ in row]], np.int64).reshape(1, len(row))
    score = np.array([[score for _, score in row]], np.float32).reshape(1, len(row))
    return Candidates(item_idx, np.where(item_idx < 0, np.float32(-np.inf), score))


def as_entries(answer: Candidates, query: int = 0) -> list[tuple[int, float]]:
    pairs = zip(answer.item_idx[query].tolist(), answer.score[query].tolist(), strict=True)
    return [(item, score) for item, score in pairs if item >= 0]


def assert_same(first: Candidates, second: Candidates) -> None:
    np.testing.assert_array_equal(first.item_idx, second.item_idx)
    np.testing.assert_array_equal(first.score, second.score)


@given(st.lists(st.lists(entry, max_size=8), min_size=3, max_size=3), st.integers(1, 12))
@settings(deadline=None)
def test_merge_is_associative_and_equals_a_flat_top_k(rows: list[list[tuple[int, float]]], k: int):
    a, b, c = (as_candidates(row) for row in rows)
    together = merge_top_k([a, b, c], k)
    assert_same(together, merge_top_k([merge_top_k([a, b], k), c], k))
    assert_same(together, merge_top_k([c, merge_top_k([b, a], k)], k))
    assert as_entries(together) == best_of([pair for row in rows for pair in row], k)


@given(
    seeds,
    st.integers(1, 60),
    st.lists(st.integers(0, 60), max_size=4),
    st.integers(1, 70),
    st.sampled_from(["exact", "flat"]),
    st.sampled_from(["inner_product", "cosine", "l2"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_sharded_equals_flat(
    seed: int, items: int, cuts: list[int], k: int, kind: str, metric: Metric, whole_numbers: bool
):
    random = np.random.default_rng(seed)
    vectors, queries = random.standard_normal((items, 3)), random.standard_normal((5, 3))
    if whole_numbers:  # many equal vectors and equal scores
        vectors, queries = np.rint(vectors), np.rint(queries)
    else:
        vectors = vectors[random.integers(0, items, items)]
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    whole = build_index(IndexConfig(kind="exact"), metric, 3)
    whole.add(np.arange(items) + 2, vectors)
    bounds = sorted({0, items, *(cut for cut in cuts if cut < items)})
    parts: list[Candidates] = []
    for start, stop in pairwise(bounds):
        shard = build_index(IndexConfig(kind=kind), metric, 3)
        shard.add(np.arange(start, stop) + 2, vectors[start:stop])
        parts.append(shard.search(queries, k))
    flat = whole.search(queries, k)
    assert_same(merge_top_k(parts, k), flat)
    assert_same(merge_top_k(parts, k, distinct=True), flat)


@given(
    st.lists(st.tuples(st.lists(entry, max_size=8), st.lists(st.integers(0, 9), max_size=24)), max_size=5),
    st.integers(1, 6),
)
@settings(deadline=None)
def test_drop_seen_equals_a_slow_loop(rows: list[tuple[list[tuple[int, float]], list[int]]], k: int):
    found = [merge_top_k(as_candidates(row), 8) for row, _ in rows]
    item_idx = np.concatenate([part.item_idx for part in found] or [np.zeros((0, 8), np.int64)])
    score = np.concatenate([part.score for part in found] or [np.zeros((0, 8), np.float32)])
    seen = Ragged.of_rows([items for _, items in rows])
    kept = drop_seen(Candidates(item_idx, score), seen.offsets, seen.items, k)
    assert kept.item_idx.shape == (len(rows), k)
    for query, (_, items) in enumerate(rows):
        assert as_entries(kept, query) == without(as_entries(found[query]), set(items), k)


@given(seeds, st.integers(1, 30), st.integers(1, 40))
@settings(deadline=None)
def test_ranking_does_not_depend_on_the_order_of_entries(seed: int, width: int, k: int):
    random = np.random.default_rng(seed)
    item_idx = random.integers(-1, 12, (3, width))
    score = random.integers(-2, 3, (3, width)).astype(np.float32)
    order = random.permutation(width)
    assert_same(rank_top_k(item_idx, score, k), rank_top_k(item_idx[:, order], score[:, order], k))
