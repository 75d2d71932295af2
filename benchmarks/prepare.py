"""The data stage against polars, which does the same work in one process.

Figures are CPU seconds of the whole process tree: what both cost, whatever else the machine does; wall times
are printed beside them. Both sides must agree on events, users, items, sessions, training events and the sums
of long-term starts and item numbers, or the benchmark fails.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.logs import FEATURES, LOG_KEYS, write_log
from benchmarks.process_tree import Watch

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(tempfile.gettempdir()) / "raysys-benchmarks"
USERS_PER_MILLION_ROWS = 20_000

RUN = (
    LOG_KEYS
    + """[data.items]
path = "{log}/items.parquet"
id = "item_id"
[data.items.features]
{features}
[session]
gap_s = 1800
max_items = 1000000
[model]
name = "mind"
"""
)


@cache
def log_of(millions: int) -> Path:
    """Return the folder of a log of so many million rows, written once."""
    return write_log(DATA / f"log-{millions}m", millions * 10**6, millions * USERS_PER_MILLION_ROWS)


def run_file(millions: int) -> Path:
    path = DATA / f"run-{millions}m.toml"
    features = "\n".join(f"{name} = {{}}" for name in FEATURES)
    path.write_text(RUN.format(log=log_of(millions), features=features))
    return path


def polars_run(millions: int) -> tuple[float, float, dict[str, Any]]:
    """Return wall and CPU seconds of the yardstick in a process of its own, and what it made."""
    command = [sys.executable, str(ROOT / "benchmarks" / "polars_prepare.py"), str(log_of(millions))]
    with Watch() as watch:
        begin = time.monotonic()
        done = subprocess.run([*command, str(DATA / "polars")], capture_output=True, text=True, check=True)
        wall = time.monotonic() - begin
    return wall, watch.cpu_s, json.loads(done.stdout)


def check_equal(features: Path, expected: dict[str, Any]) -> None:
    """Raise AssertionError where our features are not what polars made."""
    from raysys.data.history import load_sequences
    from raysys.storage import Folder

    info = json.loads((features / "manifest.json").read_text())["info"]
    names = [f"sequences/{name}" for name in info["part_events"]]
    sums = {"long_start": 0, "item_idx": 0}
    for name in names:
        events = load_sequences(Folder(features), [name], tuple(sums)).events
        sums = {column: total + int(events[column].sum()) for column, total in sums.items()}
    found = {name: info[name] for name in ("events", "users", "items", "sessions")}
    found |= {"train": info["train_events"], **sums}
    if found != expected:
        raise AssertionError(f"not the same work: raysys {found}, polars {expected}")


def cold(millions: int) -> float:
    """Return polars' CPU seconds over those of `jobs/prepare.py`, from no process at all."""
    run, out = run_file(millions), DATA / "cold"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), "--run", str(run), "--out", str(out)]
    with Watch() as watch:
        begin = time.monotonic()
        subprocess.run(command, capture_output=True, check=True)
        wall = time.monotonic() - begin
    polars_wall, polars_cpu, expected = polars_run(millions)
    check_equal(out / "features", expected)
    _tell(f"{millions} M rows cold", wall, watch.cpu_s, polars_wall, polars_cpu)
    return polars_cpu / watch.cpu_s


def warm(millions: int) -> float:
    """Return polars' CPU seconds over those of the stage on a cluster whose workers have run it before."""
    wall, cpu, _ = _warm_run(millions, memory=False)
    polars_wall, polars_cpu, expected = polars_run(millions)
    check_equal(DATA / "warm" / "features", expected)
    _tell(f"{millions} M rows warm", wall, cpu, polars_wall, polars_cpu)
    return polars_cpu / cpu


def peak_gb(millions: int) -> float:
    """Return the peak of memory over all processes of the stage, Ray's own among them."""
    return _warm_run(millions, memory=True)[2]


def _warm_run(millions: int, memory: bool) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak GB of the stage after two small runs on the same cluster."""
    script = Path(__file__).with_name("warm_prepare.py")
    files = [str(run_file(3)), str(run_file(3)), str(run_file(millions))]
    log_of(millions)
    command = [sys.executable, str(script), str(DATA / "warm"), str(int(memory)), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _tell(what: str, wall: float, cpu: float, polars_wall: float, polars_cpu: float) -> None:
    print(
        f"  {what}: raysys {wall:.1f} s, {cpu:.1f} CPU s; polars {polars_wall:.1f} s, {polars_cpu:.1f} CPU s",
        flush=True,
    )


def kernel() -> float:
    """Return polars' CPU seconds over ours for sort, sessions and lists of 10 M rows in memory."""
    return _kernel("lists")


def windows() -> float:
    """Return polars' CPU seconds over ours for sort and windows of 10 M rows in memory."""
    return _kernel("windows")


def _kernel(name: str) -> float:
    """Run both sides of a kernel, each in a process of its own, with a worker's memory settings for ours."""
    from raysys.distributed.cluster import WORKER_MEMORY

    found: dict[str, tuple[float, list[int]]] = {}
    for side, settings in (("ours", WORKER_MEMORY), ("polars", {})):
        command = [sys.executable, "-m", "benchmarks.kernels", name, side, str(log_of(10))]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=True
        )
        found[side] = tuple(json.loads(done.stdout))
    (our_cpu, our_result), (their_cpu, their_result) = found["ours"], found["polars"]
    if our_result != their_result:
        raise AssertionError(f"not the same work: raysys {our_result}, polars {their_result}")
    print(f"  {name}: raysys {our_cpu:.2f} CPU s, polars {their_cpu:.2f} CPU s", flush=True)
    return their_cpu / our_cpu
