"""The verdict: who is ahead and how sure that is; oracles are verdicts worked by hand."""

import pytest

from raysys.evaluation.comparison import compare
from raysys.evaluation.findings import (
    Measured,
)
from raysys.evaluation.sections import Run
from raysys.evaluation.verdict import judge
from tests.unit.evaluation.pages import measured


@pytest.mark.parametrize(
    ("value", "interval", "popular", "tone", "words"),
    [
        (
            0.2,
            [0.18, 0.22],
            0.1,
            "better",
            "m beats popular on ndcg@10: 0.2000 against 0.1000, 2.00 times its value.",
        ),
        (
            0.11,
            [0.09, 0.13],
            0.1,
            "unsure",
            "m is ahead of popular on ndcg@10: 0.1100 against 0.1000, 1.10 times its value, but not surely.",
        ),
        (
            0.05,
            [0.04, 0.06],
            0.1,
            "worse",
            "m falls short of popular on ndcg@10: 0.0500 against 0.1000, 0.50 times its value.",
        ),
        (
            0.09,
            [0.07, 0.11],
            0.1,
            "unsure",
            "m is behind popular on ndcg@10: 0.0900 against 0.1000, 0.90 times its value, but not surely.",
        ),
        (0.1, [0.08, 0.12], 0.1, "unsure", "m equals popular on ndcg@10: 0.1000 against 0.1000."),
        (0.1, [0.08, 0.12], 0.0, "better", "m beats popular on ndcg@10: 0.1000 against 0.0000."),
        (
            0.2,
            None,
            0.1,
            "unsure",
            "m is ahead of popular on ndcg@10: 0.2000 against 0.1000, 2.00 times its value, but not surely.",
        ),
    ],
)
def test_the_verdict_says_who_is_ahead_and_how_sure(value, interval, popular, tone, words):
    verdict = judge("m", measured(value, interval, popular=popular, random=0.001))
    assert (verdict.tone, verdict.headline) == (tone, words)


def test_the_verdict_explains_what_makes_it_sure():
    sure = judge("mind", measured(0.2, [0.18, 0.22], popular=0.1)).sentences[0]
    assert "over 100 queries, 0.1800 to 0.2200, lies wholly above the 0.1000 of popular" in sure
    unsure = judge("mind", measured(0.11, [0.09, 0.13], popular=0.1)).sentences[0]
    assert "contains the 0.1000 of popular; the difference may be chance" in unsure
    nothing = judge("mind", measured(0.2, None, popular=0.1)).sentences[0]
    assert "no interval" in nothing


def test_a_stronger_baseline_than_popular_is_not_kept_quiet():
    told = judge("mind", measured(0.2, [0.18, 0.22], popular=0.1, item_cf=0.3)).sentences
    assert "The strongest baseline on ndcg@10 is item_cf with 0.3000; mind is below it." in told
    assert not any("strongest" in text for text in judge("m", measured(0.2, None, popular=0.1)).sentences)


def test_without_popular_the_strongest_baseline_counts():
    assert "beats item_cf" in judge("m", measured(0.2, [0.18, 0.22], random=0.0, item_cf=0.1)).headline


def test_a_run_is_not_compared_with_itself_and_may_have_no_baseline():
    alone = judge("mind", measured(0.2, [0.1, 0.3], mind=0.2))
    assert alone.tone == "none"
    assert "no baseline" in alone.headline


def test_the_headline_metric_is_the_first_with_an_interval():
    table = {
        "model": "m",
        "metrics": {"coverage@10": 0.5, "mrr": 0.1, "ndcg@10": 0.2},
        "intervals": {"mrr": [0, 1], "ndcg@10": [0, 1]},
    }
    assert Measured.from_table(table, "x").headline == "mrr"
    assert Measured.from_table({**table, "intervals": {}}, "x").headline == "coverage@10"


def test_metrics_that_are_neither_better_nor_worse_decide_nothing():
    table = {
        "model": "mind",
        "metrics": {"novelty@10": 9.0, "mrr": 0.2, "gini@10": 0.9, "recall@10": 0.3},
        "intervals": {"novelty@10": [8.9, 9.1], "mrr": [0.19, 0.21], "recall@10": [0.29, 0.31]},
        "baselines": {"popular": {"novelty@10": 7.0, "mrr": 0.1, "gini@10": 0.99, "recall@10": 0.1}},
    }
    measures = Measured.from_table(table, "mind")
    assert measures.headline == "mrr"
    assert any("above popular on 2 of 2" in text for text in judge("mind", measures).sentences)
    (found,) = compare([Run("a", "a", measures), Run("b", "b", measures)])
    marked = [key for key, cell in zip(found.table.head, found.table.rows[0], strict=True) if cell.strong]
    assert marked == ["mrr", "recall@10"]


def test_all_metrics_are_counted_once():
    table = {
        "model": "m",
        "metrics": {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.3},
        "intervals": {"a": [0.25, 0.35], "b": [0.1, 0.4], "c": [0.2, 0.35]},
        "baselines": {"popular": {"a": 0.2, "b": 0.2, "c": 0.4}},
    }
    told = judge("m", Measured.from_table(table, "x")).sentences
    assert "All metrics: above popular on 2 of 3, on 1 of them by more than the interval, below on c." in told
