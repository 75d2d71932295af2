"""The controllable merge by hand-worked cases, and what it refuses; equality with the paper's loop is in
tests/property/test_diversity.py."""

import numpy as np
import pytest

from raysys.errors import RetrievalError
from raysys.retrieval import diversity
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.diversity import category_places, diversify, is_settled
from tests.reference.diversity import greedy

CATEGORIES = np.array([0, 0, 7, 7, 7, 9, 9])


def candidates() -> Candidates:
    item_idx = np.array([[2, 3, 4, 5, 6], [6, 5, 2, -1, -1]])
    score = np.array([[1.0, 0.9, 0.8, 0.5, 0.1], [3.0, 2.0, 1.0, -np.inf, -np.inf]], np.float32)
    return Candidates(item_idx, score)


def test_a_weight_moves_other_categories_up():
    assert diversify(candidates(), CATEGORIES, 3, 0.0).item_idx.tolist() == [[2, 3, 4], [6, 5, 2]]
    chosen = diversify(candidates(), CATEGORIES, 3, 0.5)
    assert chosen.item_idx.tolist() == [[2, 5, 3], [6, 5, 2]]
    np.testing.assert_allclose(chosen.score, [[1.0, 0.5, 0.4], [3.0, 1.5, 1.0]], rtol=1e-6)


def test_a_cap_is_filled_up_from_deeper_candidates_and_never_passed():
    assert diversify(candidates(), CATEGORIES, 3, 0.0, 2).item_idx.tolist() == [[2, 3, 5], [6, 5, 2]]
    chosen = diversify(candidates(), CATEGORIES, 4, 0.0, 1)
    assert chosen.item_idx.tolist() == [[2, 5, -1, -1], [6, 2, -1, -1]]
    assert np.isneginf(chosen.score[:, 2:]).all()


def test_settled_lists_are_told_from_those_that_need_more_depth():
    assert is_settled(candidates(), diversify(candidates(), CATEGORIES, 3, 0.1)).tolist() == [True, True]
    assert is_settled(candidates(), diversify(candidates(), CATEGORIES, 3, 5.0)).tolist() == [False, True]


@pytest.mark.parametrize("seed", range(3))
def test_any_scores_and_block_sizes_equal_the_loop_of_the_paper(seed: int, monkeypatch):
    random = np.random.default_rng(seed)
    item_idx = np.array([random.permutation(200)[:60] + 2 for _ in range(9)])
    score = -np.sort(-random.standard_normal((9, 60)).astype(np.float32), axis=1)
    category = random.integers(0, 8, 202)
    found = Candidates(item_idx, score)
    whole = diversify(found, category, 20, 0.17, 5)
    monkeypatch.setattr(diversity, "_ENTRIES", 130)
    blocks = diversify(found, category.astype(np.int32), 20, 0.17, 5)
    np.testing.assert_array_equal(whole.item_idx, blocks.item_idx)
    for query in range(9):
        row = list(zip(item_idx[query].tolist(), score[query].tolist(), strict=True))
        assert whole.item_idx[query].tolist() == greedy(row, category.tolist(), 20, 0.17, 5)


def test_wrong_use_is_refused():
    with pytest.raises(RetrievalError, match=r"5 candidates .* lists of 6"):
        diversify(candidates(), CATEGORIES, 6, 0.1)
    for weight in (-0.1, np.nan, np.inf):
        with pytest.raises(RetrievalError, match="diversity weight"):
            diversify(candidates(), CATEGORIES, 3, weight)
    with pytest.raises(RetrievalError, match="at most 0 items"):
        diversify(candidates(), CATEGORIES, 3, 0.1, 0)
    with pytest.raises(RetrievalError, match="k is 0"):
        diversify(candidates(), CATEGORIES, 0, 0.1)
    with pytest.raises(RetrievalError, match="item_idx 6 among the candidates, 6 items"):
        category_places(candidates(), CATEGORIES[:6])
    with pytest.raises(RetrievalError, match="expected one integer per item_idx"):
        category_places(candidates(), CATEGORIES.astype(np.float32))
    with pytest.raises(RetrievalError, match="categories from -1"):
        category_places(candidates(), CATEGORIES - 1)


def test_no_queries_give_no_lists():
    none = Candidates(np.zeros((0, 5), np.int64), np.zeros((0, 5), np.float32))
    assert diversify(none, CATEGORIES, 3, 0.5, 1).item_idx.shape == (0, 3)
