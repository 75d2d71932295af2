"""The doctor finds nothing on clean runs, and every check has its line."""

import pytest

from jobs import doctor
from raysys.evaluation.doctor.check import ORDER
from raysys.storage import Folder


@pytest.mark.parametrize("name", ["mind", "sdm", "item_cf"])
def test_a_clean_run_has_no_fault_and_every_check_has_its_line(name, request, capsys):
    path, out = request.getfixturevalue(name)
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    table = Folder(out).read_json("doctor.json")
    assert [check["name"] for check in table["checks"]] == list(ORDER)
    states = {check["name"]: check["state"] for check in table["checks"]}
    assert "fault" not in states.values()
    lines = [line for line in shown if line.startswith(("ok  ", "warning  ", "fault  ", "not checked  "))]
    assert [line[13:].split()[0] for line in lines] == list(ORDER)
    assert shown[-1].startswith(f"{len(ORDER)} checks: ")
    always = {
        "stages_fit",
        "stored_order",
        "held_out_events",
        "future_items",
        "history_truncation",
        "reserved_items",
    }
    assert {states[check] for check in always} == {"ok"}
    of_vectors = [
        "accidental_hits", "sampler_order", "logq_correction", "exported_vectors", "training_similarity",
        "index_order", "same_user_same_vectors", "vectors_find_targets",
    ]  # fmt: skip
    assert {states[check] for check in of_vectors} == {"not checked" if name == "item_cf" else "ok"}
    assert states["short_long_apart"] == ("ok" if name == "sdm" else "not checked")
    assert states["training_matrix"] == ("ok" if name == "item_cf" else "not checked")
    assert states["saturated_gate"] == ("ok" if name == "sdm" else "not checked")
