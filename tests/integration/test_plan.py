"""jobs/plan.py: what it shows, its exit codes, that it takes nothing; and the probe of every model."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import plan
from raysys.distributed import planner
from raysys.distributed import probe as probing
from raysys.distributed.cluster import WORKER_MEMORY
from raysys.distributed.loop import Job
from raysys.distributed.planner import plan_run
from raysys.distributed.probe import ProbeError, Trial, probe
from raysys.manifest import read_manifest
from raysys.models import MODELS
from raysys.planning.machine import this_machine
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.line import prepare_here
from tests.reference.logs import planted_log, run_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return planted_log(tmp_path / "log")


@pytest.fixture
def planted_job(folder, tmp_path):
    run = load_run(str(run_file(folder)))
    features, _ = prepare_here(run, tmp_path / "out")
    return Job(run, features, read_manifest(features, "features", "prepare"), Folder(tmp_path / "unused"))


def everything(*folders):
    return sorted((path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))


def test_it_shows_a_table_and_writes_nothing_unless_asked(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run_file(folder)
    before = everything(tmp_path)
    assert plan.main(["--run", str(path), "--no-probe"]) == 0
    assert everything(tmp_path) == before
    text = capsys.readouterr().out
    for expected in (
        "Data",
        "table items.item",
        "optimiser",
        "Memory of a node",
        "Suggested",
        "The run fits.",
    ):
        assert expected in text
    assert "estimates from the log (read once" in text
    assert plan.main(["--run", str(path), "--no-probe", "--out", str(tmp_path / "out")]) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["plan.json"]


def test_it_starts_no_ray_and_ends_like_every_job(folder):
    script = (
        "import sys; from jobs import plan; code = plan.main(sys.argv[1:]); import ray; "
        "print('started' if ray.is_initialized() else 'not started'); sys.exit(code)"
    )
    path = str(run_file(folder))
    command = [sys.executable, "-c", script, "--run", path, "--no-probe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "not started"
    done = subprocess.run([*command, "--memory-gb", "0.5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: the run does not fit: prepare needs ")
    assert "DOES NOT FIT: train needs" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", 'model.name="mnd"'], "error: model.name: no model 'mnd'; did you mean mind?"),
        (["--set", "data.events=none.parquet"], "no file found"),
        (["--set", "data.columns.user=buyer"], "no column 'buyer'"),
        (["--nodes", "0"], "error: --nodes: found 0, expected at least 1"),
        (["--memory-gb", "-1"], "error: --memory-gb: found -1, expected above 0"),
        (["--set", 'index.kind="PQ7"'], "error: index.kind: 'PQ7' cannot be built"),
        (["--set", 'model.item_features=["colour"]'], "no feature 'colour' in the catalog"),
        (["--set", "training.batch_size=4096"], "do not fill one batch of 4096"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder, capsys, flags, message):
    assert plan.main(["--run", str(run_file(folder)), "--no-probe", *flags]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_machine_that_is_described(folder, capsys):
    flags = ["--nodes", "3", "--cpus", "8", "--memory-gb", "64"]
    assert plan.main(["--run", str(run_file(folder)), "--no-probe", *flags]) == 0
    assert "the machines that the flags describe: 3 x 8 CPUs, 64.0 GB of memory" in capsys.readouterr().out


def test_a_running_cluster_is_asked(folder, ray_cluster, capsys):
    import ray

    address = ray.get_runtime_context().gcs_address
    assert plan.main(["--run", str(run_file(folder)), "--no-probe", "--address", address]) == 0
    assert f"the cluster at {address}: 1 x 4 CPUs" in capsys.readouterr().out
    assert ray.is_initialized()  # the connection was there before


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_probe_measures_every_model(name, folder, tmp_path):
    text = {
        "model": f'name = "{name}"\nhistory_length = 8',
        "training": "batch_size = 64\nsampler_power = 0.5",
    }
    run = load_run(str(run_file(folder, **text)), ["cluster.workers=2"])
    made = plan_run(run, Folder(tmp_path / "out"), this_machine(), seconds=0.05)
    worlds = [1] if MODELS[name].learns_by == "rows" else sorted({1, min(2, this_machine().cpus)})
    assert sorted(made.inputs.probed) == worlds, made.inputs.notes
    for found in made.inputs.probed.values():
        assert found.samples_per_s > 0
        assert found.start_bytes > 0
    assert made.to_table()["fits"]
    if MODELS[name].learns_by == "gradient":
        assert made.worker.is_measured
        assert made.worker.host > made.worker.start
        assert {time.workers for time in made.times} >= {1, 2}
    assert not (tmp_path / "out").exists()


def test_features_that_are_there_give_exact_sizes(folder, tmp_path):
    run = load_run(str(run_file(folder)))
    features, info = prepare_here(run, tmp_path / "out")
    made = plan_run(run, Folder(tmp_path / "out"), this_machine(), probing=False)
    sizes = made.inputs.sizes
    assert sizes.is_exact
    assert (sizes.users, sizes.items, sizes.samples) == (info["users"], info["items"], info["samples"])
    files = read_manifest(features, "features", "prepare").files
    assert sizes.feature_bytes == sum(files.values())
    other = load_run(str(run_file(folder)), ["session.gap_s=60"])
    assert not plan_run(other, Folder(tmp_path / "out"), this_machine(), probing=False).inputs.sizes.is_exact


def test_a_probe_that_fails_is_a_note_and_no_end(folder, tmp_path, monkeypatch):
    run = load_run(str(run_file(folder)))

    def fails(trial, settings):
        raise ProbeError("the system ended it (signal 9), likely for want of memory")

    monkeypatch.setattr(planner, "probe", fails)
    made = plan_run(run, Folder(tmp_path / "out"), this_machine())
    assert any("signal 9" in note for note in made.inputs.notes)
    assert not made.times
    assert not made.worker.is_measured


def test_the_error_of_a_probe_is_its_last_line(planted_job):
    (planted_job.features / "sequences").delete()
    with pytest.raises(ProbeError, match="no such file"):
        probe(Trial(planted_job, seconds=0.05), WORKER_MEMORY)


def second_process(monkeypatch, changed):
    """Let the second process of a probe do another trial than the first."""
    start = probing._start

    def start_changed(trial, rank, *rest):
        return start(changed(trial) if rank else trial, rank, *rest)

    monkeypatch.setattr(probing, "_start", start_changed)


def test_a_process_that_has_seen_enough_leaves_none_waiting(planted_job, monkeypatch):
    monkeypatch.setattr(probing, "TIMEOUT_S", 60.0)
    second_process(monkeypatch, lambda trial: replace(trial, seconds=0.0))
    assert probe(Trial(planted_job, world=2, seconds=0.3), WORKER_MEMORY).samples_per_s > 0


def test_the_failure_of_any_process_ends_a_probe(planted_job, monkeypatch):
    begin = time.monotonic()
    nowhere = replace(planted_job, features=planted_job.out / "nowhere")
    second_process(monkeypatch, lambda trial: replace(trial, job=nowhere))
    with pytest.raises(ProbeError, match="nowhere"):
        probe(Trial(planted_job, world=2, seconds=0.05), WORKER_MEMORY)
    assert time.monotonic() - begin < probing.TIMEOUT_S / 2


def test_plan_json_says_what_the_page_says(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert plan.main(["--run", str(run_file(folder)), "--no-probe", "--out", str(out)]) == 0
    made, text = json.loads((out / "plan.json").read_text()), capsys.readouterr().out
    for parameter in made["parameters"]:
        assert not parameter["is_table"] or f"table {parameter['name']}" in text
    assert made["notes"] == ["no probe was asked for"]
    assert "Note: no probe was asked for" in text
