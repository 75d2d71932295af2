"""Training of MIND through raysys against the same model in a plain loop, and two workers against one.

The log has as many users and items as MovieLens 1M. A plain loop has every batch of an epoch in memory as
tensors before it starts, negatives with them; raysys reads, cuts, draws, logs and reports as it always does.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.logs import write_log
from benchmarks.prepare import DATA, ROOT

BATCH = 1024
USERS, ITEMS, ROWS = 6_000, 3_500, 1_000_000
RUN = """
[data]
events = "{log}/events/*.parquet"
[data.columns]
user = "user_id"
item = "item_id"
time = "timestamp"
[data.users]
path = "{log}/users.parquet"
id = "user_id"
[data.users.features]
who = {{}}
gender = {{}}
age = {{}}
occupation = {{}}
zip = {{}}
[model]
name = "mind"
num_interests = 4
profile_features = []
[training]
batch_size = {batch}
epochs = {epochs}
patience = 0
valid_users = 100
checkpoint_every_steps = 100000
[cluster]
workers = {workers}
resources_per_worker = {{ CPU = 1 }}
"""


@cache
def features() -> Path:
    """Return the folder of a run whose features are prepared."""
    out = DATA / "train"
    log = write_log(DATA / "train-log", ROWS, USERS, num_items=ITEMS)
    _job("prepare", run_file(log, workers=1), out)
    return out


def run_file(log: Path, workers: int, epochs: int = 2, batch: int = BATCH) -> Path:
    path = DATA / f"train-{workers}-{epochs}-{batch}.toml"
    path.write_text(RUN.format(log=log, workers=workers, epochs=epochs, batch=batch))
    return path


def _job(name: str, run: Path, out: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--run", str(run), "--out", str(out)]
    subprocess.run(command, capture_output=True, check=True)


def trained(workers: int, batch: int = BATCH) -> tuple[float, float]:
    """Return samples per second of the second epoch, and of the first one with its start.

    Args:
        workers: of one thread each.
        batch: samples of a step, those of all workers together.
    """
    out = features()
    for name in ("checkpoint", ".checkpoint.resume", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    _job("train", run_file(DATA / "train-log", workers, batch=batch), out)
    curve = json.loads((out / "checkpoint" / "state.json").read_text())["curve"]
    first, second = curve[0], curve[1]
    steady = (second["samples"] - first["samples"]) / (second["train_s"] - first["train_s"])
    return steady, first["samples"] / first["train_s"]


def plain() -> float:
    """Return samples per second of the plain loop with one thread, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train", str(features())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@cache
def _round(number: int) -> tuple[float, float, float]:
    """Return samples per second of raysys from the second epoch on and of its first epoch, and of the plain
    loop, measured one after the other."""
    steady, first = trained(1)
    theirs = plain()
    print(f"  raysys {steady:.0f} samples/s, first epoch {first:.0f}, plain loop {theirs:.0f}", flush=True)
    return steady, first, theirs


_rounds: Counter[str] = Counter()


def _next_round(name: str) -> tuple[float, float, float]:
    """Return the next round of a benchmark; two benchmarks of one program run share their rounds."""
    _rounds[name] += 1
    return _round(_rounds[name])


def steady_vs_plain() -> float:
    """Return raysys' samples per second with one worker, from the second epoch on, over the plain loop's."""
    steady, _, theirs = _next_round("steady")
    return steady / theirs


def epoch_vs_plain() -> float:
    """Return the same for the first epoch, the first batch with it."""
    _, first, theirs = _next_round("epoch")
    return first / theirs


def two_workers_vs_one() -> float:
    """Return samples per second of two workers of one thread over one worker of one thread.

    Each of the two has the 1024 samples of a step that one worker has in the other benchmarks, so that the
    batch of both together is 2048; the one worker takes the same batch.
    """
    two, one = trained(2, 2 * BATCH)[0], trained(1, 2 * BATCH)[0]
    print(f"  two workers {two:.0f} samples/s, one {one:.0f}", flush=True)
    return two / one


def two_workers_vs_one_each() -> float:
    """Return the same with 1024 samples of a step for every worker, the one worker too."""
    two, one = trained(2, 2 * BATCH)[0], trained(1)[0]
    print(f"  two workers {two:.0f} samples/s, one {one:.0f}", flush=True)
    return two / one


def two_workers_vs_one_small() -> float:
    """Return the same for a batch of 1024, 512 samples for each of the two."""
    two, one = trained(2)[0], trained(1)[0]
    print(f"  two workers {two:.0f} samples/s, one {one:.0f}", flush=True)
    return two / one


def setup(out: str, overrides: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Return the job of a run whose features are prepared, its catalog and a fresh model.

    Args:
        out: folder of the run.
        overrides: as `--set` takes them.
    """
    from raysys.distributed.loop import Job, catalog_of
    from raysys.manifest import read_manifest
    from raysys.models import build_model
    from raysys.run import load_run
    from raysys.storage import Folder

    folder = Folder(out)
    run = load_run(str(run_file(DATA / "train-log", workers=1)), overrides)
    manifest = read_manifest(folder / "features", "features", "prepare")
    job = Job(run, folder / "features", manifest, folder)
    catalog = catalog_of(job.features, manifest)
    return job, catalog, build_model("mind", run.model, catalog, run.training.loss, 0)


def main(out: str) -> None:
    """Run the plain loop over one epoch and print its samples per second."""
    import torch

    from raysys.data.epochs import epoch_batches
    from raysys.nn.negatives import NegativeSampler
    from raysys.training import build_optimizer

    torch.set_num_threads(1)
    job, catalog, model = setup(out)
    run = job.run
    optimizer = build_optimizer(model, run.training)
    sampler = NegativeSampler("popularity", catalog.item_counts, run.model.num_negatives)
    batches: list[dict[str, Any]] = []
    for step, arrays in epoch_batches(job.plan, 0, job.features, 0, 0, 1):
        negatives, log_expected = sampler.draw(step)
        arrays = {**arrays, "negatives": negatives, "log_expected": log_expected}
        batches.append({name: torch.from_numpy(values) for name, values in arrays.items()})
    begin, samples = 0.0, 0
    for number, batch in enumerate(batches):
        if number == 20:
            begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
        samples += len(batch["target"]) if number >= 20 else 0
    print(samples / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(sys.argv[1])
