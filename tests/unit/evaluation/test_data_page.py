"""The page of the data, and its summary for a terminal."""

import json

import pytest

from raysys.evaluation import data_page
from raysys.evaluation.data_summary import data_summary
from raysys.evaluation.histograms import short
from raysys.storage import Folder
from tests.unit.evaluation.pages import Page, build, edit
from tests.unit.evaluation.sample_runs import finished_run, with_profile


def test_the_data_page_tells_mistakes_with_remedies_before_its_figures(tmp_path):
    mistakes = [
        {"code": "a", "text": "One user <b>has</b> all.", "remedy": "Take it out."},
        {"code": "b", "text": "Times tie.", "remedy": "Set data.columns.order."},
    ]
    html, markdown = build(tmp_path, with_profile(finished_run(tmp_path / "mind"), *mistakes))
    page = Page(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    data = html[html.index('id="run-1-data"') : html.index('id="run-1-origin"')]
    assert data.count("<svg") == 8
    assert (
        data.index("2 things may be mistakes, the gravest first:")
        < data.index("Times tie.")
        < data.index("<svg")
    )
    assert "One user &lt;b&gt;has&lt;/b&gt; all." in data
    assert "- **Times tie.** Set data.columns.order." in markdown
    for found in (page.text, markdown):
        for expected in (
            "647 of 199,884 rows",
            "Rejected rows",
            "Events per user",
            "Distinct items per user",
            "targets of test",
            "users of valid",
            "store",
            "(none)",
            "within session.gap_s = 600",
            "leave_one_out",
        ):
            assert expected in found, expected
    for title in (
        "Users by number of events",
        "Gaps between a user's neighbouring events",
        "session gap",
        "Sun",
    ):
        assert title in page.text, title
    assert "Users by number of events: least 1, median" in data


def test_a_log_without_mistakes_or_a_session_gap(tmp_path):
    run = with_profile(finished_run(tmp_path / "mind"), by_column=True)
    html, _ = build(tmp_path, run)
    assert "Nothing in the log looks like a mistake." in html
    assert "session gap" not in html
    table = json.loads((run / "features/profile.json").read_text())
    table["gaps"]["histogram"] = {"from": [0], "count": [3]}
    edit(run, "features/profile.json", gaps=table["gaps"], event_types={}, features={},
         likely_mistakes=[{"code": "a", "text": "T.", "remedy": "R."}])  # fmt: skip
    html, _ = build(tmp_path, run)
    assert "One thing may be a mistake:" in html
    assert "Gaps between" not in html
    assert "Event types" not in html
    assert "Event features" not in html


@pytest.mark.parametrize(("unit", "begin", "label"), [
    ("day", "2020-02-28", "2020-03-01"),
    ("week", "2020-02-24", "2020-03-09"),
    ("month", "2019-12", "2020-02"),
])  # fmt: skip
def test_time_is_labelled_by_its_unit(unit, begin, label):
    chart = data_page.over_time({"unit": unit, "begin": begin, "events": [1] * 8})
    assert chart.title == f"Events per {unit}"
    assert [place for place, _ in chart.ticks] == [0, 2, 4, 6]
    assert chart.ticks[1][1] == label


def test_counts_on_an_axis_are_short():
    assert [short(value) for value in (0, 950, 1000, 1500, 16_000, 131_072, 2e6, 1.2e9)] == [
        "0", "950", "1k", "1.5k", "16k", "131k", "2M", "1.2G"
    ]  # fmt: skip


def test_the_summary_of_the_terminal_counts_from_rows_to_queries(tmp_path):
    mistake = {"code": "b", "text": "Times tie. " * 12, "remedy": "Set data.columns.order."}
    run = with_profile(finished_run(tmp_path / "mind"), mistake)
    told = data_summary(Folder(run / "features"))
    lines = told.splitlines()
    assert lines[0] == "rows read         199,884"
    assert "- rejected            647  each with file and row in features/rejected/" in lines
    assert "    duplicate         612  0.31% of the rows" in lines
    assert "= events          187,402" in lines
    assert "1. Times tie. Times tie." in told
    assert "   -> Set data.columns.order." in lines
    assert max(map(len, lines)) <= 100
    assert "none found" in data_summary(Folder(with_profile(run) / "features"))
    (run / "features/profile.json").unlink()
    assert data_summary(Folder(run / "features")) == ""
