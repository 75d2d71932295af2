"""The planner takes every model of `MODELS`, whatever it is, and every run file of the repository."""

import json
from pathlib import Path

import pytest

from jobs import plan
from raysys.models import MODELS, PRESETS
from tests.reference.logs import planted_log, run_file

RUNS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "runs").rglob("*.toml"))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return planted_log(tmp_path_factory.mktemp("plan"))


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in sorted(MODELS) for preset in PRESETS[name]]
)
def test_every_model_and_preset_is_planned(name, preset, log, capsys):
    path = run_file(log, model=f'name = "{name}"\npreset = "{preset}"')
    out = log / f"{name}-{preset}"
    assert plan.main(["--run", str(path), "--out", str(out), "--no-probe"]) == 0
    text, made = capsys.readouterr().out, json.loads((out / "plan.json").read_text())
    assert f"Plan of {name} for this machine" in text
    assert made["model"] == name
    assert made["fits"]
    assert {"prepare", "train", "evaluate"} <= made["node_bytes"].keys()
    assert made["sizes"]["events"] == 120 * 12
    learns = MODELS[name].learns_by
    assert bool(made["parameters"]) == (learns == "gradient") == (made["counting"] is None)


@pytest.mark.parametrize("path", [path for path in RUNS if "q1" in path.stem], ids=lambda path: path.stem)
def test_run_files_on_data_of_the_repository_are_planned(path, capsys):
    assert plan.main(["--run", str(path), "--no-probe"]) == 0
    assert "The run fits." in capsys.readouterr().out
