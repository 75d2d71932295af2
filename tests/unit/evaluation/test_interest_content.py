"""What interests retrieve: counts against plain loops, shares worked by hand, parts that add up to the whole,
and what the report says of few and of many interests."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from raysys.errors import RetrievalError
from raysys.evaluation.interest_content import InterestContent, category_shares
from raysys.evaluation.interest_page import SHOWN, figures, gains_shown, lead, shown_interests, tables
from raysys.evaluation.report import build_report
from raysys.evaluation.user_panels import show_user
from raysys.retrieval.candidates import Candidates
from raysys.storage import Folder
from tests.unit.evaluation.sample_runs import finished_run


def block(users: int, interests: int, cutoff: int, seed: int) -> tuple[np.ndarray, Candidates]:
    """Return active interests and their lists of items 2 to 19, missing where inactive."""
    draw = np.random.default_rng(seed)
    active = draw.random((users, interests)) < 0.7
    item_idx = np.argsort(draw.random((users * interests, 18)), axis=1)[:, :cutoff] + 2
    item_idx[~active.ravel()] = -1
    score = np.where(item_idx < 0, -np.inf, -np.arange(cutoff)).astype(np.float32)
    return active, Candidates(item_idx, score)


def test_counts_equal_plain_loops():
    active, alone = block(40, 3, 4, seed=1)
    content = InterestContent.of(active, alone)
    for interest in range(3):
        wanted: Counter[int] = Counter()
        for user in range(40):
            wanted.update(int(item) for item in alone.item_idx[3 * user + interest] if item >= 0)
        items, counts = content.of_interest(interest)
        assert dict(zip(items.tolist(), counts.tolist(), strict=True)) == wanted
        assert counts.tolist() == sorted(counts.tolist(), reverse=True)
        assert content.users[interest] == active[:, interest].sum()


def test_parts_add_up_to_exactly_the_whole():
    active, alone = block(40, 3, 4, seed=2)
    whole = InterestContent.of(active, alone)
    cuts = [(0, 7), (7, 8), (8, 40)]
    parts = [
        InterestContent.of(active[a:b], Candidates(alone.item_idx[3 * a : 3 * b], alone.score[3 * a : 3 * b]))
        for a, b in cuts
    ]
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = parts[order[0]].merge(parts[order[1]]).merge(parts[order[2]])
        for name in ("users", "keys", "counts"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_parts_that_do_not_fit_are_refused():
    active, alone = block(4, 3, 4, seed=3)
    content = InterestContent.of(active, alone)
    with pytest.raises(RetrievalError, match="cannot be added up"):
        content.merge(InterestContent.of(active, alone.top(2)))
    with pytest.raises(RetrievalError, match="lists of interests"):
        InterestContent.of(active[:, :2], alone)


def test_shares_by_hand():
    categories = np.array([[2, 0], [2, 3], [0, 0]])  # one value, two halves, and none
    shares = category_shares(categories, np.array([6, 2, 2]), ["none", "unknown", "Drama", "War"])
    assert shares == {"Drama": 0.7, "none": 0.2, "War": 0.1}
    assert list(shares) == ["Drama", "none", "War"]


def test_result_names_categories_and_the_most_frequent_items():
    active = np.array([[True, True], [True, False]])
    alone = Candidates(
        np.array([[2, 3], [4, 5], [2, 4], [-1, -1]]),
        np.array([[1, 0], [1, 0], [1, 0], [-np.inf, -np.inf]], np.float32),
    )
    categories = np.array([[0], [0], [2], [2], [3], [3]])
    first, second = InterestContent.of(active, alone).result(categories, ["none", "unknown", "a", "b"])
    assert first == {
        "users": 2,
        "items": 3,
        "categories": {"a": 0.75, "b": 0.25},
        "top": [(2, 1.0), (3, 0.5), (4, 0.5)],
    }
    assert second["users"] == 1
    assert second["categories"] == {"b": 1.0}


@pytest.mark.parametrize("count", [1, 4, SHOWN, SHOWN + 1, 20, 64, 100])
def test_many_interests_are_told_by_few(count: int):
    gains = gains_shown(count)
    assert gains[0] == 1
    assert gains[-1] == count
    assert len(gains) <= max(SHOWN, 2 * int(np.log2(count)) + 2)
    wins = np.random.default_rng(count).random(count).tolist()
    shown = shown_interests(wins, count)
    assert shown == sorted(shown)
    left = sorted(set(range(count)) - set(shown), key=lambda place: -wins[place])
    assert not left or wins[left[0]] <= min(wins[place] for place in shown)


def content(interests: int) -> dict[str, object]:
    rows = [
        {
            "users": 100 - place,
            "items": 20 + place,
            "categories": {"dairy": 0.75, "fruit": 0.25} if place % 2 else {"fruit": 1.0},
            "top": [{"item_id": "1082185", "title": "Bananas", "share": 0.5}],
        }
        for place in range(interests)
    ]
    return {"cutoff": 10, "category": "department", "events": {"dairy": 0.5, "fruit": 0.5}, "interests": rows}


def test_two_interests_are_compared_by_hand():
    # Their places in the categories are 1.0 fruit against 0.25: three quarters of the places differ.
    assert "20 to 21 different items" in lead(content(2), [0, 1])
    assert "differ by 75% of their places in department" in lead(content(2), [0, 1])
    (picture,) = figures(content(2), [0, 1], "x")
    assert "dairy" in picture
    (table,) = tables(content(2), [0, 1])
    assert [cell.text for cell in table.rows[1]] == ["2", "Bananas 50%", "99", "21"]


def test_the_report_has_a_part_for_the_interests(tmp_path: Path):
    run = finished_run(tmp_path / "mind")
    (run / "evaluation" / "interests.json").write_text(json.dumps(content(64)))
    build_report([Folder(run)], Folder(tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## What each interest retrieves" in text
    assert "Shown are 8 of 64 interests" in text


def test_a_user_with_many_interests_is_shown_by_those_with_most_behaviours():
    def items(place: int) -> list[dict[str, object]]:
        return [{"item_id": str(place), "title": "", "score": float(place)}]

    # Ten behaviours on an interest each; interests 11 to 20 hold none and are left out whatever they score.
    couplings = [[float(place == row) for place in range(20)] for row in range(10)]
    user = {
        "user_id": "7",
        "history": [{"item_id": f"h{row}", "title": ""} for row in range(10)],
        "couplings": couplings,
        "active": [True] * 20,
        "interests": [items(place) for place in range(20)],
        "recommendations": [],
        "targets": [],
    }
    shown = show_user(user, "users.json")
    assert [name for name, _ in shown.heat_map.interests] == [f"Interest {place}" for place in range(3, 11)]
    assert [row[1].text for row in shown.heat_map.rows] == [f"h{row}" for row in range(2, 10)]
    assert shown.heat_map.left_out == 2
    assert shown.heat_map.scale == 1.0
    assert [table.title for table in shown.interests] == [f"Interest {place}" for place in range(3, 11)]
    assert "20 active interests" in shown.summary
    few = show_user({**user, "couplings": [row[:4] for row in couplings], "active": [True] * 4}, "users.json")
    assert len(few.heat_map.rows) == 10
    assert few.heat_map.left_out == 0
