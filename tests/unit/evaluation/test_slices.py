"""Slices as totals; oracles are the metrics of the users of each slice, and cases worked by hand."""

import numpy as np
import pytest

from raysys.evaluation.metrics import METRICS, EvaluationConfig, MetricTotals
from raysys.evaluation.resampling import mean
from raysys.evaluation.slices import (
    POPULARITY,
    Bucket,
    SliceTotals,
    length_buckets,
    pause_buckets,
    popularity_buckets,
)
from raysys.retrieval.candidates import Candidates, Ragged, take_sets

CONFIG = EvaluationConfig(ks=(1, 5), metrics=("recall", "ndcg", "mrr", "coverage"))


def random_case(queries: int = 80) -> tuple[Candidates, list[list[int]]]:
    random = np.random.default_rng(2)
    item_idx = (random.random((queries, 20)).argsort(axis=1)[:, :5] + 2).astype(np.int64)
    score = -np.tile(np.arange(5, dtype=np.float32), (queries, 1))
    truth = [(random.permutation(20)[: random.integers(1, 5)] + 2).tolist() for _ in range(queries)]
    return Candidates(item_idx, score), truth


def test_slices_of_users_are_the_metrics_of_those_users_in_any_split():
    candidates, truth = random_case()
    sets, place = Ragged.of_rows(truth), np.arange(80) % 3
    values = MetricTotals(CONFIG, 20).add(candidates, sets)
    merged = SliceTotals()
    for start, stop in [(0, 1), (1, 50), (50, 50), (50, 80)]:
        part = SliceTotals()
        part.add(
            "by", ("a", "b", "c", "none"), place[start:stop], {k: v[start:stop] for k, v in values.items()}
        )
        merged = merged.merge(part)
    found = merged.result()["by"]
    assert list(found) == ["a", "b", "c"]
    for number, name in enumerate("abc"):
        mine = place == number
        assert found[name]["users"] == mine.sum()
        assert list(found[name]) == ["users", "recall@1", "recall@5", "ndcg@1", "ndcg@5", "mrr"]
        for key, value in values.items():
            assert found[name][key] == pytest.approx(mean(value[mine]), abs=1e-15)


def test_slices_of_the_truth_cut_it_down():
    candidates, truth = random_case()
    totals = SliceTotals()
    even = np.array([item % 2 for row in truth for item in row])
    totals.add_truth("by", ("even", "odd", "none"), even, CONFIG, candidates, Ragged.of_rows(truth))
    found = totals.result()["by"]
    assert list(found) == ["even", "odd"]
    for rest, name in enumerate(("even", "odd")):
        rows = [[item for item in row if item % 2 == rest] for row in truth]
        some = np.array([query for query, row in enumerate(rows) if row])
        cut = Ragged.of_rows(rows)
        few = Candidates(candidates.item_idx[some], candidates.score[some])
        assert found[name]["users"] == len(some)
        for metric, k in (("recall", 1), ("ndcg", 5)):
            value = METRICS[metric](few, take_sets(cut, some), k)
            assert found[name][f"{metric}@{k}"] == pytest.approx(value.mean(), abs=1e-12)
        assert "coverage@5" not in found[name]


def test_what_nobody_in_a_slice_defines_is_left_out():
    bucket = Bucket()
    bucket.add(2, {"recall@1": np.array([0.5, 1.0]), "popularity_bias@1": np.full(2, np.nan)})
    assert bucket.result() == {"users": 2, "recall@1": 0.75}


def test_popularity_buckets():
    # Of 20 events the head has 4, the tail the last 10.
    counts = np.array([0, 0, 4, 3, 3, 3, 3, 2, 2, 0])
    names = [POPULARITY[place] for place in popularity_buckets(counts)[2:]]
    assert names == ["head", "middle", "middle", "tail", "tail", "tail", "tail", "cold"]


def test_length_buckets():
    names, place = length_buckets(np.array([0, 1, 4, 5, 9, 10, 49, 50, 199, 200, 10_000]))
    told = [names[number] for number in place]
    assert told == [
        *("0 events", "1-4 events", "1-4 events", "5-9 events", "5-9 events", "10-19 events"),
        *("20-49 events", "50-99 events", "100-199 events", "200+ events", "200+ events"),
    ]


def test_pause_buckets():
    names, place = pause_buckets(np.array([0, 60, 61, 3600, 86_400, 86_401, 2_592_001, np.nan]))
    told = [names[number] for number in place]
    assert told == [
        *("up to 1 minute", "up to 1 minute", "up to 1 hour", "up to 1 hour", "up to 1 day", "up to 1 week"),
        *("more than 30 days", "no event before"),
    ]
