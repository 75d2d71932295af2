"""What jobs/plan.py predicts against what is then measured.

Each figure is the agreement 1 - |predicted / measured - 1|, so that 0.8 is "within 20 %" and neither too much
nor too little counts as good. Speeds are probed before and after the training that they are compared with, so
that a busy machine bends both.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import train
from benchmarks.logs import LOG_KEYS, write_log
from benchmarks.prepare import DATA, ROOT, run_file
from benchmarks.process_tree import Watch

KINDS = (
    "exact",
    "flat",
    "IVF256,Flat",
    "IVF256,SQ8",
    "HNSW32",
    "PQ16",
    "IVF256,PQ16",
    "OPQ16_64,IVF256,PQ16",
)
DIM = 64
TRAINED_ON = 10_000
LARGE = (
    LOG_KEYS
    + """[model]
name = "mind"
embedding_dim = 256
profile_features = []
[training]
epochs = 1
samples_per_user = 1
valid_users = 100
checkpoint_every_steps = 10
[cluster]
workers = 0
"""
)


def agreement(name: str, predicted: float, measured: float, unit: str) -> float:
    """Print both figures and return how well they agree."""
    ratio = predicted / measured
    print(
        f"  {name}: predicted {predicted:.5g} {unit}, measured {measured:.5g}, ratio {ratio:.3f}", flush=True
    )
    return 1 - abs(ratio - 1)


def planned(run: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Return plan.json of a run; whether it fits does not matter."""
    command = [sys.executable, str(ROOT / "jobs" / "plan.py"), "--run", str(run), "--out", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads((out / "plan.json").read_text())


@cache
def prepared(millions: int) -> tuple[Path, float]:
    """Return the folder of a log that jobs/prepare.py has prepared, and its peak of memory in GB."""
    out = DATA / f"plan-{millions}m"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), "--run", str(run_file(millions))]
    with Watch(memory=True) as watch:
        subprocess.run([*command, "--out", str(out)], capture_output=True, check=True)
    return out, watch.peak_gb


@cache
def planned_log(millions: int) -> dict[str, Any]:
    """Return the plan of a log that was not prepared."""
    return planned(run_file(millions), DATA / f"plan-only-{millions}m", "--no-probe")


def features_disk(millions: int = 3) -> float:
    """Return the agreement on the bytes of `features/`, foretold from the log alone."""
    manifest = json.loads((prepared(millions)[0] / "features" / "manifest.json").read_text())
    predicted = planned_log(millions)["disk_bytes"]["features"]
    return agreement("features", predicted / 1e6, sum(manifest["files"].values()) / 1e6, "MB")


def features_counts(millions: int = 3) -> float:
    """Return the worst agreement on users, items, events and samples, foretold from the log alone."""
    info = json.loads((prepared(millions)[0] / "features" / "manifest.json").read_text())["info"]
    sizes = planned_log(millions)["sizes"]
    return min(
        agreement(name, sizes[name], info[name], "") for name in ("users", "items", "events", "samples")
    )


def prepare_memory(millions: int = 10) -> float:
    """Return the agreement on the peak memory of a node while a log is prepared."""
    predicted = planned_log(millions)["node_bytes"]["prepare"]
    return agreement("prepare", predicted / 1e9, prepared(millions)[1], "GB")


def _items(kind: str) -> int:
    """Return how many vectors an index has: few where adding one takes long."""
    return 40_000 if kind.startswith("HNSW") else 200_000


@cache
def _indexes() -> dict[str, tuple[float, float, float]]:
    """Return kind -> bytes of the file, resident bytes and peak of a process that loads it."""
    from raysys.retrieval.index import IndexConfig, build_index, set_search_threads
    from raysys.storage import Folder

    set_search_threads(1)  # on a busy machine several that wait for each other take many times as long
    vectors = np.random.default_rng(0).normal(size=(_items(""), DIM)).astype(np.float32)
    small = build_index(IndexConfig(kind="flat"), "inner_product", DIM)
    small.add(np.arange(2, 12), vectors[:10])
    found: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            index = build_index(IndexConfig(kind=kind), "inner_product", DIM)
            index.train(vectors[:TRAINED_ON])
            index.add(np.arange(2, _items(kind) + 2), vectors[: _items(kind)])
            index.save(Folder(folder), "one")
            small.save(Folder(folder), "small")
            command = [sys.executable, "-m", "benchmarks.plan", folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            resident, peak, _ = json.loads(done.stdout.splitlines()[-1])
            found[kind] = (os.path.getsize(f"{folder}/one"), resident, peak)
    return found


def index_bytes(what: str) -> float:
    """Return the worst agreement over the kinds on one of "file", "resident" and "loading"."""
    from raysys.retrieval.index import IndexConfig
    from raysys.retrieval.index_size import index_size

    place = ("file", "resident", "loading").index(what)
    worst = 1.0
    for kind, measured in _indexes().items():
        size = index_size(IndexConfig(kind=kind), "inner_product", DIM, _items(kind))
        told = f"{kind} {what}"
        worst = min(worst, agreement(told, getattr(size, what) / 1e6, measured[place] / 1e6, "MB"))
    return worst


def training_memory() -> float:
    """Return the agreement on the peak memory of a process that trains a large table, without Ray."""
    from raysys.planning.training import RAY_IMPORTS

    log, out = write_log(DATA / "plan-log", 1_000_000, 20_000), DATA / "plan-large"
    run = DATA / "plan-large.toml"
    run.write_text(LARGE.format(log=log))
    _job("prepare", run, out)
    worker = planned(run, out)["worker"]
    _forget_training(out)
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--run", str(run), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return agreement("training", (worker["host"] - RAY_IMPORTS) / 1e9, usage.ru_maxrss * 1024 / 1e9, "GB")


def training_node_memory(workers: int = 2) -> float:
    """Return the agreement on the peak memory of all processes of a training on Ray."""
    out, run = train.features("mind"), train.run_file("mind", workers)
    predicted = planned(run, out)["node_bytes"]["train"]
    _forget_training(out)
    with Watch(memory=True) as watch:
        _job("train", run, out)
    return agreement(f"training on {workers} workers", predicted / 1e9, watch.peak_gb, "GB")


def speed(model: str, workers: int = 1) -> float:
    """Return the agreement on samples per second of a training of two epochs on Ray."""
    out, run = train.features(model), train.run_file(model, workers)
    before = _samples_per_s(planned(run, out), workers)
    _forget_training(out)
    _job("train", run, out)
    after = _samples_per_s(planned(run, out), workers)
    measured = json.loads((out / "checkpoint" / "manifest.json").read_text())["info"]["samples_per_s"]
    print(f"  probed before {before:.0f}, after {after:.0f}", flush=True)
    return agreement(f"{model}, {workers} workers", (before + after) / 2, measured, "samples/s")


def _samples_per_s(plan: dict[str, Any], workers: int) -> float:
    return next(time["samples_per_s"] for time in plan["times"] if time["workers"] == workers)


def _forget_training(out: Path) -> None:
    for name in ("checkpoint", ".checkpoint.resume", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)


def _job(name: str, run: Path, out: Path, flags: Sequence[str] = ()) -> None:
    command = [
        sys.executable,
        str(ROOT / "jobs" / f"{name}.py"),
        "--run",
        str(run),
        "--out",
        str(out),
        *flags,
    ]
    subprocess.run(command, capture_output=True, check=True)


def main(folder: str) -> None:
    """Load an index in this process and print by how many bytes it has grown, and at most."""
    from raysys.planning.process_memory import Memory
    from raysys.retrieval.index import load_index
    from raysys.storage import Folder

    place, memory = Folder(folder), Memory()
    load_index(place, "small").search(np.zeros((1, DIM), np.float32), 1)  # what a first search sets up
    before = memory.now()
    memory.forget_peak()
    index = load_index(place, "one")
    print(json.dumps([memory.now() - before, memory.peak() - before, index.num_items]))


if __name__ == "__main__":
    main(sys.argv[1])
