"""Properties of the metrics: within [0, 1], never falling recall, and parts that merge to the whole."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.evaluation.metrics import METRICS, EvaluationConfig, MetricTotals
from raysys.evaluation.resampling import bootstrap_interval
from raysys.retrieval.candidates import Candidates, Ragged

DEPTH, NUM_CANDIDATES = 6, 12
EVALUATION = EvaluationConfig(ks=(1, 2, DEPTH), metrics=(*METRICS, "coverage"))

items = st.lists(st.integers(2, NUM_CANDIDATES + 1), unique=True, max_size=DEPTH)
relevant = st.lists(st.integers(2, NUM_CANDIDATES + 1), unique=True, max_size=NUM_CANDIDATES)
queries = st.lists(st.tuples(items, relevant), min_size=1, max_size=8)


def as_arrays(rows: list[tuple[list[int], list[int]]]) -> tuple[Candidates, Ragged]:
    item_idx = np.full((len(rows), DEPTH), -1, np.int64)
    for query, (found, _) in enumerate(rows):
        item_idx[query, : len(found)] = found
    score = np.where(item_idx < 0, -np.inf, -np.arange(DEPTH)).astype(np.float32)
    return Candidates(item_idx, score), Ragged.of_rows([truth for _, truth in rows])


@given(queries)
@settings(deadline=None)
def test_metrics_stay_in_zero_to_one_and_are_undefined_without_truth(rows: list[tuple[list[int], list[int]]]):
    candidates, truth = as_arrays(rows)
    empty = [not wanted for _, wanted in rows]
    for metric in METRICS.values():
        for k in range(1, DEPTH + 1):
            values = metric(candidates, truth, k)
            assert np.isnan(values).tolist() == empty
            defined = values[~np.isnan(values)]
            assert ((defined >= 0) & (defined <= 1)).all()


@given(queries)
@settings(deadline=None)
def test_recall_hit_rate_and_mrr_never_fall_as_k_grows(rows: list[tuple[list[int], list[int]]]):
    candidates, truth = as_arrays(rows)
    for name in ("recall", "hit_rate", "mrr"):
        before = np.zeros(len(rows))
        for k in range(1, DEPTH + 1):
            values = np.nan_to_num(METRICS[name](candidates, truth, k))
            assert (values >= before).all()
            before = values


@given(queries, st.lists(st.integers(0, 8), max_size=3), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_partial_totals_merge_to_the_whole(rows: list[tuple[list[int], list[int]]], cuts: list[int], random):
    rows = [*rows, ([2, 3], [3])]
    whole = MetricTotals(EVALUATION, NUM_CANDIDATES)
    whole.add(*as_arrays(rows))
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts: list[MetricTotals] = []
    for start, stop in pairwise(bounds):
        part = MetricTotals(EVALUATION, NUM_CANDIDATES)
        part.add(*as_arrays(rows[start:stop]))
        parts.append(part)
    random.shuffle(parts)
    merged = MetricTotals(EVALUATION, NUM_CANDIDATES)
    for part in parts:
        merged = merged.merge(part)
    assert merged.result() == whole.result()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_intervals_lie_within_the_values(values: list[float], seed: int):
    low, high = bootstrap_interval(np.array(values), seed, resamples=50)
    slack = 1e-12
    assert min(values) - slack <= low <= high <= max(values) + slack
