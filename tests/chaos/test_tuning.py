"""A search that is killed outright, or loses the process of a trial, ends where an undisturbed one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysys.distributed.checkpoints import ResumeFolder
from raysys.storage import Folder
from raysys.tuning.trials import place, read_trials
from tests.reference.logs import planted_log, run_file

ROOT = Path(__file__).resolve().parents[2]
METRIC = "valid/ndcg@10"
SPACE = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
algorithm = "random"
scheduler = "none"
trials = 3
repeat_best = 0
[space]
"model.num_interests" = { type = "int", min = 1, max = 4 }
"training.learning_rate" = { type = "float", min = 1e-3, max = 0.05, scale = "log" }
"""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture
def space(tmp_path):
    run_file(
        planted_log(tmp_path),
        training="epochs = 40\nbatch_size = 64\nlearning_rate = 0.005\npatience = 0\nseed = 3",
        cluster="workers = 1\nobject_store_mb = 150",
    )
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path / "space.toml"


def start(space, out, *more):
    """Start a search in whose processes the name of `out` is in the environment."""
    command = [sys.executable, str(ROOT / "jobs" / "tune.py"), "--space", str(space), "--out", str(out)]
    environment = os.environ | {"RAYSYS_TEST_SEARCH": str(out)}
    with (out.parent / "log").open("a") as log:
        return subprocess.Popen(
            [*command, "--address", "local", *more],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )


def trials_of(out):
    return read_trials(Folder(out / "tune"))


def wait_for_epochs(out, count):
    deadline = time.monotonic() + 180
    while sum(trial.epochs for trial in trials_of(out)) < count:
        assert time.monotonic() < deadline, (out.parent / "log").read_text()
        time.sleep(0.05)


def curves(out):
    return [[entry[METRIC] for entry in trial.curve] for trial in trials_of(out)]


def trial_processes(out):
    """Return the processes in which trials of a search train."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        ours = f"RAYSYS_TEST_SEARCH={out}".encode() in environment.split(b"\0")
        if ours and b"TrialTraining.train" in name:
            found.append(int(entry.name))
    return found


def test_a_killed_search_goes_on_and_loses_nothing(space, tmp_path):
    assert start(space, tmp_path / "whole").wait(300) == 0
    killed = start(space, tmp_path / "cut")
    wait_for_epochs(tmp_path / "cut", 30)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(30)
    before = curves(tmp_path / "cut")
    assert start(space, tmp_path / "cut", "--resume").wait(300) == 0
    after = curves(tmp_path / "cut")
    assert [curve[: len(old)] for curve, old in zip(after, before, strict=False)] == before
    assert after == curves(tmp_path / "whole")
    assert {trial.status for trial in trials_of(tmp_path / "cut")} == {"finished"}


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_stops_every_trial_at_the_step_it_is_at(tmp_path, workers, number):
    run_file(
        planted_log(tmp_path, users=1000),
        training="epochs = 2\nbatch_size = 2\nlearning_rate = 0.001\npatience = 0\nseed = 3\n"
        "checkpoint_every_steps = 1000000",
        cluster=f"workers = {workers}\nobject_store_mb = 150",
    )
    (tmp_path / "space.toml").write_text(SPACE.replace("trials = 3", "trials = 1"))
    assert start(tmp_path / "space.toml", tmp_path / "whole").wait(300) == 0
    search = start(tmp_path / "space.toml", tmp_path / "cut")
    wait_for_epochs(tmp_path / "cut", 1)
    time.sleep(1)
    search.send_signal(number)
    assert search.wait(60) == 128 + number
    (trial,) = trials_of(tmp_path / "cut")
    assert (trial.status, trial.epochs) == ("running", 1)
    state = ResumeFolder(place(Folder(tmp_path / "cut" / "tune"), 0)).load()
    assert state.epoch == 1
    assert state.step > 0
    assert start(tmp_path / "space.toml", tmp_path / "cut", "--resume").wait(300) == 0
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_the_workers_of_a_trial_whose_process_is_killed_make_room_for_the_next(tmp_path):
    """Its placement group holds every CPU: were it to stay, the search would wait for ever."""
    workers = os.cpu_count() or 1
    run_file(
        planted_log(tmp_path),
        training="epochs = 8\nbatch_size = 64\nlearning_rate = 0.005\npatience = 0\nseed = 3",
        cluster=f"workers = {workers}\nobject_store_mb = 150",
    )
    (tmp_path / "space.toml").write_text(SPACE.replace("trials = 3", "trials = 2"))
    assert start(tmp_path / "space.toml", tmp_path / "whole").wait(300) == 0
    search = start(tmp_path / "space.toml", tmp_path / "cut")
    wait_for_epochs(tmp_path / "cut", 2)
    (victim,) = trial_processes(tmp_path / "cut")
    os.kill(victim, signal.SIGKILL)
    assert search.wait(300) == 0
    assert {trial.status for trial in trials_of(tmp_path / "cut")} == {"finished"}
    for cut, whole in zip(curves(tmp_path / "cut"), curves(tmp_path / "whole"), strict=True):
        assert cut == pytest.approx(whole, abs=1e-9)


def test_a_trial_whose_process_is_killed_is_started_again_from_its_checkpoint(space, tmp_path):
    assert start(space, tmp_path / "whole").wait(300) == 0
    search = start(space, tmp_path / "cut")
    wait_for_epochs(tmp_path / "cut", 10)
    victims = trial_processes(tmp_path / "cut")
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    assert search.wait(300) == 0
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
