"""Every run file and every tune space in the repository says something that the code understands."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from raysys import config
from raysys.models import MODELS
from raysys.run import load_run, read_run

ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted((ROOT / "jobs" / "runs").rglob("*.toml"))
SPACES = sorted((ROOT / "tune_spaces").rglob("*.toml"))


def ids(paths):
    return [path.stem for path in paths]


def test_there_are_runs_and_spaces():
    assert RUNS
    assert SPACES
    assert {path.name.split("_")[0] for path in RUNS} <= {name.split("_")[0] for name in MODELS}


@pytest.mark.parametrize("path", RUNS, ids=ids(RUNS))
def test_a_run_file_loads_and_survives_the_round_trip(path):
    run = load_run(str(path))
    assert run.model_name in MODELS
    assert path.stem.startswith(run.model_name)
    again = read_run(config.parse_toml(run.to_toml(), path.name))
    assert again == run
    assert again.run_digest == run.run_digest


@pytest.mark.parametrize("path", RUNS, ids=ids(RUNS))
def test_a_run_file_starts_with_the_command_that_runs_it_and_reads_from_the_repository(path):
    lines = path.read_text().splitlines()
    header = [line for line in lines[: lines.index("")] if line.startswith("#")]
    assert any(f"--run {path.relative_to(ROOT)}" in line for line in header)
    events = load_run(str(path)).data.events
    for place in [events] if isinstance(events, str) else events:
        assert "://" in place or Path(place).is_relative_to(ROOT)


@pytest.mark.parametrize("path", SPACES, ids=ids(SPACES))
def test_a_space_searches_real_fields_of_a_base_run_that_exists(path):
    table = tomllib.loads(path.read_text())
    base = ROOT / table["base"]
    assert base.is_file(), f"{path.name}: base {table['base']} does not exist"
    run = load_run(str(base))
    assert set(table["search"]) <= {"metric", "mode", "trials", "max_epochs", "grace_epochs"}
    assert table["search"]["metric"].startswith("valid/")  # tuning never sees the test part
    assert table["space"]
    for key, dimension in table["space"].items():
        section, *rest = key.split(".")
        holder = run.model if section == "model" else getattr(run, section)
        for part in rest:
            assert part in {entry.name for entry in dataclasses.fields(holder)}, f"{key}: no such field"
            holder = getattr(holder, part)
        for value in values_of(dimension):
            load_run(str(base), [f"{key}={config.to_toml({'v': value}).partition('=')[2].strip()}"])


def values_of(dimension):
    """Return the values at the ends of a dimension, or all of a choice."""
    if dimension["type"] == "choice":
        return dimension["values"]
    assert dimension["min"] < dimension["max"]
    number = int if dimension["type"] == "int" else float
    return [number(dimension["min"]), number(dimension["max"])]
