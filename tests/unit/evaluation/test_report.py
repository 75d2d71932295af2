"""The report of made-up runs; oracles are the numbers and names of the sample, and hand-worked verdicts."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raysys.errors import ConfigError, DataError, ManifestError
from raysys.evaluation import data_page
from raysys.evaluation.comparison import compare
from raysys.evaluation.data_summary import data_summary
from raysys.evaluation.findings import (
    Measured,
    metric_table,
    number,
    plural,
    ratio,
    slice_sentence,
    slice_table,
    standing,
)
from raysys.evaluation.histograms import short
from raysys.evaluation.report import build_report, read_finished, short_names
from raysys.evaluation.sections import Run, sections, shareable
from raysys.evaluation.user_panels import show_user
from raysys.evaluation.verdict import judge
from raysys.storage import Folder
from tests.unit.evaluation.sample_runs import ITEMS, finished_run, with_profile

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}


class Page(HTMLParser):
    """The text, the ids, the tags and the unclosed tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.tags, self.open = (
            "",
            list[str](),
            list[str](),
            set[str](),
            list[str](),
        )
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def build(folder: Path, *runs: Path) -> tuple[str, str]:
    """Return the HTML and the Markdown report."""
    build_report([Folder(run) for run in runs], Folder(folder / "out"))
    return tuple((folder / "out" / name).read_text() for name in ("report.html", "report.md"))  # type: ignore[return-value]


def measured(value: float, interval: list[float] | None, **baselines: float) -> Measured:
    table: dict[str, Any] = {
        "model": "mind",
        "metrics": {"ndcg@10": value},
        "intervals": {"ndcg@10": interval} if interval else {},
        "baselines": {name: {"ndcg@10": base} for name, base in baselines.items()},
        "protocol": {"queries": 100},
    }
    return Measured.from_table(table, "here")


def edit(run: Path, name: str, **changes: Any) -> Path:
    """Replace keys of a JSON file of a run."""
    table = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps({**table, **changes}))
    return run


# The verdict


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


# Tables and words


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
    assert shareable('events = ["/home/me/a.csv", "/b.csv"]') == 'events = ["…/a.csv", "…/b.csv"]'
    assert shareable('events = "s3://shop/a@b"') == 'events = "s3://shop/a@b"'


# Users


def user(**changes: Any) -> dict[str, Any]:
    return {
        "user_id": "7",
        "history": [
            {"item_id": "1", "title": "Milk", "at": 86400},
            {"item_id": "2", "title": "", "at": None},
        ],
        "couplings": [[0.9, 0.1], [0.2, 0.8]],
        "active": [True, False],
        "interests": [[{"item_id": "3", "title": "Tea", "score": 0.5}], []],
        "recommendations": [{"item_id": "3", "title": "Tea", "score": 0.5, "hit": True}],
        "targets": [
            {"item_id": "3", "title": "Tea", "rank": 1},
            {"item_id": "4", "title": "Rice", "rank": None},
        ],
        **changes,
    }


def test_a_user_is_shown_with_behaviours_interests_and_targets():
    shown = show_user(user(), "here")
    assert shown.title == "User 7"
    assert shown.summary == "2 behaviours, 1 active interest; 1 of 2 targets found, best at rank 1"
    assert shown.heat_map.interests == [("Interest 1", True), ("Interest 2", False)]
    assert [(day, item.text, item.detail) for day, item, _ in shown.heat_map.rows] == [
        ("1970-01-02", "Milk", "1"),
        ("", "2", ""),
    ]
    assert shown.heat_map.scale == 1.0
    assert [table.title for table in shown.interests] == ["Interest 1", "Interest 2 (inactive)"]
    assert [cell.text for cell in shown.answers[0].rows[0]] == ["1", "Tea", "0.5000", "✓ hit"]
    assert [[cell.text for cell in row] for row in shown.answers[1].rows] == [
        ["Tea", "1"],
        ["Rice", "not found"],
    ]


def test_weights_that_are_no_shares_are_shaded_up_to_the_largest():
    assert show_user(user(couplings=[[0.02, 0.01], [0.04, 0.0]]), "here").heat_map.scale == 0.04
    assert show_user(user(couplings=[[0.0, 0.0], [0.0, 0.0]]), "here").heat_map.scale == 1.0


def test_a_model_without_interests_shows_history_and_answers():
    shown = show_user(user(couplings=None, active=None, interests=None), "here")
    assert shown.heat_map.interests == shown.interests == []
    assert [weights for _, _, weights in shown.heat_map.rows] == [[], []]
    assert shown.summary == "2 behaviours; 1 of 2 targets found, best at rank 1"


def test_one_vector_is_not_shown_as_an_interest(tmp_path):
    one = user(
        couplings=[[1.0], [1.0]], active=[True], interests=[[{"item_id": "3", "title": "Tea", "score": 0.5}]]
    )
    for changes in ({}, {"couplings": None}):
        shown = show_user({**one, **changes}, "here")
        assert shown.heat_map.interests == shown.interests == []
        assert [weights for _, _, weights in shown.heat_map.rows] == [[], []]
        assert "interest" not in shown.summary
    run = edit(finished_run(tmp_path / "sdm"), "evaluation/users.json", users=[one])
    text = Page(build(tmp_path, run)[0]).text
    assert "which interest" not in text
    assert "What each interest retrieves" not in text


@pytest.mark.parametrize("couplings", [[[0.5, 0.5]], [[0.5, 0.5], [1.0]]])
def test_couplings_that_do_not_fit_are_refused(couplings):
    with pytest.raises(DataError, match=r"here: user 7 has 2 behaviours"):
        show_user(user(couplings=couplings), "here")


# The whole report


def test_the_page_is_well_formed_and_complete_in_itself(tmp_path):
    html, _ = build(tmp_path, finished_run(tmp_path / "mind"), finished_run(tmp_path / "sdm", "sdm", 1.3, 4))
    page = Page(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert not page.tags & {"script", "img", "link", "iframe", "object"}
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html.replace("url(#", "")
    assert "Content-Security-Policy" in html


def test_the_page_opens_with_the_verdict(tmp_path):
    html, markdown = build(tmp_path, finished_run(tmp_path / "mind"))
    words = "mind beats popular on hit_rate@10: 0.1834 against 0.1121, 1.64 times its value."
    body = html[html.index("<main") :]
    assert body.index(words) < body.index("Metrics and baselines")
    assert markdown.splitlines()[2:5] == ["## Verdict: mind", "", f"**{words}**"]


def test_both_reports_hold_what_the_run_recorded(tmp_path):
    html, markdown = build(tmp_path, finished_run(tmp_path / "mind"))
    text = Page(html).text
    for found in (text, markdown):
        for expected in (
            "0.1692 to 0.1976",
            "44.31×",
            "Training ran for 12 epochs; it stopped because the validation metric no longer rose.",
            "is 9 with valid/ndcg@10 = 0.0720",
            "hit_rate@10 is highest for 50 and more (0.2384)",
            "User 109",
            "not found",
            "No sign of collapse",
            "The index finds 100.00% of the first 50",
            "647 of 199,884 rows of the log were rejected (0.32%).",
            "history_length",
            "1f2e3d4c5b6a7988",
            "num_interests = 4",
            "s3://shop/log.parquet",
        ):
            assert expected in found, expected
        assert "secret" not in found
    for _, title in ITEMS:
        assert title in text


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = finished_run(tmp_path / "mind")
    assert build(tmp_path, run) == build(tmp_path, run)


def test_names_from_the_data_cannot_become_markup(tmp_path):
    evil = "</td><script>alert(1)</script>|`*_x_*[a](javascript:b)\n# c"
    run = finished_run(tmp_path / "mind")
    users = json.loads((run / "evaluation/users.json").read_text())["users"]
    users[0]["history"][0]["title"] = users[0]["recommendations"][0]["title"] = evil
    users[0]["user_id"] = "<b>1</b>"
    html, markdown = build(tmp_path, edit(run, "evaluation/users.json", users=users))
    page = Page(html)
    assert "script" not in page.tags
    assert evil in page.text
    assert "User <b>1</b>" in page.text
    assert "<" not in markdown
    row = next(line for line in markdown.splitlines() if "alert" in line)
    assert "\\|\\`\\*\\_x\\_\\*\\[a\\](javascript:b) \\# c" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_a_run_without_an_evaluation_is_named(tmp_path):
    good, bad = finished_run(tmp_path / "good"), finished_run(tmp_path / "bad")
    (bad / "evaluation/metrics.json").unlink()
    with pytest.raises(ManifestError, match=r"bad: no finished evaluation; run jobs/evaluate\.py"):
        build(tmp_path, good, bad)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", ['{"model": "mind", "metrics": {}}', '{"metrics": {"mrr": 0.1}}', "[1]", "{"]
)
def test_an_evaluation_without_metrics_is_refused(tmp_path, content):
    run = finished_run(tmp_path / "mind")
    (run / "evaluation/metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json"):
        read_finished(Folder(run), "mind", "run-1")


def test_no_run_and_a_run_named_twice_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no runs"):
        build_report([], Folder(tmp_path))
    run = finished_run(tmp_path / "mind")
    with pytest.raises(ConfigError, match="twice"):
        build(tmp_path, run, run)


def test_missing_files_and_keys_are_said_and_not_fatal(tmp_path):
    run = finished_run(tmp_path / "mind")
    for name in (
        "evaluation/users.json",
        "checkpoint/state.json",
        "checkpoint/run.toml",
        "features/manifest.json",
    ):
        (run / name).unlink()
    (run / "evaluation/metrics.json").write_text('{"model": "popular", "metrics": {"mrr": 0.1}}')
    html, markdown = build(tmp_path, run)
    for found in (Page(html).text, markdown):
        for expected in (
            "no evaluation/users.json",
            "no checkpoint/run.toml",
            "no features/manifest.json",
            "recorded no slices",
            "no index",
            "no baseline to compare it with",
        ):
            assert expected in found, expected
        for left_out in ("Learning curve", "Interest health", "What each interest retrieves"):
            assert left_out not in found, left_out
    assert Page(html).open == []


def test_empty_parts_are_said(tmp_path):
    run = finished_run(
        tmp_path / "mind", intervals={}, baselines={}, interests={"wins": None, "active_mean": None}
    )
    edit(run, "evaluation/users.json", users=[])
    edit(run, "checkpoint/state.json", curve=[], best_epoch=-1)
    edit(run, "features/manifest.json", info={"rows": 10, "rejected": {}, "dropped": {}})
    text = Page(build(tmp_path, run)[0]).text
    for expected in (
        "No user is shown",
        "No epoch was finished",
        "No row of the log was rejected",
    ):
        assert expected in text
    assert "Interest health" not in text


def test_collapsed_interests_are_warned_about(tmp_path):
    health = {
        "active_mean": 4.0,
        "pairwise_cosine_mean": 0.99,
        "routing_entropy_mean": 0.5,
        "wins": [0.97, 0.01, 0.01, 0.01],
    }
    html, markdown = build(tmp_path, finished_run(tmp_path / "mind", interests=health))
    for found in (Page(html).text, markdown):
        assert "Warning: 2 signs of collapsed interests, see Interest health." in found
        assert "Warning: the interests show 2 signs of collapse." in found
        assert "Interests of a user point the same way (mean cosine 0.990)." in found
        assert "Interest 1 finds the first item of 97% of the users" in found
        assert "a finite model.label_power" in found


def test_what_each_interest_adds_is_told(tmp_path):
    html, markdown = build(tmp_path, finished_run(tmp_path / "mind"))
    for found in (Page(html).text, markdown):
        assert (
            "recall@10 is 0.0305 with each user's largest interest alone, 0.0377 with 2, 0.0402 with 3, "
            "0.0421 with 4. The interests after the first add 0.0116, 28% of the whole."
        ) in found
        assert "What each interest adds, those with most behaviours first, 2,214 users" in found
    assert "| interests that answer | recall@10 | gained | hit_rate@10 |" in markdown
    assert "| 1 largest | 0.0305 | – | 0.1312 |" in markdown
    assert "| 3 largest | 0.0402 | +0.0025 | 0.1621 |" in markdown
    assert "| all 4 | 0.0421 | +0.0019 | 0.1834 |" in markdown


def test_one_target_and_no_gain_are_told(tmp_path):
    values = [0.05, 0.06, 0.05]
    health = {"active_mean": 3.0, "pairwise_cosine_mean": 0.4, "routing_entropy_mean": 0.5}
    health |= {"wins": [0.4, 0.4, 0.2], "users": 9, "cutoff": 5}
    health |= {"recall_by_interests": values, "hit_rate_by_interests": values}
    _, markdown = build(tmp_path, finished_run(tmp_path / "mind", interests=health))
    assert "The interests after the first add nothing; try model.num_interests = 1" in markdown
    assert "| interests that answer | recall@5 | gained |\n" in markdown
    assert "| all 3 | 0.0500 | −0.0100 |" in markdown


def test_a_run_measured_before_the_gains_were_is_shown(tmp_path):
    health = {
        "active_mean": 3.4,
        "pairwise_cosine_mean": 0.2,
        "routing_entropy_mean": 0.6,
        "wins": [0.7, 0.3],
    }
    run = finished_run(tmp_path / "mind", interests=health)
    curve = [{"epoch": 1, "train/loss": 7.0, "valid/ndcg@10": 0.1}]
    edit(run, "checkpoint/state.json", curve=curve, best_epoch=0)
    text = Page(build(tmp_path, run)[0]).text
    assert "No sign of collapse" in text
    for missing in ("What each interest adds", "Interest health of every epoch", "alarm"):
        assert missing not in text


def test_the_health_of_every_epoch_is_drawn_apart_from_the_metrics(tmp_path):
    html, markdown = build(tmp_path, finished_run(tmp_path / "mind"))
    assert "health/" not in html
    assert "Interest health at every validation. At the end: cosine" in html
    assert "| epoch | active | pairwise_cosine | routing_entropy | wins_1 |" in markdown
    assert (
        "The alarm was heard while training: after epoch 1 it said: interests of a user point the same way "
        "(mean cosine 0.994), then after epoch 2 it was over."
    ) in markdown


def test_one_interest_cannot_collapse(tmp_path):
    health = {"active_mean": 1.0, "pairwise_cosine_mean": None, "routing_entropy_mean": None, "wins": [1.0]}
    text = Page(build(tmp_path, finished_run(tmp_path / "mind", interests=health))[0]).text
    assert "one interest for each user, which cannot collapse" in text


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ("", "every planned epoch was run"),
        ("max_minutes", "training.max_minutes was reached"),
        ("other", "because of: other"),
    ],
)
def test_the_curve_says_why_it_ends(tmp_path, stopped, words):
    run = edit(finished_run(tmp_path / "mind"), "checkpoint/state.json", stopped=stopped, best_epoch=-1)
    text = Page(build(tmp_path, run)[0]).text
    assert words in text
    assert "The best epoch" not in text


def test_the_curve_shows_the_metric_that_chose_the_epoch(tmp_path):
    run = finished_run(tmp_path / "mind")
    assert "with valid/ndcg@10 = 0.0720" in build(tmp_path, run)[1]
    (run / "checkpoint/run.toml").write_text('[training]\nmetric = "hit_rate@10"\n')
    assert "with valid/hit_rate@10 = 0.1900" in build(tmp_path, run)[1]
    (run / "checkpoint/run.toml").unlink()
    assert "with valid/ndcg@10 = 0.0720" in build(tmp_path, run)[1]


def test_a_target_of_an_object_store_scheme_is_returned_as_uri(tmp_path):
    run = finished_run(tmp_path / "mind")
    target = f"file://{tmp_path}/out"
    assert build_report([Folder(f"file://{run}")], Folder(target)) == f"{target}/report.html"
    assert (tmp_path / "out/report.md").exists()


# The data


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


# Several runs


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
