"""Runs paired user by user; oracles are the functions of `resampling` on hand-aligned values."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.parquet import read_table
from raysys.errors import DataError
from raysys.evaluation.comparison import compare
from raysys.evaluation.pairing import VALUES, pair, paired_table
from raysys.evaluation.report import build_report, read_finished
from raysys.evaluation.resampling import paired_difference, paired_p_value
from raysys.evaluation.sections import Run
from raysys.evaluation.summary import summary
from raysys.storage import Folder
from tests.unit.evaluation.sample_runs import finished_run

USERS = 400


def measured(folder: Path, name: str, shift: float, scale: float = 1.0, **changes: Any) -> Run:
    """A finished run with the values of its users, in an order of its own; one of them is undefined."""
    finished_run(folder / name, name, scale, **changes)
    random = np.random.default_rng(4)
    values = {
        "hit_rate@10": (random.random(USERS) < 0.4 + shift).astype(np.float64),
        "recall@50": random.random(USERS) + shift * random.random(USERS),
    }
    values["recall@50"][7] = np.nan
    order = np.random.default_rng(len(name)).permutation(USERS)
    table = pa.table(
        {
            "user_id": pa.array([f"u{user}" for user in order]),
            **{key: pa.array(found[order], from_pandas=True) for key, found in values.items()},
        }
    )
    pq.write_table(table, folder / name / "evaluation" / VALUES)
    return read_finished(Folder(folder / name), name, name)


def by_user(run: Run, key: str) -> np.ndarray:
    """The values of u0, u1, ... by a plain dictionary."""
    assert run.evaluation
    table = read_table(run.evaluation, VALUES)
    found = dict(zip(table["user_id"].to_pylist(), table[key].to_pylist(), strict=True))
    return np.array([np.nan if found[f"u{u}"] is None else found[f"u{u}"] for u in range(USERS)])


def test_users_are_matched_by_id(tmp_path):
    a, b = measured(tmp_path, "sdm", 0.2), measured(tmp_path, "mind", 0.0)
    found = {each.key: each for each in pair(a, b)}
    assert list(found) == ["hit_rate@10", "recall@50"]
    assert (found["hit_rate@10"].users, found["recall@50"].users) == (USERS, USERS - 1)
    for key, each in found.items():
        mine, theirs = by_user(a, key), by_user(b, key)
        assert (each.difference, *each.interval) == paired_difference(mine, theirs, 0)
        assert each.p_value == paired_p_value(mine, theirs, 0) < 0.01
    backwards = pair(b, a)[0]
    assert backwards.difference == -found["hit_rate@10"].difference
    nothing = pair(a, a)[0]
    assert (nothing.difference, nothing.interval, nothing.p_value) == (0, (0, 0), 1)


def test_runs_of_different_protocols_are_refused_in_one_line(tmp_path):
    a = measured(tmp_path, "a", 0.2)
    other = {**a.measured.protocol, "data_digest": "ffff", "order": "time, place in the log"}
    b = measured(tmp_path, "bb", 0.0, protocol=other)
    with pytest.raises(DataError) as caught:
        pair(b, a)
    assert str(caught.value) == (
        "bb and a cannot be compared, because the protocol differs: data_digest is ffff, not "
        "9f0c1d2e3b4a5968; order is time, place in the log, not –; measure both under one protocol"
    )
    first, second = compare([a, b])
    assert first.paired is None
    assert second.paired is None
    told = summary([Folder(tmp_path / "a"), Folder(tmp_path / "bb")])
    assert "bb: not compared, the protocol differs: data_digest is ffff, not 9f0c1d2e3b4a5968" in told
    assert "less each other run" not in told


def test_other_users_and_missing_values_are_named(tmp_path):
    a, b = measured(tmp_path, "a", 0.2), measured(tmp_path, "bb", 0.0)
    path = tmp_path / "bb" / "evaluation" / VALUES
    table = pq.read_table(path)
    pq.write_table(table.slice(3), path)
    with pytest.raises(DataError, match="a and bb cannot be paired: 400 users and 397, 3 of the former not"):
        pair(a, b)
    with pytest.raises(DataError, match="bb and a cannot be paired: 397 users and 400, 0 of the former not"):
        pair(b, a)
    path.unlink()
    with pytest.raises(DataError, match=r"bb: no evaluation/values\.parquet; run jobs/evaluate\.py"):
        pair(a, b)
    (found,) = compare([a, b])
    assert found.paired is None


def test_the_comparison_says_how_sure_the_order_is_user_by_user(tmp_path):
    runs = [measured(tmp_path, "mind", 0.0), measured(tmp_path, "sdm", 0.2, 1.3)]
    (found,) = compare(runs)
    assert (
        "sdm is best on hit_rate@10 with 0.2384, then mind with 0.1834. Over the same 400 users" in found.lead
    )
    assert "p = 0.0005): the choice of users does not explain it." in found.lead
    assert found.paired
    assert found.paired.title == "sdm less each other run, user by user"
    assert [[cell.text for cell in row[:2]] for row in found.paired.rows] == [
        ["mind", "hit_rate@10"],
        ["mind", "recall@50"],
    ]
    equal = [measured(tmp_path, "x", 0.0), measured(tmp_path, "yy", 0.0, 1.1)]
    (found,) = compare(equal)
    assert "the difference is +0.0000 (95 % interval +0.0000 to +0.0000, p = 1.0000)" in found.lead
    assert "the order may be chance" in found.lead
    assert not any(row[2].strong for row in found.paired.rows)


def test_reports_and_the_terminal_show_the_pairs(tmp_path):
    for name, shift in (("mind", 0.0), ("sdm", 0.2)):
        measured(tmp_path, name, shift, 1 + shift)
    folders = [Folder(tmp_path / "mind"), Folder(tmp_path / "sdm")]
    build_report(folders, Folder(tmp_path / "out"))
    markdown, html = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("md", "html"))
    title = "sdm less each other run, user by user"
    for text in (markdown, html, summary(folders)):
        assert title in text


def test_differences_below_the_threshold_stand_out(tmp_path):
    a, b = measured(tmp_path, "a", 0.2), measured(tmp_path, "bb", 0.0)
    table = paired_table(a, [(b, pair(a, b))])
    assert [cell.text for cell in table.rows[0]][0::5] == ["bb", "400"]
    assert table.rows[0][2].strong
    assert table.rows[0][2].text.startswith("+0.")
