"""Table retrieval and baselines against dictionaries, hand-worked cases and the statistics of fair draws."""

import numpy as np
import pytest

from raysys.errors import RetrievalError
from raysys.evaluation.metrics import hit_rate
from raysys.retrieval import table
from raysys.retrieval.candidates import Ragged, rank_top_k
from raysys.retrieval.table import NeighbourTable, TableRetriever, popular_table, random_candidates


def make_table(seed: int, rows: int, width: int, num_items: int) -> NeighbourTable:
    random = np.random.default_rng(seed)
    item_idx = random.random((rows, num_items)).argsort(axis=1)[:, :width] + 2
    item_idx[random.random((rows, width)) < 0.2] = -1
    ranked = rank_top_k(item_idx, random.integers(1, 5, (rows, width)).astype(np.float32), width)
    return NeighbourTable(ranked.item_idx, ranked.score)


def slow_scores(neighbours: NeighbourTable, rows: list[int], weights: list[float]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        for item, score in zip(
            neighbours.item_idx[row].tolist(), neighbours.score[row].tolist(), strict=True
        ):
            if item >= 0:
                scores[item] = scores.get(item, 0.0) + weight * score
    return scores


@pytest.mark.parametrize("terms", [2**21, 40])
def test_scores_are_weighted_sums_over_seeds(terms: int, monkeypatch):
    monkeypatch.setattr(table, "_TERMS", terms)
    neighbours, random = make_table(0, 20, 8, 30), np.random.default_rng(1)
    seeds = [random.integers(0, 20, n).tolist() for n in (3, 0, 5, 1, 9, 0)]
    weights = [random.integers(1, 4, len(rows)).astype(float).tolist() for rows in seeds]
    seen = [[2, 3], [], list(range(2, 20)), [], [5], [4]]
    found = TableRetriever(neighbours).retrieve(
        Ragged.of_rows(seeds), np.array([w for row in weights for w in row]), 7, Ragged.of_rows(seen)
    )
    for query in range(6):
        scores = slow_scores(neighbours, seeds[query], weights[query])
        ranked = sorted((i for i in scores if i not in seen[query]), key=lambda i: (-scores[i], i))[:7]
        assert found.item_idx[query].tolist() == ranked + [-1] * (7 - len(ranked))
        assert found.score[query, : len(ranked)].tolist() == [scores[i] for i in ranked]


def test_popular_is_ordered_by_count_then_item_without_reserved():
    popular = popular_table(np.array([99, 98, 3, 7, 0, 7, 1]))
    assert popular.item_idx.tolist() == [[3, 5, 2, 6, 4]]
    assert popular.score.tolist() == [[7, 7, 3, 1, 0]]
    found = TableRetriever(popular).retrieve_row(2, 4, Ragged.of_rows([[], [5, 2, 4]]))
    assert found.item_idx.tolist() == [[3, 5, 2, 6], [3, 6, -1, -1]]
    assert TableRetriever(popular).retrieve_row(2, 2).item_idx.tolist() == [[3, 5], [3, 5]]


def test_one_seed_of_weight_one_gives_its_row():
    neighbours = make_table(3, 5, 6, 20)
    retriever = TableRetriever(neighbours)
    found = retriever.retrieve((np.array([0, 1]), np.array([4])), np.ones(1), 6)
    np.testing.assert_array_equal(found.item_idx, retriever.retrieve_row(1, 6, row=4).item_idx)


def test_wrong_seeds_are_refused():
    retriever = TableRetriever(make_table(0, 5, 3, 10))
    with pytest.raises(RetrievalError, match="seed 5"):
        retriever.retrieve(Ragged.of_rows([[5]]), np.ones(1), 3)
    with pytest.raises(RetrievalError, match="expected one each"):
        retriever.retrieve(Ragged.of_rows([[1, 2]]), np.ones(1), 3)
    with pytest.raises(RetrievalError, match="k is 0"):
        retriever.retrieve(Ragged.of_rows([[1]]), np.ones(1), 0)


@pytest.mark.parametrize("num_items", [3, 4, 5, 18, 19, 1000])
def test_random_candidates_are_distinct_real_items_and_pure(num_items: int):
    keys = np.arange(200, dtype=np.uint64)
    found = random_candidates(num_items, keys, 30, seed=5)
    drawn = min(30, num_items - 2)
    real = found.item_idx[:, :drawn]
    assert real.min() >= 2
    assert real.max() < num_items
    assert (found.item_idx[:, drawn:] == -1).all()
    assert all(len(set(row)) == drawn for row in real.tolist())
    some = random_candidates(num_items, keys[[7, 3]], 30, seed=5)
    np.testing.assert_array_equal(some.item_idx, found.item_idx[[7, 3]])
    head = random_candidates(num_items, keys, 2, seed=5)
    np.testing.assert_array_equal(head.item_idx, found.item_idx[:, :2])
    if num_items > 5:
        assert (random_candidates(num_items, keys, 30, seed=6).item_idx != found.item_idx).any()


@pytest.mark.parametrize("total", [3, 10, 16, 50])
def test_random_candidates_are_uniform_at_every_place(total: int):
    # Chi-square with total - 1 degrees of freedom: mean total - 1, standard deviation sqrt(2 (total - 1)).
    users = 20_000
    found = random_candidates(total + 2, np.arange(users, dtype=np.uint64) * 977, 3, seed=1).item_idx
    for place in range(3):
        counts = np.bincount(found[:, place] - 2, minlength=total)
        chi = ((counts - users / total) ** 2 / (users / total)).sum()
        assert chi < total - 1 + 5 * np.sqrt(2 * (total - 1))
    pairs = np.bincount((found[:, 0] - 2) * total + found[:, 1] - 2, minlength=total**2).reshape(total, total)
    expected = users / (total * (total - 1))
    off = pairs[~np.eye(total, dtype=bool)]
    assert ((off - expected) ** 2 / expected).sum() < len(off) + 5 * np.sqrt(2 * len(off))


def test_random_candidates_hit_at_chance():
    # The hit rate of one relevant item among n is k / n; tolerance 5 standard deviations of a binomial mean.
    users, total, k = 20_000, 50, 10
    found = random_candidates(total + 2, np.arange(users, dtype=np.uint64), k, seed=0)
    truth = (np.arange(users + 1), np.random.default_rng(0).integers(2, total + 2, users))
    chance = k / total
    assert abs(hit_rate(found, truth, k).mean() - chance) < 5 * np.sqrt(chance * (1 - chance) / users)
