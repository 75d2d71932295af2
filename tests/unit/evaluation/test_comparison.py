"""The report of several runs, and which of them may be compared."""

from typing import Any

import pytest

from raysys.evaluation.comparison import compare
from raysys.evaluation.findings import (
    Measured,
    slice_table,
)
from raysys.evaluation.report import short_names
from raysys.evaluation.sections import Run
from tests.unit.evaluation.pages import Page, build
from tests.unit.evaluation.sample_runs import finished_run


def run_of(name: str, value: float, interval: list[float] | None, **protocol: Any) -> Run:
    table = {
        "model": name,
        "metrics": {"mrr": value},
        "intervals": {"mrr": interval} if interval else {},
        "protocol": protocol,
        "baselines": {"popular": {"mrr": 0.05}},
    }
    return Run(name, name, Measured.from_table(table, name))


def test_runs_of_one_protocol_share_a_table_best_first():
    (found,) = compare([run_of("a", 0.1, [0.09, 0.11], queries=5), run_of("b", 0.2, [0.19, 0.21], queries=5)])
    assert [row[0].text for row in found.table.rows] == ["b", "a", "popular"]
    assert [row[1].strong for row in found.table.rows] == [True, False, False]
    assert "b is best on mrr with 0.2000, then a with 0.1000. Their intervals do not overlap" in found.lead


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((0.2, [0.1, 0.3]), (0.1, [0.05, 0.15]), "Their intervals overlap, so the order may be chance."),
        ((0.2, None), (0.1, [0.05, 0.15]), "Without intervals"),
        ((0.2, [0.1, 0.3]), (0.2, [0.1, 0.3]), "a and b have the same mrr, 0.2000."),
    ],
)
def test_the_order_of_runs_is_only_as_sure_as_the_intervals(first, second, words):
    (found,) = compare([run_of("a", *first), run_of("b", *second)])
    assert words in found.lead


def test_runs_of_other_protocols_are_listed_apart_with_the_reason():
    runs = [
        run_of("a", 0.1, None, queries=5, candidates=1000),
        run_of("b", 0.9, None, queries=5, candidates=100),
        run_of("c", 0.2, None, queries=5, candidates=1000),
    ]
    first, second = compare(runs)
    assert [row[0].text for row in first.table.rows] == ["c", "a", "popular"]
    assert [row[0].text for row in second.table.rows] == ["b", "popular"]
    assert "because the protocol differs: candidates is 100, not 1,000" in second.lead


def test_models_that_look_back_differently_far_share_a_table():
    runs = [run_of(name, 0.1, None, queries=5, history_length=reach) for name, reach in (("a", 50), ("b", 9))]
    (found,) = compare(runs)
    assert len(found.table.rows) == 3


def test_one_run_is_not_compared():
    assert compare([run_of("a", 0.1, None)]) == []


def test_the_reports_of_several_runs_hold_comparison_and_each_run(tmp_path):
    runs = [finished_run(tmp_path / "mind"), finished_run(tmp_path / "sdm", "sdm", 1.3, 4)]
    html, markdown = build(tmp_path, *runs)
    for found in (Page(html).text, markdown):
        assert "Runs side by side" in found
        assert "sdm is best on hit_rate@10 with 0.2384, then mind with 0.1834." in found
    assert "## sdm: Learning curve" in markdown
    assert html.count("<svg") == 7


def test_names_of_runs_are_the_shortest_that_differ():
    assert short_names(["/x/mind", "/x/sdm"]) == ["mind", "sdm"]
    assert short_names(["/x/a/mind", "s3://b/mind", "/x/sdm"]) == ["a/mind", "b/mind", "x/sdm"]
    assert short_names(["s3://b//mind", "s3://b/mind"]) == ["s3://b//mind", "s3://b/mind"]


def test_recall_of_single_targets_is_told_once():
    rows = {
        "a": {"users": 3, "hit_rate@10": 0.5, "recall@10": 0.5, "recall@50": 0.7, "hit_rate@50": 0.8},
        "b": {"users": 4, "hit_rate@10": 0.25, "recall@10": 0.25, "recall@50": 0.7, "hit_rate@50": 0.7},
    }
    head = slice_table("Slices", rows).head
    assert head == ["slice", "users", "hit_rate@10", "recall@50", "hit_rate@50"]
