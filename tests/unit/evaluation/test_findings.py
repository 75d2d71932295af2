"""Tables and words of a report."""

import pytest

from raysys.evaluation.findings import (
    metric_table,
    number,
    plural,
    ratio,
    slice_sentence,
    slice_table,
    standing,
)
from raysys.evaluation.report import read_finished
from raysys.evaluation.sections import sections, shareable
from raysys.storage import Folder
from tests.unit.evaluation.pages import measured
from tests.unit.evaluation.sample_runs import finished_run


def test_standing_at_the_ends_of_the_interval_is_unsure():
    assert standing(0.2, (0.1, 0.3), 0.1) == "above?"
    assert standing(0.2, (0.11, 0.3), 0.1) == "above"
    assert standing(0.2, (0.1, 0.3), 0.3) == "below?"
    assert standing(0.2, (0.1, 0.3), None) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.12345, "0.1235"),
        (512.34, "512.3"),
        (51234.5, "51,234"),
        ("x", "x"),
        ("", "–"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_words_for_counts_and_ratios():
    assert (plural(1, "query", "queries"), plural(2, "query", "queries"), plural(0, "row")) == (
        "1 query",
        "2 queries",
        "0 rows",
    )
    assert (ratio(0.2, 0.1), ratio(0.2, 0.0), ratio(0.2, None)) == ("2.00×", "–", "–")


def test_popular_is_the_first_baseline_of_the_table():
    table = metric_table(measured(0.2, [0.18, 0.22], random=0.01, item_cf=0.15, popular=0.1))
    assert table.head == [
        "metric",
        "mind",
        "95 % interval",
        "popular",
        "item_cf",
        "random",
        "ratio to popular",
        "standing",
    ]
    assert [cell.text for cell in table.rows[0]] == [
        "ndcg@10",
        "0.2000",
        "0.1800 to 0.2200",
        "0.1000",
        "0.1500",
        "0.0100",
        "2.00×",
        "above",
    ]
    assert len(metric_table(measured(0.2, None)).head) == len(metric_table(measured(0.2, None)).rows[0]) == 3


def test_slices_put_counts_first_and_scale_bars_within_a_column():
    buckets = {"few": {"ndcg@10": 0.1, "users": 9}, "many": {"ndcg@10": 0.4, "users": 90, "extra": 0.2}}
    table = slice_table("t", buckets)
    assert table.head == ["slice", "users", "ndcg@10", "extra"]
    assert [[cell.bar for cell in row] for row in table.rows] == [
        [None, None, 0.25, None],
        [None, None, 1.0, 1.0],
    ]
    assert slice_sentence("t", buckets, "ndcg@10") == (
        "t: ndcg@10 is highest for many (0.4000) and lowest for few (0.1000). "
        "A slice of fewer than 30 says little."
    )
    assert slice_sentence("t", buckets, "mrr") == ""


def test_baselines_stand_beside_the_slices(tmp_path):
    theirs = {"popular": {"user_activity": {"20 to 49": {"users": 902, "hit_rate@10": 0.0777}}}}
    run = finished_run(tmp_path / "mind", baseline_slices=theirs)
    told = next(
        each for each in sections(read_finished(Folder(run), "mind", "run-1")) if each.title == "Slices"
    )
    assert told.lead.startswith(
        "The same metrics over parts of the queries, and hit_rate@10 of the baselines"
    )
    by_activity, by_popularity = told.tables
    assert by_activity.head[-1] == "hit_rate@10 of popular"
    assert [row[-1].text for row in by_activity.rows] == ["–", "0.0777", "–"]
    assert "hit_rate@10 of popular" not in by_popularity.head


def test_secrets_and_local_folders_are_left_out():
    assert shareable('events = "s3://key:secret@shop/log"') == 'events = "s3://shop/log"'
    assert shareable('events = ["/folder/of/mine/a.csv", "/b.csv"]') == 'events = ["…/a.csv", "…/b.csv"]'
    assert shareable('events = "s3://shop/a@b"') == 'events = "s3://shop/a@b"'
