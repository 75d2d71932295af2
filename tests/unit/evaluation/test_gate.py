"""The gate by length of the session: quantiles against plain loops, parts in any order, and what is told."""

import statistics

import numpy as np
import pytest

from raysys.evaluation.gate import LENGTHS, QUANTILES, GateValues
from raysys.evaluation.gate_page import figures, lead, tables
from raysys.evaluation.report import build_report
from raysys.evaluation.user_panels import show_user
from raysys.storage import Folder
from tests.unit.evaluation.sample_runs import finished_run


def some(users: int, seed: int) -> GateValues:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 60, users)
    return GateValues(lengths, random.random(users).astype(np.float32))


def test_buckets_equal_plain_loops():
    values = some(300, 1)
    found = values.result()
    assert found["users"] == 300
    assert found["mean"] == pytest.approx(statistics.fmean(values.gates.tolist()), abs=1e-6)
    ends = [*LENGTHS[1:], 10**9]
    for row, start, end in zip(found["by_length"], LENGTHS, ends, strict=True):
        mine = sorted(
            gate
            for length, gate in zip(values.lengths.tolist(), values.gates.tolist(), strict=True)
            if start <= length < end
        )
        assert row["users"] == len(mine)
        assert row["mean"] == pytest.approx(statistics.fmean(mine), abs=1e-9)
        for quantile, value in zip(QUANTILES, row["quantiles"], strict=True):
            place = quantile * (len(mine) - 1)  # between the two nearest values
            low = mine[int(place)]
            high = mine[min(int(place) + 1, len(mine) - 1)]
            assert value == pytest.approx(low + (place - int(place)) * (high - low), abs=1e-9)
    names = [row["length"] for row in found["by_length"]]
    assert names == ["0", "1", "2", "3-4", "5-9", "10-19", "20-49", "50+"]


def test_parts_give_the_whole_in_any_order():
    whole = some(90, 2)
    parts = [GateValues(whole.lengths[i::3], whole.gates[i::3]) for i in range(3)]
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = parts[order[0]].merge(parts[order[1]]).merge(parts[order[2]])
        assert merged.result() == whole.result()


def gate(*rows: tuple[str, float]) -> dict[str, object]:
    by_length = [
        {"length": name, "users": 10, "mean": mean, "quantiles": [mean - 0.1, mean, mean, mean, mean + 0.1]}
        for name, mean in rows
    ]
    return {"users": 10 * len(rows), "mean": 0.25, "by_length": by_length}


def test_what_is_told():
    told = lead(gate(("0", 0.9), ("1", 0.5), ("2", 0.2)))
    assert "25% of a user's vector come from the session and 75% from the long term" in told
    assert "highest for sessions of 1 item (50%) and lowest for those of 2 items (20%)" in told
    assert "highest" not in lead(gate(("5-9", 0.5)))  # one length has nothing to be compared with
    (picture,) = figures(gate(("1", 0.5)), "x")
    assert "1 item" in picture
    (table,) = tables(gate(("1", 0.5)))
    assert [cell.text for cell in table.rows[0]][:3] == ["1", "10", "0.5000"]


DRIVEN = {
    "user_id": "7",
    "history": [{"item_id": "a", "title": "Milk"}] * 5,
    "couplings": None,
    "active": [True],
    "interests": [[]],
    "drivers": {
        "gate": 0.25,
        "short": [
            {"item_id": "a", "title": "Milk", "at": 86_400, "weight": 0.2},
            {"item_id": "b", "title": "Bread", "at": 172_800, "weight": 0.8},
        ],
        "long": {
            "item": {"values": 3, "top": [{"name": "Eggs", "weight": 0.5}, {"name": "Tea", "weight": 0.3}]},
            "store": {"values": 0, "top": []},
        },
    },
    "recommendations": [{"item_id": "b", "title": "Bread", "score": 1.0, "hit": True}],
    "targets": [{"item_id": "b", "title": "Bread", "rank": 1}],
}


def test_a_user_is_shown_by_session_and_sets():
    shown = show_user(DRIVEN, "users.json")
    assert shown.summary == (
        "2 steps in the session; 1 of 1 target found, best at rank 1; 25% of the vector from the session"
    )
    assert [(day, item.text, weights) for day, item, weights in shown.heat_map.rows] == [
        ("1970-01-02", "Milk", [0.2]),
        ("1970-01-03", "Bread", [0.8]),
    ]
    assert shown.heat_map.scale == 0.8  # the heaviest step has the deepest shade
    assert [table.title for table in shown.interests] == ["item, 3 values"]  # an empty set is no table
    nothing = {**DRIVEN["drivers"], "short": [], "gate": None}
    shown = show_user({**DRIVEN, "drivers": nothing}, "users.json")
    assert shown.heat_map.caption == "This user has no session"
    assert "0 steps in the session" in shown.summary
    assert "vector" not in shown.summary


def test_the_report_has_a_part_for_the_gate(tmp_path):
    run = finished_run(tmp_path / "sdm", model="sdm", interests={}, gate=gate(("1", 0.5), ("2", 0.2)))
    build_report([Folder(run)], Folder(tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Session and long term" in text
    assert "Interest health" not in text
