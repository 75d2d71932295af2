"""Mistakes found in public evaluation code, one test each; beside most stands the careless computation, which
gives another number on the same input.

    mistake                                                   test_...
    only the first interest is scored                         every_interest_is_searched
    the padding row is ranked as an item                      padding_and_unknown_are_not_ranked
    NDCG above 1                                              ndcg_of_a_hit_at_the_top_is_one
    NDCG divided by the ideal of the hits that were found     ndcg_is_divided_by_the_ideal_of_what_is_relevant
    K x k candidates against k                                several_interests_get_no_more_places_than_one
    neighbours of equal score taken for one item              interests_are_merged_by_item_and_not_by_score
    an item twice among the candidates counts twice           a_repeated_item_takes_one_place
    precision over the candidates found, not over k           a_short_list_is_not_a_precise_one
    an approximate index behind the figures                   figures_come_from_exact_search_unless_asked_for
    AUC as the only metric while training                     training_watches_a_metric_of_retrieval
    items seen are ranked, or cost places in the list         seen_items_cost_no_place
    a mean over nothing, or users without truth as zeros      users_without_truth_are_left_out_of_the_mean
    chance level unknown                                      chance_scores_k_over_n
"""

import math

import numpy as np
import pytest
import torch

from raysys.errors import ConfigError, DataError, RetrievalError
from raysys.evaluation.metrics import (
    METRICS,
    EvaluationConfig,
    MetricTotals,
    average_precision,
    hit_rate,
    ndcg,
    precision,
    recall,
)
from raysys.retrieval.candidates import Candidates, Ragged, fold_interests, merge_top_k
from raysys.retrieval.index import ExactIndex, IndexConfig
from raysys.retrieval.table import random_candidates
from raysys.retrieval.vectors import VectorRetriever
from raysys.training_config import TrainingConfig


def ranked(*rows: list[int]) -> Candidates:
    item_idx = np.array(rows, np.int64)
    score = -np.tile(np.arange(item_idx.shape[1], dtype=np.float32), (len(rows), 1))
    return Candidates(item_idx, np.where(item_idx < 0, np.float32(-np.inf), score))


def scored(*rows: list[tuple[int, float]]) -> Candidates:
    item_idx = np.array([[item for item, _ in row] for row in rows], np.int64)
    return Candidates(item_idx, np.array([[score for _, score in row] for row in rows], np.float32))


class Users:
    """Two interests per user, both active, along the first and the second axis."""

    def __init__(self, interests: int = 2) -> None:
        self.interests = interests

    def encode_users(self, batch):
        vectors = torch.eye(2)[: self.interests].expand(3, -1, -1)
        return vectors, torch.ones(3, self.interests, dtype=torch.bool)

    def encode_items(self, item_idx):
        raise AssertionError("unused")


def test_every_interest_is_searched():
    index = ExactIndex("inner_product", 2)
    vectors = np.array([[3, 0], [2, 0], [1, 0], [0, 9], [0, 8]], np.float32)
    index.add(np.arange(2, 7), vectors)
    truth = Ragged.of_rows([[5], [6], [5]])  # what the second interest finds
    both, first = (VectorRetriever(Users(n), index).retrieve({}, 2) for n in (2, 1))
    assert hit_rate(both, truth, 2).tolist() == [1, 1, 1]
    assert hit_rate(first, truth, 2).tolist() == [0, 0, 0]


def test_padding_and_unknown_are_not_ranked():
    for reserved in (0, 1):
        with pytest.raises(RetrievalError, match="padding and unknown are no items"):
            ExactIndex("inner_product", 2).add(np.array([reserved]), np.ones((1, 2), np.float32))
        with pytest.raises(RetrievalError, match="padding or unknown among the candidates"):
            MetricTotals(EvaluationConfig(ks=(2,)), 5).add(ranked([reserved, 4]), Ragged.of_rows([[4]]))


def test_ndcg_of_a_hit_at_the_top_is_one():
    # 1 / log2(3) is the discount of the second place: divided by it, a hit at the top gives 1.585
    truth = Ragged.of_rows([[2]])
    assert ndcg(ranked([2, 3, 4]), truth, 3)[0] == 1
    assert ndcg(ranked([3, 2, 4]), truth, 3)[0] == pytest.approx(1 / math.log2(3))
    assert 1 / (1 / math.log2(3)) == pytest.approx(1.585, abs=1e-3)


@pytest.mark.parametrize(("k", "relevant"), [(2, 4), (4, 2), (3, 3)])
def test_ndcg_is_divided_by_the_ideal_of_what_is_relevant(k: int, relevant: int):
    truth = Ragged.of_rows([list(range(2, 2 + relevant))])
    found = ranked([2, *range(50, 50 + k - 1)])  # one hit, at the top
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, k) + 1))
    assert ndcg(found, truth, k)[0] == pytest.approx(1 / ideal)
    assert average_precision(found, truth, k)[0] == pytest.approx(1 / min(relevant, k))
    by_hits_found = 1.0
    assert ndcg(found, truth, k)[0] < by_hits_found
    assert ndcg(ranked(list(range(2, 2 + k))), truth, k)[0] == pytest.approx(1)


def test_several_interests_get_no_more_places_than_one():
    # each interest's own best is relevant to one user; the union of both has two places more at k = 1
    interests = scored([(2, 0.9), (3, 0.5)], [(4, 0.8), (5, 0.4)])
    truth, active = Ragged.of_rows([[4]]), np.array([[True, True]])
    folded = fold_interests(interests, 2, active)
    assert folded.item_idx.tolist() == [[2, 4]]
    assert hit_rate(folded, truth, 1)[0] == 0
    union = set(interests.item_idx[:, 0].tolist())
    assert len(union) == 2
    assert 4 in union


def test_interests_are_merged_by_item_and_not_by_score():
    a, b, c, d, e = 2, 3, 4, 5, 6
    interests = scored([(a, 0.9), (b, 0.5), (c, 0.5)], [(a, 0.8), (d, 0.4), (e, 0.3)])
    assert fold_interests(interests, 2, np.array([[True, True]])).item_idx.tolist() == [[a, b, c]]
    entries = sorted(
        zip(interests.score.ravel().tolist(), interests.item_idx.ravel().tolist(), strict=True),
        key=lambda pair: -pair[0],
    )
    by_score: dict[float, int] = {}
    for score, item in entries:
        by_score.setdefault(score, item)
    careless = list(by_score.values())[:3]
    assert careless == [a, a, b]  # a twice, c lost


def test_a_repeated_item_takes_one_place():
    again = merge_top_k([scored([(2, 0.9), (3, 0.5)]), scored([(2, 0.9), (4, 0.1)])], 3)
    assert again.item_idx.tolist() == [[2, 3, 4]]
    with pytest.raises(RetrievalError, match="added twice"):
        ExactIndex("inner_product", 2).add(np.array([2, 2]), np.ones((2, 2), np.float32))
    with pytest.raises(DataError, match="named twice for one query"):
        MetricTotals(EvaluationConfig(ks=(2,)), 5).add(ranked([2, 3]), Ragged.of_rows([[4, 4]]))


def test_a_short_list_is_not_a_precise_one():
    found, truth = ranked([2, -1, -1, -1]), Ragged.of_rows([[2, 3]])
    assert precision(found, truth, 4)[0] == 1 / 4
    assert recall(found, truth, 4)[0] == 1 / 2


def test_figures_come_from_exact_search_unless_asked_for():
    assert IndexConfig().kind == "exact"


def test_training_watches_a_metric_of_retrieval():
    assert TrainingConfig().metric.partition("@")[0] in METRICS
    with pytest.raises(ConfigError, match="metric: found 'auc'"):
        TrainingConfig(metric="auc")


def test_seen_items_cost_no_place():
    index = ExactIndex("inner_product", 2)
    index.add(np.arange(2, 8), np.array([[n, 0] for n in range(6, 0, -1)], np.float32))
    seen = Ragged.of_rows([[2, 3], [4], []])
    found = VectorRetriever(Users(1), index).retrieve({}, 3, seen)
    assert found.item_idx.tolist() == [[4, 5, 6], [2, 3, 5], [2, 3, 4]]
    kept = VectorRetriever(Users(1), index).retrieve({}, 3)
    assert kept.item_idx.tolist() == [[2, 3, 4]] * 3


def test_users_without_truth_are_left_out_of_the_mean():
    totals = MetricTotals(EvaluationConfig(ks=(2,), metrics=("recall",)), 5)
    totals.add(ranked([2, 3], [2, 3]), Ragged.of_rows([[2], []]))
    assert totals.result() == {"recall@2": 1}
    nothing = MetricTotals(EvaluationConfig(ks=(2,), metrics=("recall",)), 5)
    nothing.add(ranked([2, 3]), Ragged.of_rows([[]]))
    with pytest.raises(DataError, match="none of 1 queries has a relevant item"):
        nothing.result()


def test_chance_scores_k_over_n():
    # 4,000 users with one held-out item of 40: 5 / 40, and 3 sigma are 0.016
    users = np.arange(4000, dtype=np.int64)
    found = random_candidates(42, users.astype(np.uint64), 5, 0)
    truth = (np.arange(4001), 2 + users % 40)
    assert hit_rate(found, truth, 5).mean() == pytest.approx(5 / 40, abs=0.016)
