"""A build that is killed outright while it appends a day: the old features stay, the next run appends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
[data]
events = "log/*.parquet"
[data.columns]
user = "user"
item = "item"
time = "time"
[model]
name = "mind"
[cluster]
object_store_mb = 150
"""

pytestmark = pytest.mark.chaos


def write_day(folder, day, rows):
    random = np.random.default_rng(day)
    table = pa.table(
        {
            "user": random.integers(0, rows // 10, rows),
            "item": random.integers(0, 1000, rows),
            "time": 1_600_000_000 + day * 86_400 + np.arange(rows) * 60_000 // rows,
        }
    )
    pq.write_table(table, folder / "log" / f"{day}.parquet", row_group_size=50_000)


def start(folder, out, log):
    command = [sys.executable, ROOT / "jobs" / "prepare.py", "--run", folder / "run.toml", "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--address", "local"], stdout=log, stderr=log, start_new_session=True
    )


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(300)
def test_a_kill_in_the_middle_of_an_append_leaves_the_old_features_and_costs_one_run(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "run.toml").write_text(RUN)
    out = tmp_path / "out"
    with (tmp_path / "told").open("w") as log:
        for day in range(3):
            write_day(tmp_path, day, 100_000)
        assert start(tmp_path, out, log).wait(100) == 0
        before = content(out / "features")
        write_day(tmp_path, 3, 500_000)
        killed = start(tmp_path, out, log)
        deadline = time.monotonic() + 100
        while not list(out.glob(".features.partial-*/events/*")):
            assert killed.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, (tmp_path / "told").read_text()
            time.sleep(0.002)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(30)
        assert len(list(out.glob(".features.partial-*"))) == 1
        assert content(out / "features") == before
        assert start(tmp_path, out, log).wait(100) == 0
        assert os.listdir(out) == ["features"]
        assert start(tmp_path, tmp_path / "scratch", log).wait(100) == 0
    assert "new_files=1 " in (tmp_path / "told").read_text()
    assert content(out / "features") == content(tmp_path / "scratch" / "features")
