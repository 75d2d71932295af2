"""Trainings and searches in a real MLflow server, asked over its REST API.

The server may live in an environment of its own: `MLFLOW_COMMAND` names its `mlflow`.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.reference.logs import planted_log, run_file
from tests.reference.object_store import free_port

ROOT = Path(__file__).resolve().parents[2]
COMMAND = os.environ.get("MLFLOW_COMMAND") or shutil.which("mlflow")
SPACE = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
algorithm = "random"
scheduler = "none"
trials = 2
max_epochs = 2
repeat_best = 0
[space]
"model.num_interests" = { type = "int", min = 1, max = 4 }
"""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        COMMAND is None or importlib.util.find_spec("mlflow") is None,
        reason="needs raysys[mlflow], and the server: pip install mlflow, or MLFLOW_COMMAND=…/bin/mlflow",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URI of a server of our own, which is gone afterwards."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [str(COMMAND), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 180
            while not answers(uri):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield uri
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def answers(uri):
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def asked(uri, path, body=None):
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def runs_of(uri, experiment):
    found = asked(uri, f"experiments/get-by-name?experiment_name={experiment}")
    body = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
    return asked(uri, "runs/search", body)["runs"]


def pairs(run, name):
    return {entry["key"]: entry["value"] for entry in run["data"].get(name, [])}


def job(name, *arguments):
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_a_training_that_is_resumed_goes_on_in_its_run_and_gets_the_test_metrics(server, tmp_path):
    path, out = run_file(planted_log(tmp_path)), tmp_path / "out"
    sets = ["--set", f"tracking.mlflow={server}", "--set", "tracking.experiment=line"]
    flags = ["--run", path, "--out", out, *sets]
    done = job("pipeline", *flags)
    assert done.returncode == 0, done.stderr
    assert "not_tracked" not in done.stdout  # where a job logs
    (run,) = runs_of(server, "line")
    curve = json.loads((out / "checkpoint/state.json").read_text())["curve"]
    metrics = json.loads((out / "evaluation/metrics.json").read_text())["metrics"]
    logged = pairs(run, "metrics")
    assert run["info"]["status"] == "FINISHED"
    assert logged["valid/ndcg_at_10"] == pytest.approx(curve[-1]["valid/ndcg@10"])
    assert logged["test/ndcg_at_10"] == pytest.approx(metrics["ndcg@10"])
    assert pairs(run, "params")["model.num_interests"] == "3"
    history = asked(
        server, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key=valid/ndcg_at_10"
    )["metrics"]
    assert [entry["step"] for entry in history] == [1, 2, 3]

    (out / "checkpoint" / "manifest.json").unlink()  # trains anew from the same inputs
    again = job("train", *flags)
    assert again.returncode == 0, again.stderr
    (same,) = runs_of(server, "line")
    assert same["info"]["run_id"] == run["info"]["run_id"]


def test_a_killed_training_of_two_workers_goes_on_in_its_run_with_no_epoch_sent_twice(server, tmp_path):
    path = run_file(
        planted_log(tmp_path),
        training="epochs = 40\nbatch_size = 64\ncheckpoint_every_steps = 5\npatience = 0\nseed = 3",
        cluster="workers = 2\nobject_store_mb = 150",
    )
    out = tmp_path / "out"
    flags = ["--run", str(path), "--out", str(out), "--set", f"tracking.mlflow={server}"]
    flags += ["--set", "tracking.experiment=killed"]
    assert job("prepare", *flags).returncode == 0
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *flags]
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (out / "mlflow.json").exists() or json.loads((out / "mlflow.json").read_text())["epochs"] < 3:
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(30)
    assert not (out / "checkpoint" / "manifest.json").exists()
    (begun,) = runs_of(server, "killed")
    written = json.loads((out / "mlflow.json").read_text())
    # what a kill between sending an epoch and writing that down leaves
    (out / "mlflow.json").write_text(json.dumps(written | {"epochs": written["epochs"] - 1}))
    again = job("train", *flags)
    assert again.returncode == 0, again.stderr
    assert "resumed_at_epoch" in again.stdout + again.stderr
    (run,) = runs_of(server, "killed")
    assert run["info"]["run_id"] == begun["info"]["run_id"]
    assert run["info"]["status"] == "FINISHED"
    curve = json.loads((out / "checkpoint/state.json").read_text())["curve"]
    query = f"run_id={run['info']['run_id']}&metric_key=valid/ndcg_at_10&max_results=200"
    history = asked(server, f"metrics/get-history?{query}")["metrics"]
    assert [entry["step"] for entry in history] == [entry["epoch"] for entry in curve]
    assert [entry["value"] for entry in history] == pytest.approx([e["valid/ndcg@10"] for e in curve])


def test_a_search_is_a_run_with_a_nested_run_per_trial(server, tmp_path):
    run_file(planted_log(tmp_path), cluster="workers = 1\nobject_store_mb = 150")
    (tmp_path / "space.toml").write_text(SPACE)
    sets = ["--set", f"tracking.mlflow={server}", "--set", "tracking.experiment=search"]
    done = job("tune", "--space", tmp_path / "space.toml", "--out", tmp_path / "out", *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["info"]["run_name"]: run for run in runs_of(server, "search")}
    assert set(runs) == {"out", "trial-0000", "trial-0001"}
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}
    best = max(pairs(runs[name], "metrics")["valid/ndcg_at_10"] for name in runs if name != "out")
    assert pairs(runs["out"], "metrics")["valid/ndcg_at_10"] >= best
    for name in ("trial-0000", "trial-0001"):
        assert pairs(runs[name], "tags")["mlflow.parentRunId"] == runs["out"]["info"]["run_id"]


def test_a_server_that_is_down_is_one_warning(tmp_path):
    path = run_file(planted_log(tmp_path))
    flags = ["--run", path, "--out", tmp_path / "out"]
    assert job("prepare", *flags).returncode == 0
    begin = time.monotonic()
    done = job("train", *flags, "--set", f"tracking.mlflow=http://me:hunter2@127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not_tracked") == 1
    assert "hunter2" not in done.stderr + done.stdout
    assert time.monotonic() - begin < 120
