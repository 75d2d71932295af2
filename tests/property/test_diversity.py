"""The controllable merge against the paper's loop and against all lists there are; scores and weights are
multiples of 1/4, so that both sides add up without rounding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.evaluation.diversity_curve import category_diversity
from raysys.retrieval.candidates import Candidates, merge_top_k
from raysys.retrieval.diversity import category_places, diversify, is_settled
from tests.reference.diversity import diversity, greedy, value

ITEMS = 14
rows = st.lists(
    st.dictionaries(st.integers(2, ITEMS - 1), st.integers(-12, 12).map(lambda n: n / 4), max_size=12),
    min_size=1,
    max_size=4,
)
categories = st.lists(st.integers(0, 4), min_size=ITEMS, max_size=ITEMS)
weights = st.integers(0, 12).map(lambda n: n / 4)
caps = st.none() | st.integers(1, 4)


def as_candidates(found: list[dict[int, float]], width: int) -> Candidates:
    item_idx, score = np.full((len(found), width), -1), np.full((len(found), width), -np.inf, np.float32)
    for query, row in enumerate(found):
        item_idx[query, : len(row)], score[query, : len(row)] = list(row), list(row.values())
    return merge_top_k(Candidates(item_idx, score), width)


def items_of(answer: Candidates, query: int) -> list[int]:
    return [item for item in answer.item_idx[query].tolist() if item >= 0]


@given(rows, categories, weights, st.integers(1, 8), caps)
@settings(max_examples=100)
def test_lists_equal_the_loop_of_the_paper(found, category, weight, k, cap):
    depth = as_candidates(found, 12)
    chosen = diversify(depth, np.array(category), k, weight, cap)
    for query, row in enumerate(found):
        assert items_of(chosen, query) == greedy(list(row.items()), category, k, weight, cap)
        if cap is not None:
            held = np.bincount([category[item] for item in items_of(chosen, query)] or [0])
            assert not items_of(chosen, query) or held.max() <= cap
    assert (np.diff(np.where(np.isinf(chosen.score), -1e9, chosen.score), axis=1) <= 0).all()


@given(rows, categories, weights, st.integers(1, 4), caps)
@settings(max_examples=40)
def test_no_other_list_is_worth_more(found, category, weight, k, cap):
    chosen = diversify(as_candidates(found, 12), np.array(category), k, weight, cap)
    for query, row in enumerate(found):
        mine = items_of(chosen, query)
        others = [
            value(items, row, category, weight)
            for items in itertools.combinations(row, len(mine))
            if cap is None or max(np.bincount([category[i] for i in items] or [0])) <= cap or not items
        ]
        assert value(mine, row, category, weight) == max(others)


@given(rows, categories, st.integers(1, 8))
def test_weight_0_gives_the_top_k_and_variety_rises_with_the_weight(found, category, k):
    depth, by_item = as_candidates(found, 12), np.array(category)
    plain = diversify(depth, by_item, k, 0.0)
    np.testing.assert_array_equal(plain.item_idx, depth.top(k).item_idx)
    np.testing.assert_array_equal(plain.score, depth.top(k).score)
    for query, row in enumerate(found):
        lists = [items_of(diversify(depth, by_item, k, w), query) for w in (0.0, 0.25, 1.0, 3.0, 100.0)]
        shares = [diversity(items, category) for items in lists]
        kept = [sum(row[item] for item in items) for items in lists]
        assert np.isnan(shares).all() or shares == sorted(shares)
        assert kept == sorted(kept, reverse=True)


@given(rows, categories, weights, st.integers(1, 6), caps, st.integers(6, 12))
def test_a_settled_list_is_that_of_any_deeper_search(found, category, weight, k, cap, depth):
    whole, by_item = as_candidates(found, 13), np.array(category)
    chosen, deepest = (diversify(c, by_item, k, weight, cap) for c in (whole.top(depth), whole))
    settled = is_settled(whole.top(depth), chosen)
    np.testing.assert_array_equal(chosen.item_idx[settled], deepest.item_idx[settled])
    assert is_settled(whole, deepest).all()


@given(rows, categories, st.integers(1, 12))
def test_places_and_diversity_equal_loops(found, category, k):
    depth = as_candidates(found, 12)
    places = category_places(depth, np.array(category))
    shares = category_diversity(depth, np.array(category), k)
    for query in range(len(found)):
        items = items_of(depth, query)
        expected = [sum(category[j] == category[i] for j in items[:n]) for n, i in enumerate(items)]
        assert places[query, : len(items)].tolist() == expected
        assert shares[query] == pytest.approx(diversity(items[:k], category), nan_ok=True, abs=1e-12)
