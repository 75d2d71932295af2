"""Ctrl-C and SIGTERM at any stage: a clean stop, the right exit code, nothing left running, and a resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysys.distributed.checkpoints import ResumeFolder
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

ROOT = Path(__file__).resolve().parents[2]
# hundreds of steps in an epoch, and no checkpoint but at its end
LONG = (
    "epochs = 100000\nbatch_size = 2\nlearning_rate = 0.001\ncheckpoint_every_steps = 1000000\npatience = 0"
)


class Pipeline:
    """`jobs/pipeline.py` as a process of its own, with its lines so far."""

    def __init__(self, path, out, *more):
        command = [
            sys.executable,
            str(ROOT / "jobs" / "pipeline.py"),
            "--run",
            str(path),
            "--out",
            str(out),
            *more,
        ]
        self.log = Path(f"{out}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--address", "local"],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=path.parent,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180"},
            )

    @property
    def text(self):
        return self.log.read_text()

    def wait_for(self, words, seconds=150):
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert self.process.poll() is None, f"ended before {words!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {words!r} in {seconds} s:\n{self.text}"
            time.sleep(0.1)

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(90)


def leftovers(pid):
    """Return Ray processes that were started by a process of this id."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = (Path("/proc") / name / "cmdline").read_bytes()
                status = (Path("/proc") / name / "stat").read_text()
            except OSError:
                continue
            if f"_{pid}/".encode() in command and ") Z " not in status:
                found.append(command.replace(b"\0", b" ")[:80])
    return found


@pytest.fixture
def planted(tmp_path):
    """A log and a run that would train for hours."""
    return run_file(planted_log(tmp_path), training=LONG, cluster="workers = 2\nobject_store_mb = 150")


def test_sigint_while_training_writes_a_checkpoint_and_the_next_call_resumes(planted, tmp_path):
    out = tmp_path / "out"
    first = Pipeline(planted, out)
    first.wait_for("samples_per_s=")
    assert first.stop(signal.SIGINT) == 130, first.text
    assert "run the same command again" in first.text
    assert "Traceback" not in first.text
    state = ResumeFolder(Folder(out)).load()
    assert "stopped=signal" in first.text
    assert state.step > 0, "the checkpoint of the step it was at, not of the end of an epoch"
    assert not (out / "checkpoint").exists()
    time.sleep(2)
    assert leftovers(first.process.pid) == []

    second = Pipeline(planted, out)
    second.wait_for("resumed_at_epoch")
    assert "features=unchanged" in second.text
    second.wait_for("samples_per_s=")
    assert second.stop(signal.SIGTERM) == 143, second.text
    assert "stopped=signal" in second.text
    assert ResumeFolder(Folder(out)).load().global_step > state.global_step


def test_sigterm_while_preparing_leaves_nothing_half_written(planted, tmp_path):
    out = tmp_path / "out"
    job = Pipeline(planted, out)
    job.wait_for("files=1")
    assert job.stop(signal.SIGTERM) == 143, job.text
    assert [name for name in os.listdir(out) if "features" in name] == [] if out.exists() else True
