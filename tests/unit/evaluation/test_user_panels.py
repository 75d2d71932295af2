"""Users as the report shows them: behaviours, interests and answers."""

from typing import Any

import pytest

from raysys.errors import DataError
from raysys.evaluation.user_panels import show_user
from tests.unit.evaluation.pages import Page, build, edit
from tests.unit.evaluation.sample_runs import finished_run


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
