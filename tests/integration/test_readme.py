"""The commands of README.md as it prints them, in its order, with what makes them cheap behind them.

The log and the run file are those of its section on a log of one's own; only the place of the log is another.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.reference.logs import planted_log
from tests.reference.object_store import free_port
from tests.reference.readme import BOARD, LINE, ROOT, RUN_BY, TEXT, words

SMALL = {
    "cluster.workers": "0",
    "training.epochs": "8",
    "training.learning_rate": "0.01",
    "training.batch_size": "64",
    "model.embedding_dim": "32",
    "model.num_negatives": "128",
}
SEARCH = {"search.trials": "1", "search.max_epochs": "1", "search.repeat_best": "0"}
MORE = {
    "pipeline.py --run clicks": SMALL,
    "plan.py": SMALL,
    "doctor.py": SMALL | {"model.num_interests": "6"},
    "tune.py": SMALL | SEARCH,
}
"""Part of a command -> settings behind it."""


@pytest.fixture(scope="module")
def home(tmp_path_factory, ray_cluster):
    """A folder with the repository's jobs, a log as README describes it, and README's run file for it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("jobs", "tune_spaces"):
        (home / name).symlink_to(ROOT / name)
    table = pq.read_table(planted_log(home / "planted") / "events.parquet")
    (home / "clicks").mkdir()
    times = pc.multiply(table["timestamp"], 1000)
    log = pa.table({"uid": table["user_id"], "sku": table["item_id"], "ts": times})
    pq.write_table(log, home / "clicks" / "day.parquet")
    first = re.search(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[1]
    assert "s3://bucket/clicks/*.parquet" in first
    (home / "clicks.toml").write_text(first.replace("s3://bucket/", ""))
    return home


@pytest.fixture(scope="module")
def finished(home):
    """README's commands of jobs, each run in its place; command -> exit code."""
    codes, before = {}, Path.cwd()
    os.chdir(home)
    try:
        for command in (command for command, runner in RUN_BY.items() if runner == LINE):
            settings = next((more for part, more in MORE.items() if part in command), {})
            more = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            if "plan.py" in command:
                more += ["--no-probe"]  # minutes; tests/integration/test_plan.py tries it
            if "tune.py" in command:
                more += ["--run", "clicks.toml"]  # its own base run wants MovieLens
            script, *arguments = words(command, *more)
            job = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            codes[command] = job.main(arguments)
    finally:
        os.chdir(before)
    return codes


def test_the_commands_in_their_order(home, finished):
    assert finished == {command: 0 for command, runner in RUN_BY.items() if runner == LINE}
    for name in (
        "clicks/report.html",
        "clicks/doctor.json",
        "tune_mind/tune/best.toml",
        "mind_tuned/report.html",
    ):
        assert (home / "runs" / name).is_file(), name


@contextmanager
def tensorboard(home, command):
    """Start TensorBoard by a command of README, on a free port, and yield its address."""
    port = free_port()
    program = str(Path(sys.executable).parent / "tensorboard")
    with (home / "tensorboard.log").open("w") as log:
        process = subprocess.Popen(
            [program, *words(command, "--port", str(port))], cwd=home, stdout=log, stderr=log
        )
    try:
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(30)


def asked(url, wanted, seconds=40):
    """Return what TensorBoard answers, once it has read what is wanted."""
    deadline, found = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            if wanted(found := json.load(answer)):
                return found
        time.sleep(0.3)
    raise AssertionError(f"{url}: {found}")


CURVES = {
    "runs/tune_mind/tune/trials": ("runs/tune_mind/tune/trials/0000", "valid/recall@50"),
    "runs/mind_ml1m/logs": ("runs/clicks", "valid/ndcg@10"),
}
"""Folder of a command -> the training that it shows, and one of its curves."""


@pytest.mark.parametrize("command", [command for command, runner in RUN_BY.items() if runner == BOARD])
def test_tensorboard_shows(home, finished, command):
    shutil.copytree(home / "runs/clicks/logs", home / "runs/mind_ml1m/logs", dirs_exist_ok=True)
    training, tag = CURVES[command.rpartition(" ")[2]]
    state = json.loads((home / training / "checkpoint" / "state.json").read_text())
    wanted = [(entry["step"], entry[tag]) for entry in state["curve"]]
    with tensorboard(home, command) as address:
        url = f"{address}/data/plugin/scalars"
        tags = asked(f"{url}/tags", lambda found: any(tag in scalars for scalars in found.values()))
        run = next(name for name, scalars in tags.items() if tag in scalars)
        found = asked(f"{url}/scalars?run={run}&tag={tag}", lambda found: len(found) >= len(wanted))
    assert [(step, pytest.approx(value, abs=1e-6)) for _, step, value in found] == wanted
