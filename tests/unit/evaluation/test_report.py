"""The whole report of made-up runs; oracles are the numbers and names of the sample."""

import json
import re

import pytest

from raysys.errors import ConfigError, DataError, ManifestError
from raysys.evaluation.report import build_report, read_finished
from raysys.storage import Folder
from tests.unit.evaluation.pages import Page, build, edit
from tests.unit.evaluation.sample_runs import ITEMS, finished_run


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
