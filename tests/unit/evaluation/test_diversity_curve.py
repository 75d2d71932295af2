"""The relevance-diversity curve against lists made and measured one weight at a time."""

import numpy as np
import pytest

from raysys.errors import RetrievalError
from raysys.evaluation.diversity_curve import DiversityCurve, category_diversity, relevance_diversity_curve
from raysys.retrieval.candidates import Candidates, Ragged, take_sets
from tests.reference import metrics
from tests.reference.diversity import diversity, greedy

WEIGHTS, K, DEPTH, USERS = (0.0, 0.05, 0.25, 1.0), 10, 40, 30


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(3)
    item_idx = np.array([random.permutation(120)[:DEPTH] + 2 for _ in range(USERS)])
    score = -np.sort(-random.standard_normal((USERS, DEPTH)).astype(np.float32), axis=1)
    categories = random.integers(0, 6, 122)
    truth = Ragged.of_rows([random.choice(120, n % 4, replace=False) + 2 for n in range(USERS)])
    return Candidates(item_idx, score), categories, truth


@pytest.mark.parametrize("cap", [None, 3])
def test_every_point_equals_loops(world, cap):
    found, categories, truth = world
    curve = relevance_diversity_curve(found, categories, truth, WEIGHTS, K, cap)
    for weight, point in zip(WEIGHTS, curve.points(), strict=True):
        lists = [
            greedy(
                list(zip(found.item_idx[q].tolist(), found.score[q].tolist(), strict=True)),
                categories.tolist(),
                K,
                weight,
                cap,
            )
            for q in range(USERS)
        ]
        sets = [set(truth.items[truth.offsets[q] : truth.offsets[q + 1]].tolist()) for q in range(USERS)]
        assert point["weight"] == weight
        for name in ("hit_rate", "recall", "ndcg"):
            slow = [metrics.REFERENCE[name](items, sets[q], K) for q, items in enumerate(lists)]
            assert point[f"{name}@{K}"] == pytest.approx(np.nanmean(slow), abs=1e-12)
        shares = [diversity(items, categories.tolist()) for items in lists]
        assert point[f"diversity@{K}"] == pytest.approx(np.nanmean(shares), abs=1e-12)
        assert 0 <= point[f"settled@{K}"] <= 1


def test_parts_merge_to_the_whole(world):
    found, categories, truth = world
    whole = relevance_diversity_curve(found, categories, truth, WEIGHTS, K)
    parts: list[DiversityCurve] = []
    for rows in np.array_split(np.arange(USERS), 3):
        part = Candidates(found.item_idx[rows], found.score[rows])
        parts.append(relevance_diversity_curve(part, categories, take_sets(truth, rows), WEIGHTS, K))
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.points() == whole.points()
    other = relevance_diversity_curve(found, categories, truth, WEIGHTS, 5)
    with pytest.raises(RetrievalError, match="cannot be merged"):
        whole.merge(other)


def test_diversity_by_hand():
    found = Candidates(
        np.array([[2, 3, 4], [2, -1, -1], [-1, -1, -1]]),
        np.array([[3, 2, 1], [1, -np.inf, -np.inf], [-np.inf] * 3], np.float32),
    )
    shares = category_diversity(found, np.array([0, 0, 5, 5, 6]), 3)
    assert shares[0] == pytest.approx(2 / 3)
    assert np.isnan(shares[1:]).all()


def test_wrong_use_is_refused(world):
    found, categories, truth = world
    with pytest.raises(RetrievalError, match="no weights"):
        relevance_diversity_curve(found, categories, truth, (), K)
    with pytest.raises(RetrievalError, match="cannot make lists of 41"):
        relevance_diversity_curve(found, categories, truth, WEIGHTS, 41)
    with pytest.raises(RetrievalError, match="diversity at 41"):
        category_diversity(found, categories, 41)
