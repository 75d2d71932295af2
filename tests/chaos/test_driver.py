"""A driver that is killed outright: the same command goes on and ends where an undisturbed run ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysys.distributed.checkpoints import ResumeFolder, from_bytes
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    "epochs = 60\nbatch_size = 64\nlearning_rate = 0.005\ncheckpoint_every_steps = 5\npatience = 0\nseed = 3"
)

pytestmark = pytest.mark.chaos


def start(path, out, log):
    command = [sys.executable, str(ROOT / "jobs" / "pipeline.py"), "--run", str(path), "--out", str(out)]
    environment = os.environ | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180"}
    return subprocess.Popen(
        [*command, "--address", "local"], stdout=log, stderr=log, start_new_session=True, env=environment
    )


def weights(out):
    return from_bytes((Folder(out) / "checkpoint").read_bytes("weights.pt"))


@pytest.mark.timeout(600)
def test_a_killed_driver_costs_the_steps_since_the_last_checkpoint(tmp_path):
    path = run_file(planted_log(tmp_path), training=TRAINING, cluster="workers = 2\nobject_store_mb = 150")
    with (tmp_path / "log").open("w") as log:
        undisturbed = start(path, tmp_path / "whole", log)
        assert undisturbed.wait(240) == 0
        killed = start(path, tmp_path / "cut", log)
        deadline = time.monotonic() + 120
        resume = ResumeFolder(Folder(tmp_path / "cut"))
        while resume.load().global_step < 20:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(30)
        assert not (tmp_path / "cut" / "checkpoint").exists()
        again = start(path, tmp_path / "cut", log)
        assert again.wait(240) == 0
    assert "resumed_at_epoch" in (tmp_path / "log").read_text()
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-5
