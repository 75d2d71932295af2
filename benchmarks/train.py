"""Training through raysys against the same model in a plain loop, and two workers against one.

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

from benchmarks.logs import LOG_KEYS, write_log
from benchmarks.prepare import DATA, ROOT

BATCH = 1024
USERS, ITEMS, ROWS = 6_000, 3_500, 1_000_000
RUN = (
    LOG_KEYS
    + """[data.users]
path = "{log}/users.parquet"
id = "user_id"
[data.users.features]
who = {{}}
gender = {{}}
age = {{}}
occupation = {{}}
zip = {{}}
{model}
[training]
batch_size = {batch}
epochs = {epochs}
samples_per_user = {samples}
patience = 0
valid_users = 100
checkpoint_every_steps = 100000
[cluster]
workers = {workers}
resources_per_worker = {{ CPU = 1 }}
"""
)

MODELS = {
    "mind": """
[model]
name = "mind"
num_interests = 4
profile_features = []
""",
    "sdm": """
[data.items]
path = "{log}/items.parquet"
id = "item_id"
[data.items.features]
category = {{}}
department = {{}}
brand = {{}}
shop = {{}}
[session]
last_n = 5
long_term_s = 31536000
long_term_max = 50
[model]
name = "sdm"
long_features = ["item", "category", "department", "brand", "shop"]
profile_features = ["gender", "age", "occupation", "zip"]
""",
}
SAMPLES = {"mind": 0, "sdm": 20}
"""Training samples of a user in an epoch; 0: all. A step of SDM takes several times as long."""
PANEL = ROOT / "jobs" / "runs" / "sdm_completejourney.toml"
"""The run file of the full retail panel, whose data jobs/download.py fetches."""


@cache
def features(model: str = "mind") -> Path:
    """Return the folder of a run whose features are prepared; "panel" is SDM on the full retail panel."""
    out = DATA / f"train-{model}"
    if model != "panel":
        write_log(DATA / "train-log", ROWS, USERS, num_items=ITEMS)
    _job("prepare", run_file(model, workers=1), out)
    return out


def run_file(model: str, workers: int, epochs: int = 2, batch: int = BATCH) -> Path:
    """Write a run file and return it; of the panel it is the one of the project."""
    if model == "panel":
        return PANEL
    log = DATA / "train-log"
    path = DATA / f"train-{model}-{workers}-{epochs}-{batch}.toml"
    own = MODELS[model].format(log=log)
    samples = SAMPLES[model]
    text = RUN.format(log=log, workers=workers, epochs=epochs, batch=batch, model=own, samples=samples)
    path.write_text(text)
    return path


def _job(name: str, run: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--run", str(run), "--out", str(out)]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, capture_output=True, check=True)


ONE_THREAD = (
    "training.epochs=2",
    "training.patience=0",
    "training.valid_users=100",
    "training.checkpoint_every_steps=100000",
    "training.samples_per_user=20",
    "cluster.workers=1",
    "cluster.resources_per_worker={CPU=1}",
)
"""What the run of the panel is measured with: two epochs of a part of its samples, one worker."""


def trained(workers: int, batch: int = BATCH, model: str = "mind") -> tuple[float, float]:
    """Return samples per second of the second epoch, and of the first one with its start.

    Args:
        workers: of one thread each.
        batch: samples of a step, those of all workers together.
        model: of `MODELS`, or "panel".
    """
    out = features(model)
    for name in ("checkpoint", ".checkpoint.resume", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    _job("train", run_file(model, workers, batch=batch), out, ONE_THREAD if model == "panel" else ())
    curve = json.loads((out / "checkpoint" / "state.json").read_text())["curve"]
    first, second = curve[0], curve[1]
    steady = (second["samples"] - first["samples"]) / (second["train_s"] - first["train_s"])
    return steady, first["samples"] / first["train_s"]


def plain(model: str = "mind") -> float:
    """Return samples per second of the plain loop with one thread, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train", str(features(model)), model]
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


def sdm_steady_vs_plain(model: str = "sdm") -> float:
    """Return what `steady_vs_plain` does, for SDM with five long-term sets."""
    steady, theirs = trained(1, model=model)[0], plain(model)
    print(f"  raysys {steady:.0f} samples/s, plain loop {theirs:.0f}", flush=True)
    return steady / theirs


def setup(out: str, overrides: Sequence[str] = (), model: str = "mind") -> tuple[Any, Any, Any]:
    """Return the job of a run whose features are prepared, its catalog and a fresh model.

    Args:
        out: folder of the run.
        overrides: as `--set` takes them.
        model: of `MODELS`, or "panel".
    """
    from raysys.distributed.loop import Job, catalog_of
    from raysys.manifest import read_manifest
    from raysys.models import build_model
    from raysys.run import load_run
    from raysys.storage import Folder

    folder = Folder(out)
    run = load_run(str(run_file(model, workers=1)), overrides)
    manifest = read_manifest(folder / "features", "features", "prepare")
    job = Job(run, folder / "features", manifest, folder)
    catalog = catalog_of(job.features, manifest)
    return job, catalog, build_model(run.model_name, run.model, catalog, run.training.loss, 0)


def main(out: str, name: str) -> None:
    """Run the plain loop over one epoch and print its samples per second."""
    import torch

    from raysys.data.epochs import epoch_batches
    from raysys.nn.negatives import NegativeSampler
    from raysys.training import build_optimizer

    torch.set_num_threads(1)
    job, catalog, model = setup(out, ONE_THREAD if name == "panel" else (), name)
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
    main(sys.argv[1], sys.argv[2])
