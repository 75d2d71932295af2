"""jobs/doctor.py: its lines and its exit codes."""

import shutil

from jobs import doctor
from raysys.storage import Folder
from tests.integration.doctor.runs import checks_of, edit_weights, padding_first, rewrite


def test_a_fault_is_one_line_on_stderr_and_exit_code_2(broken, capsys):
    path, out = broken
    rewrite(out, "vectors/items.parquet", padding_first)
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    table = Folder(out).read_json("doctor.json")
    faults = [check["name"] for check in table["checks"] if check["state"] == "fault"]
    assert "reserved_items" in faults
    assert f"{len(faults)} faults, the first: {faults[0]}" in shown.err
    assert all(f"fault        {name}" in shown.out for name in faults)


def test_weights_of_another_version_are_one_clear_line(broken, capsys):
    path, out = broken
    edit_weights(out, lambda weights: weights.pop("items.item"))
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run jobs/train.py again" in error


def test_no_features_is_one_clear_line_and_missing_stages_are_named(broken, tmp_path, capsys):
    path, out = broken
    assert doctor.main(["--run", str(path), "--out", str(tmp_path / "empty")]) == 2
    assert "run jobs/prepare.py" in capsys.readouterr().err
    for stage, job in (
        ("index", "index"),
        ("evaluation", "evaluate"),
        ("vectors", "export"),
        ("checkpoint", "train"),
    ):
        shutil.rmtree(out / stage)
        found = checks_of(broken)
        reasons = {check.looked_at for check in found.values() if check.state == "not checked"}
        assert any(f"run jobs/{job}.py" in reason for reason in reasons)
        assert "fault" not in {check.state for check in found.values()}


def test_a_log_that_is_gone_or_another_is_said(mind):
    path, _ = mind
    gone = checks_of(mind, f'data.events="{path.parent}/nothing.parquet"')
    assert gone["stored_order"].state == "not checked"
    assert "no file found" in gone["stored_order"].looked_at
    other = checks_of(mind, f'data.events="{path.parent}/items.parquet"')
    assert "changed" in other["stored_order"].looked_at
    assert other["future_items"].state == "ok"
    changed = checks_of(mind, "session.gap_s=77")
    assert "another [data]" in changed["held_out_events"].looked_at
