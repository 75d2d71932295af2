"""Candidates against plain loops (tests/reference/metrics.py) and hand-worked cases; all exact."""

from itertools import pairwise

import numpy as np
import pytest

from raysys.errors import RetrievalError
from raysys.retrieval import candidates as candidates_module
from raysys.retrieval.candidates import (
    MAX_ITEM_IDX,
    Candidates,
    Ragged,
    check_ragged,
    drop_seen,
    fold_in_order,
    fold_interests,
    is_member,
    merge_top_k,
    missing_candidates,
    rank_top_k,
    take_sets,
)
from tests.reference.metrics import best_of, without


def candidates(*rows: list[tuple[int, float]]) -> Candidates:
    item_idx = np.array([[item for item, _ in row] for row in rows], np.int64)
    return Candidates(item_idx, np.array([[score for _, score in row] for row in rows], np.float32))


def entries(answer: Candidates, query: int = 0) -> list[tuple[int, float]]:
    pairs = zip(answer.item_idx[query].tolist(), answer.score[query].tolist(), strict=True)
    return [(item, score) for item, score in pairs if item >= 0]


def random_part(seed: int, num_queries: int, width: int) -> Candidates:
    random = np.random.default_rng(seed)
    item_idx = random.integers(-1, 12, (num_queries, width))
    score = random.integers(-3, 4, (num_queries, width)).astype(np.float32)
    return Candidates(item_idx, np.where(item_idx < 0, np.float32(-np.inf), score))


def test_pitfall_merge_by_item_not_by_score():
    a, b, c, d, e = 2, 3, 4, 5, 6
    interests = candidates([(a, 0.9), (b, 0.5), (c, 0.5)], [(a, 0.8), (d, 0.4), (e, 0.3)])
    folded = fold_interests(interests, 2, np.array([[True, True]]))
    assert folded.item_idx.tolist() == [[a, b, c]]
    merged = merge_top_k([interests.top(3), interests.top(3)], 3)
    assert merged.item_idx.tolist() == [[a, b, c], [a, d, e]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 20])
def test_merge_equals_loops(seed: int, k: int):
    parts = [random_part(seed + 10 * i, 7, width) for i, width in enumerate([1, 4, 9])]
    merged = merge_top_k(parts, k)
    for query in range(7):
        together = [pair for part in parts for pair in entries(part, query)]
        assert entries(merged, query) == best_of(together, k)


@pytest.mark.parametrize("k", [1, 5])
def test_interests_folded_in_order_equal_loops(k: int):
    random = np.random.default_rng(k)
    alone = merge_top_k(random_part(k, 7 * 3, 9), k)
    order = np.array([random.permutation(3) for _ in range(7)])
    answers = list(fold_in_order(alone, order))
    assert len(answers) == 3
    for count, answer in enumerate(answers, 1):
        for query in range(7):
            together = [pair for place in order[query, :count] for pair in entries(alone, 3 * query + place)]
            assert entries(answer, query) == best_of(together, k)
    whole = fold_interests(alone, 3, np.ones((7, 3), np.bool_))
    assert answers[-1].item_idx.tolist() == whole.item_idx.tolist()
    with pytest.raises(RetrievalError, match="20 rows"):
        list(fold_in_order(Candidates(alone.item_idx[:20], alone.score[:20]), order))


def test_merge_of_many_rows_equals_merge_of_each():
    part = random_part(0, 30_000, 8)
    merged = merge_top_k([part], 3)
    for query in (0, 8191, 8192, 29_999):
        alone = merge_top_k(Candidates(part.item_idx[[query]], part.score[[query]]), 3)
        np.testing.assert_array_equal(merged.item_idx[query], alone.item_idx[0])


def test_wide_rows_are_cut_the_same_way():
    part = random_part(3, 5, 400)
    item_idx = np.where(part.item_idx < 0, -1, np.arange(400) + 2)
    wide = rank_top_k(item_idx, part.score, 4, distinct=True)
    for query in range(5):
        row = zip(item_idx[query].tolist(), part.score[query].tolist(), strict=True)
        assert entries(wide, query) == best_of(list(row), 4)


def test_order_is_by_score_then_item_with_signed_zeros_equal():
    ranked = rank_top_k(np.array([[9, 4, 7, 3]]), np.array([[0.0, -0.0, 1e-30, -2.0]], np.float32), 4)
    assert ranked.item_idx.tolist() == [[7, 4, 9, 3]]
    np.testing.assert_array_equal(ranked.score, np.array([[1e-30, 0, 0, -2]], np.float32))


def test_scores_survive_ranking_bit_by_bit():
    score = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    score[0, :3] = [np.inf, np.finfo(np.float32).max, -np.finfo(np.float32).max]
    ranked = rank_top_k(np.tile(np.arange(2, 52), (3, 1)), score, 50)
    np.testing.assert_array_equal(ranked.score, -np.sort(-score, axis=1))


def test_largest_item_idx_is_ranked_and_a_larger_one_refused():
    score = np.ones((1, 1), np.float32)
    assert rank_top_k(np.array([[MAX_ITEM_IDX]]), score, 1).item_idx.tolist() == [[MAX_ITEM_IDX]]
    with pytest.raises(RetrievalError, match="largest that can be ranked"):
        rank_top_k(np.array([[MAX_ITEM_IDX + 1]]), score, 1)


def test_missing_entries_stay_missing_and_pad():
    answer = merge_top_k([missing_candidates(2, 3), candidates([(5, 1.0)], [(-1, -np.inf)])], 4)
    assert answer.item_idx.tolist() == [[5, -1, -1, -1], [-1, -1, -1, -1]]
    assert np.isneginf(answer.score[answer.item_idx < 0]).all()


def test_inactive_interests_are_ignored():
    found = candidates([(2, 9.0)], [(3, 1.0)], [(4, 9.0)], [(5, 8.0)])
    folded = fold_interests(found, 2, np.array([[False, True], [False, False]]), k=2)
    assert folded.item_idx.tolist() == [[3, -1], [-1, -1]]


@pytest.mark.parametrize("largest", [3, 40])
def test_drop_seen_equals_loops(largest: int):
    random = np.random.default_rng(largest)
    rows = [random.integers(0, 60, random.integers(0, largest + 1)).tolist() for _ in range(50)]
    seen = Ragged.of_rows(rows)
    found = rank_top_k(random.integers(2, 60, (50, 45)), random.random((50, 45)).astype(np.float32), 45)
    kept = drop_seen(found, seen.offsets, seen.items, 6)
    assert kept.k == 6
    for query, row in enumerate(rows):
        assert entries(kept, query) == without(entries(found, query), set(row), 6)


def test_membership_of_missing_entries_is_false():
    sets = Ragged.of_rows([[], list(range(40))])
    found = is_member(np.array([[-1, 3], [-1, 3]]), sets)
    assert found.tolist() == [[False, False], [False, True]]


def test_membership_by_table_and_by_search_agree(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    sets = Ragged.of_rows(random.integers(0, 90, random.integers(0, 60)).tolist() for _ in range(40))
    items = random.integers(-1, 99, (40, 30))
    owned = [set(sets.items[start:stop].tolist()) for start, stop in pairwise(sets.offsets)]
    wanted = [[int(item) in own for item in row] for row, own in zip(items, owned, strict=True)]
    assert is_member(items, sets).tolist() == wanted
    monkeypatch.setattr(candidates_module, "_TABLE", 0)
    assert is_member(items, sets).tolist() == wanted


@pytest.mark.parametrize(
    ("item_idx", "score", "message"),
    [
        (np.zeros((2, 3), np.int64), np.zeros((2, 2), np.float32), "expected one"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32), "expected int64"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float64), "float32"),
        (np.zeros((1, 1), np.int64), np.full((1, 1), np.nan, np.float32), "diverged"),
        (np.full((1, 1), -1, np.int64), np.zeros((1, 1), np.float32), "missing"),
        (np.ones((1, 1), np.int64), np.full((1, 1), -np.inf, np.float32), "missing"),
    ],
)
def test_wrong_candidates_are_refused(item_idx: np.ndarray, score: np.ndarray, message: str):
    with pytest.raises(RetrievalError, match=message):
        Candidates(item_idx, score)


def test_wrong_arguments_are_refused():
    one, two = missing_candidates(1, 2), missing_candidates(2, 2)
    with pytest.raises(RetrievalError, match="k is 0"):
        merge_top_k([one], 0)
    with pytest.raises(RetrievalError, match="expected one number"):
        merge_top_k([one, two], 2)
    with pytest.raises(RetrievalError, match="expected one number"):
        merge_top_k([], 2)
    with pytest.raises(RetrievalError, match="x 3 interests"):
        fold_interests(two, 3, np.ones((1, 3), np.bool_))
    with pytest.raises(RetrievalError, match="NaN scores"):
        rank_top_k(np.array([[2]]), np.array([[np.nan]], np.float32), 1)


@pytest.mark.parametrize("offsets", [[0, 1], [1, 1, 2], [0, 2, 1], [0, 1, 3]])
def test_wrong_offsets_are_refused(offsets: list[int]):
    with pytest.raises(RetrievalError, match="seen items"):
        check_ragged((np.array(offsets), np.array([4, 5])), 2, "seen items")
    with pytest.raises(RetrievalError, match="item_idx outside"):
        check_ragged((np.array([0, 1]), np.array([-4])), 1, "seen items")


def test_sets_are_taken_in_the_order_given():
    part = take_sets(Ragged.of_rows([[4, 5], [], [6], [7, 8, 9]]), np.array([3, 1, 0]))
    assert part.offsets.tolist() == [0, 3, 3, 5]
    assert part.items.tolist() == [7, 8, 9, 4, 5]
