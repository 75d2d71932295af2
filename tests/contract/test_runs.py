"""Every run file and every tune space in the repository says something that the code understands."""

from pathlib import Path

import pytest

from raysys import config
from raysys.models import MODELS
from raysys.run import load_run, read_run
from raysys.tuning.space import load_space

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
def test_a_space_is_one_of_its_model_and_every_end_of_a_key_can_be_trained(path):
    space = load_space(str(path))
    assert space.base.model_name == path.stem.removesuffix("_pbt")
    assert space.run(space.untuned(), space.base.training.seed) == space.base
    for key, parameter in space.parameters.items():
        for value in parameter.values or (parameter.min, parameter.max):
            for condition, allowed in parameter.when.items():
                space.run({condition: allowed[0], key: value}, 1)
            space.run({key: value}, 1)


def test_every_model_has_a_space():
    assert {path.stem.removesuffix("_pbt") for path in SPACES} == set(MODELS)
