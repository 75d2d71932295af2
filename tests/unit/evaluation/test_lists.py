"""Metrics of lists against plain loops (tests/reference/metrics.py, tolerance 1e-12) and cases worked by
hand."""

import math

import numpy as np
import pytest

from raysys.catalog import Catalog
from raysys.errors import ConfigError, RetrievalError
from raysys.evaluation.lists import (
    LIST_METRICS,
    Facts,
    gini,
    intra_list_diversity,
    novelty,
    popularity_bias,
)
from raysys.evaluation.metrics import EvaluationConfig, MetricTotals
from raysys.retrieval.candidates import Candidates, Ragged
from raysys.schema import Feature
from tests.reference import metrics as reference

NUM_ITEMS = 32
EVERY = EvaluationConfig(ks=(1, 3, 8), metrics=("recall", *LIST_METRICS, "coverage", "gini"))


def ranked(*rows: list[int]) -> Candidates:
    item_idx = np.array(rows, np.int64)
    score = -np.tile(np.arange(item_idx.shape[1], dtype=np.float32), (len(rows), 1))
    return Candidates(item_idx, np.where(item_idx < 0, np.float32(-np.inf), score))


def facts(counts: list[int], histories: list[list[int]], *categories: list[list[int]]) -> Facts:
    tables = tuple(np.array(values, np.int32) for values in categories)
    return Facts(np.array(counts, np.int64), tables, Ragged.of_rows(histories))


def random_case(seed: int, queries: int = 60) -> tuple[Candidates, Facts, list[list[int]]]:
    """Lists of 0 to 8 items, items without events and without values, and empty histories."""
    random = np.random.default_rng(seed)
    item_idx = random.random((queries, NUM_ITEMS - 2)).argsort(axis=1)[:, :8] + 2
    item_idx[np.arange(8) >= random.integers(0, 9, queries)[:, None]] = -1
    counts = random.integers(0, 40, NUM_ITEMS) * (random.random(NUM_ITEMS) < 0.7)
    counts[:2] = 0
    one = random.integers(0, 5, (NUM_ITEMS, 1))
    several = np.array([random.permutation(9)[:4] for _ in range(NUM_ITEMS)])
    histories = [
        (random.permutation(NUM_ITEMS - 2)[: random.integers(0, 5)] + 2).tolist() for _ in range(queries)
    ]
    known = facts(counts.tolist(), histories, one.tolist(), several.tolist())
    return ranked(*item_idx.tolist()), known, histories


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_metrics_of_lists_equal_loops(seed: int, k: int):
    candidates, known, histories = random_case(seed)
    lists, counts = candidates.item_idx.tolist(), known.item_counts.tolist()
    tables = [values.tolist() for values in known.categories]
    own = zip(lists, histories, strict=True)
    slow = {
        "novelty": [reference.novelty(row, counts, k) for row in lists],
        "popularity_bias": [reference.popularity_bias(row, counts, set(past), k) for row, past in own],
        "intra_list_diversity": [reference.intra_list_diversity(row, tables, k) for row in lists],
    }
    assert slow.keys() == LIST_METRICS.keys()
    for name, values in slow.items():
        fast = LIST_METRICS[name](candidates, known, k)
        np.testing.assert_allclose(fast, values, rtol=1e-12, atol=1e-12, err_msg=name)
        assert fast.dtype == np.float64
        assert np.isnan(fast).any()


def test_blocks_of_queries_do_not_change_diversity(monkeypatch):
    candidates, known, _ = random_case(5)
    whole = intra_list_diversity(candidates, known, 8)
    monkeypatch.setattr("raysys.evaluation.lists._ENTRIES", 100)
    np.testing.assert_array_equal(intra_list_diversity(candidates, known, 8), whole)


def test_novelty_worked_by_hand():
    # Shares 1/2, 1/4 and, without an event, 1/8 as if it had one: 1, 2 and 3 bits.
    known = facts([0, 0, 4, 2, 0, 2], [[]])
    assert novelty(ranked([2, 3, 4]), known, 2)[0] == pytest.approx(1.5, abs=1e-12)
    assert novelty(ranked([2, 3, 4]), known, 3)[0] == pytest.approx(2, abs=1e-12)
    assert novelty(ranked([3, -1, -1]), known, 3)[0] == pytest.approx(2, abs=1e-12)
    assert np.isnan(novelty(ranked([-1, -1]), known, 2)[0])


def test_popularity_bias_worked_by_hand():
    # Lists of popularity 6 on average; histories of 3, of 6, without any item and of a cold one.
    known = facts([0, 0, 8, 4, 2, 0], [[3, 4], [2, 3], [], [5]])
    values = popularity_bias(ranked([2, 3], [2, 3], [2, 3], [2, 3]), known, 2)
    np.testing.assert_allclose(values, [2, 1, np.nan, np.nan], rtol=1e-12)
    assert popularity_bias(ranked([2, -1]), facts([0, 0, 8, 4], [[3]]), 2)[0] == 2


def test_diversity_worked_by_hand():
    # One value each: of the pairs of a, a, b one in three is alike.
    one = [[0], [0], [2], [2], [3], [1], [0]]
    known = facts([1] * 7, [[]], one)
    assert intra_list_diversity(ranked([2, 3, 4]), known, 3)[0] == pytest.approx(2 / 3, abs=1e-12)
    assert intra_list_diversity(ranked([2, 3, 4]), known, 2)[0] == 0
    # Unknown and missing values are like nothing, not like each other.
    assert intra_list_diversity(ranked([5, 6]), known, 2)[0] == 1
    # Sets {2, 3} and {3}: 1 / sqrt(2); with the feature above, on which the two agree, the mean of both.
    sets = facts([1] * 4, [[]], [[0, 0], [0, 0], [2, 3], [0, 3]])
    assert intra_list_diversity(ranked([2, 3]), sets, 2)[0] == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-12)
    both = facts([1] * 4, [[]], one[:4], [[0, 0], [0, 0], [2, 3], [0, 3]])
    worked = 1 - (1 + 1 / math.sqrt(2)) / 2
    assert intra_list_diversity(ranked([2, 3]), both, 2)[0] == pytest.approx(worked, abs=1e-12)
    for short in ([2, -1], [-1, -1]):
        assert np.isnan(intra_list_diversity(ranked(short), known, 2)[0])


def test_diversity_without_item_features_is_an_error_that_says_what_to_do():
    with pytest.raises(
        ConfigError, match="intra_list_diversity needs a categorical or multi-valued item fea"
    ):
        intra_list_diversity(ranked([2, 3]), facts([1] * 4, [[]]), 2)
    with pytest.raises(RetrievalError, match="retrieve more"):
        novelty(ranked([2, 3]), facts([1] * 4, [[]]), 3)


def test_numbers_are_no_categories_and_repeated_values_count_once():
    features = (
        Feature(name="price", entity="item", kind="number"),
        Feature(name="genre", entity="item", kind="id_list", length=3, size=5),
        Feature(name="brand", entity="item", kind="id", size=4),
    )
    values = {
        "price": np.zeros(4, np.float32),
        "genre": np.array([[0, 0, 0], [0, 0, 0], [2, 2, 4], [4, 4, 4]], np.int32),
        "brand": np.array([0, 0, 2, 3], np.int32),
    }
    catalog = Catalog(
        num_items=4,
        num_users=2,
        item_counts=np.array([0, 0, 3, 1]),
        item_features=features,
        item_values=values,
    )
    known = Facts.of(catalog, Ragged.of_rows([[]]))
    assert [table.shape for table in known.categories] == [(4, 3), (4, 1)]
    # Genres {2, 4} and {4}, brands apart.
    worked = 1 - (1 / math.sqrt(2) + 0) / 2
    assert intra_list_diversity(ranked([2, 3]), known, 2)[0] == pytest.approx(worked, abs=1e-12)


def test_gini_of_even_and_uneven_lists():
    assert gini(np.array([5, 5, 5, 5])) == 0
    assert gini(np.array([0, 0, 7, 0])) == 1
    assert gini(np.array([0, 0])) == gini(np.array([4])) == 0
    # 1, 0, 3: the differences of ordered pairs add up to 12, over 2 x 3 x 2 x 4 / 3.
    assert gini(np.array([1, 0, 3])) == pytest.approx(3 / 4, abs=1e-12)


def test_totals_hold_metrics_of_lists_and_merge_to_the_whole():
    candidates, known, histories = random_case(3)
    truth = Ragged.of_rows([[2 + query % 30] for query in range(60)])
    whole = MetricTotals(EVERY, NUM_ITEMS - 2)
    whole.add(candidates, truth, known)
    merged = MetricTotals(EVERY, NUM_ITEMS - 2)
    for start, stop in [(0, 7), (7, 8), (8, 60)]:
        part = MetricTotals(EVERY, NUM_ITEMS - 2)
        few = Facts(known.item_counts, known.categories, Ragged.of_rows(histories[start:stop]))
        block = Candidates(candidates.item_idx[start:stop], candidates.score[start:stop])
        part.add(block, (truth.offsets[start : stop + 1] - start, truth.items[start:stop]), few)
        merged = part.merge(merged)
    assert merged.result() == whole.result()
    assert merged.intervals(3, 20) == whole.intervals(3, 20)
    lists = candidates.item_idx.tolist()
    for k in EVERY.ks:
        slow = reference.gini(lists, range(2, NUM_ITEMS), k)
        assert whole.result()[f"gini@{k}"] == pytest.approx(slow, abs=1e-12)
    # One item has no other to differ from.
    diverse = [key for key in whole.result() if "diversity" in key]
    assert diverse == ["intra_list_diversity@3", "intra_list_diversity@8"]
    assert whole.intervals(3, 20).keys() == whole.values.keys()


def test_what_no_query_defines_is_left_out():
    config = EvaluationConfig(ks=(2,), metrics=("recall", "popularity_bias"))
    totals = MetricTotals(config, 3)
    totals.add(ranked([2, 3]), Ragged.of_rows([[2]]), facts([0, 0, 4, 2, 0], [[]]))
    assert totals.result() == {"recall@2": 1.0}
    assert totals.intervals(0, 10).keys() == {"recall@2"}


def test_diversity_of_single_items_is_no_evaluation():
    with pytest.raises(ConfigError, match="is a metric of pairs and needs 2 or more"):
        EvaluationConfig(ks=(1,), metrics=("intra_list_diversity",))
