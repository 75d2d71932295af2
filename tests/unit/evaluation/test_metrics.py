"""Metrics against plain loops (tests/reference/metrics.py, tolerance 1e-12) and cases worked by hand."""

import math

import numpy as np
import pytest

from raysys import config
from raysys.errors import ConfigError, DataError, RetrievalError
from raysys.evaluation.metrics import (
    METRICS,
    EvaluationConfig,
    MetricTotals,
    ndcg,
    precision,
)
from raysys.evaluation.resampling import bootstrap_interval, mean, paired_difference, paired_p_value
from raysys.retrieval.candidates import Candidates, Ragged, missing_candidates
from tests.reference.metrics import REFERENCE, sign_flip_p

ALL = EvaluationConfig(ks=(1, 3, 8), metrics=(*METRICS, "coverage"))


def ranked(*rows: list[int]) -> Candidates:
    item_idx = np.array(rows, np.int64)
    score = -np.tile(np.arange(item_idx.shape[1], dtype=np.float32), (len(rows), 1))
    return Candidates(item_idx, np.where(item_idx < 0, np.float32(-np.inf), score))


def random_case(seed: int, queries: int, largest: int) -> tuple[Candidates, list[list[int]]]:
    random = np.random.default_rng(seed)
    item_idx = random.random((queries, 30)).argsort(axis=1)[:, :8] + 2
    item_idx[np.arange(8) >= random.integers(0, 9, queries)[:, None]] = -1
    truth = [(random.permutation(30)[: random.integers(0, largest)] + 2).tolist() for _ in range(queries)]
    return ranked(*item_idx.tolist()), truth


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("largest", [4, 28])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_metrics_equal_loops(name: str, largest: int, k: int):
    candidates, truth = random_case(k, 60, largest)
    fast = METRICS[name](candidates, Ragged.of_rows(truth), k)
    rows = zip(candidates.item_idx.tolist(), truth, strict=True)
    slow = [REFERENCE[name](items, set(relevant), k) for items, relevant in rows]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    assert np.isnan(fast).any()
    assert fast.dtype == np.float64


def test_hand_worked_case():
    # Relevant 3, 5, 9; ranks 2 and 4 hit.
    candidates, truth = ranked([2, 3, 4, 5]), Ragged.of_rows([[9, 5, 3]])
    values = {name: float(metric(candidates, truth, 4)[0]) for name, metric in METRICS.items()}
    gain, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / math.log2(4)
    worked = {"hit_rate": 1, "recall": 2 / 3, "precision": 2 / 4, "ndcg": gain / ideal}
    assert values == pytest.approx(worked | {"mrr": 1 / 2, "map": (1 / 2 + 2 / 4) / 3}, abs=1e-12)


def test_pitfall_ndcg_normalised_by_ideal_not_by_hits():
    # One of two relevant items at rank 1: divided by the hits found it would be 1, a perfect list.
    truth = Ragged.of_rows([[2, 7]])
    one, both = ndcg(ranked([2, 3, 4]), truth, 3)[0], ndcg(ranked([2, 7, 4]), truth, 3)[0]
    assert one == pytest.approx(1 / (1 + 1 / math.log2(3)), abs=1e-12)
    assert both == 1
    # More relevant items than places: the ideal list has k hits, so a full list scores 1.
    assert ndcg(ranked([2, 3]), Ragged.of_rows([[2, 3, 4, 5]]), 2)[0] == 1


def test_pitfall_padding_is_never_ranked():
    truth = Ragged.of_rows([[4]])
    assert precision(ranked([-1, -1]), truth, 2)[0] == 0
    totals = MetricTotals(EvaluationConfig(ks=(2,)), 5)
    totals.add(ranked([4, -1]), truth)
    assert totals.result()["coverage@2"] == pytest.approx(1 / 5)
    for reserved in (0, 1):
        with pytest.raises(RetrievalError, match="padding or unknown"):
            totals.add(ranked([reserved, 4]), truth)


def test_totals_have_the_documented_keys_and_values():
    totals = MetricTotals(EvaluationConfig(ks=(1, 2)), 4)
    block = totals.add(ranked([2, 3], [4, 2], [3, 2]), Ragged.of_rows([[3], [4], []]))
    assert list(totals.result()) == [
        *("hit_rate@1", "hit_rate@2", "recall@1", "recall@2", "ndcg@1", "ndcg@2"),
        *("mrr", "coverage@1", "coverage@2"),
    ]
    assert totals.result()["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert totals.result()["coverage@1"] == 3 / 4
    np.testing.assert_array_equal(block["hit_rate@1"], [0, 1, np.nan])
    np.testing.assert_array_equal(totals.values["hit_rate@2"], [1, 1, np.nan])


def test_totals_merge_to_the_whole_in_any_order():
    candidates, truth = random_case(0, 90, 6)
    parts = []
    for start, stop in [(0, 1), (1, 40), (40, 90)]:
        part = MetricTotals(ALL, 30)
        part.add(
            Candidates(candidates.item_idx[start:stop], candidates.score[start:stop]),
            Ragged.of_rows(truth[start:stop]),
        )
        parts.append(part)
    whole = MetricTotals(ALL, 30)
    whole.add(candidates, Ragged.of_rows(truth))
    a, b, c = parts
    for merged in (a.merge(b).merge(c), c.merge(a.merge(b)), b.merge(c).merge(a)):
        assert merged.result() == whole.result()
        assert merged.intervals(3, 50) == whole.intervals(3, 50)
    np.testing.assert_array_equal(a.merge(b.merge(c)).values["mrr"], whole.values["mrr"])


def test_wrong_totals_are_refused():
    totals = MetricTotals(EvaluationConfig(ks=(2,)), 5)
    with pytest.raises(RetrievalError, match="retrieve more"):
        totals.add(ranked([2]), Ragged.of_rows([[2]]))
    with pytest.raises(RetrievalError, match="catalogue of 5"):
        totals.add(ranked([2, 7]), Ragged.of_rows([[2]]))
    with pytest.raises(DataError, match="named twice"):
        totals.add(ranked([2, 3]), Ragged.of_rows([[2, 4, 2]]))
    with pytest.raises(RetrievalError, match="truth"):
        totals.add(ranked([2, 3]), Ragged.of_rows([[2], [3]]))
    with pytest.raises(RetrievalError, match="different evaluations"):
        totals.merge(MetricTotals(EvaluationConfig(ks=(3,)), 5))
    with pytest.raises(DataError, match="none of 0 queries"):
        totals.result()


def test_refused_blocks_leave_totals_as_they_were():
    totals = MetricTotals(EvaluationConfig(ks=(2,), metrics=("recall", "coverage")), 5)
    totals.add(missing_candidates(1, 2), Ragged.of_rows([[2]]))
    with pytest.raises(RetrievalError):
        totals.add(ranked([2]), Ragged.of_rows([[2]]))
    assert totals.result() == {"recall@2": 0.0, "coverage@2": 0.0}


def test_mean_is_exactly_rounded():
    assert mean(np.array([1e16, 1.0, -1e16, np.nan, 1.0])) == 0.5


@pytest.mark.parametrize("decimals", [1, 12])
def test_bootstrap_agrees_with_the_normal_interval(decimals: int):
    # For many values the interval is mean +- 1.96 sd / sqrt(n); tolerance a tenth of its width. Few distinct
    # values are drawn by count, many one by one.
    values = np.random.default_rng(0).random(2000).round(decimals)
    low, high = bootstrap_interval(values, seed=1, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.2 * half)
    wide = bootstrap_interval(values, seed=1, resamples=4000, level=0.99)
    assert wide[0] < low < high < wide[1]


def test_bootstrap_is_seeded_and_free_of_order(monkeypatch):
    values = np.r_[np.random.default_rng(0).random(50), np.nan]
    first = bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values[::-1], seed=4) == first
    assert bootstrap_interval(values, seed=5) != first
    monkeypatch.setattr("raysys.evaluation.resampling._DRAWS", 300)
    # Blocks of another size draw the same counts; only the sum of a mean may round differently.
    assert bootstrap_interval(values, seed=4) == pytest.approx(first, rel=1e-12)
    assert bootstrap_interval(np.ones(9), seed=4) == (1.0, 1.0)
    with pytest.raises(DataError, match="undefined"):
        bootstrap_interval(np.array([np.nan]), seed=4)


def test_paired_difference_uses_pairs():
    random = np.random.default_rng(0)
    a = random.random(400)
    b = a - 0.01 + 0.001 * random.standard_normal(400)
    b[3] = np.nan
    difference, low, high = paired_difference(a, b, seed=2)
    assert difference == pytest.approx(0.01, abs=2e-4)
    assert 0.009 < low < difference < high < 0.011
    with pytest.raises(DataError, match="cannot be paired"):
        paired_difference(a, b[:5], seed=2)


@pytest.mark.parametrize("values", [3, 10**6])
def test_paired_p_value_agrees_with_all_choices_of_signs(values: int, monkeypatch):
    # 2^12 choices; three standard errors of 20,000 draws are at most 0.011.
    random = np.random.default_rng(3)
    for shift in (0.0, 0.15, 0.4):
        a = random.integers(0, values + 1, 12) / values + shift
        b = random.integers(0, values + 1, 12) / values
        drawn = paired_p_value(a, b, seed=5, resamples=20_000)
        assert drawn == pytest.approx(sign_flip_p((a - b).tolist()), abs=0.011)
        assert paired_p_value(b, a, seed=5, resamples=20_000) == pytest.approx(drawn, abs=0.011)
    monkeypatch.setattr("raysys.evaluation.resampling._DRAWS", 7)
    assert 0 < paired_p_value(a, b, seed=5, resamples=100) <= 1


def test_paired_p_value_at_its_ends():
    a = np.random.default_rng(0).random(300)
    assert paired_p_value(a, a, seed=1) == 1
    assert paired_p_value(a + 0.1, a, seed=1, resamples=999) == 0.001
    assert paired_p_value(np.r_[a, np.nan], np.r_[a, 1.0], seed=1) == 1
    with pytest.raises(DataError, match="cannot be paired"):
        paired_p_value(a, a[:5], seed=1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ks": []}, r"^evaluation\.ks: "),
        ({"ks": [0, 5]}, r"^evaluation\.ks: "),
        ({"ks": [10, 10]}, r"^evaluation\.ks: .*rising"),
        ({"ks": [50, 10]}, r"^evaluation\.ks: .*rising"),
        ({"metrics": []}, r"^evaluation\.metrics: "),
        ({"metrics": ["recal"]}, r"unknown metric recal; did you mean recall\?"),
        ({"metrics": ["mrr", "mrr"]}, "mrr named twice"),
        ({"part": "train"}, r"^evaluation\.part: "),
        ({"sample_users": -1}, r"^evaluation\.sample_users: "),
    ],
)
def test_wrong_config_is_refused(table: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config.read(EvaluationConfig, table, "evaluation")


def test_config_round_trip():
    again = config.read(EvaluationConfig, config.to_table(ALL), "evaluation")
    assert again == ALL
    assert again.depth == 8
