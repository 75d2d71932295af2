"""Training of MIND through raysys against the MIND of torch-rechub and of DeepMatch, two threads each.

All have 64 dimensions, 4 interests, 3 routing rounds and a history of 50, and learn on samples of the same
log. raysys reads and cuts its batches, draws its negatives and takes its steps as a training worker does; its
batch is 1024 with 512 negatives. The peers have their samples in memory and the settings of their own
examples, or easier ones: see `peer_torch_rechub.py` and `peer_deepmatch.py`.

The peers' environment is theirs alone; RAYSYS_PEERS_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.prepare import DATA, ROOT
from benchmarks.train import features, setup

SAMPLES = 300 * 1024
WARM_STEPS = 20
THREADS = 2


class NoPeersError(RuntimeError):
    """There is no interpreter that has the peers."""


def interpreter() -> str:
    """Return the Python of the peers' environment.

    Raises:
        NoPeersError: it is not named, or not there.
    """
    found = os.environ.get("RAYSYS_PEERS_PYTHON", "")
    if not os.access(found, os.X_OK):
        raise NoPeersError(
            f"RAYSYS_PEERS_PYTHON: found {found!r}, expected the Python of an environment made by: "
            "python3.11 -m venv DIR && DIR/bin/pip install -r benchmarks/peers.txt"
        )
    return found


@cache
def samples() -> Path:
    """Return a folder with the first samples of an epoch and the training events of each item, as arrays."""
    from raysys.data.epochs import epoch_batches

    job, catalog, _ = setup(str(features()))
    plan = replace(job.plan, shape=replace(job.plan.shape, user_idx=True))
    batches = [
        batch for step, batch in epoch_batches(plan, 0, job.features, 0, 0, 1) if step * 1024 < SAMPLES
    ]
    folder = DATA / "peers"
    folder.mkdir(exist_ok=True)
    for name, column in {"history": "history", "target": "target", "user": "user_idx"}.items():
        np.save(folder / f"{name}.npy", np.concatenate([batch[column] for batch in batches]))
    np.save(folder / "counts.npy", catalog.item_counts)
    return folder


def rate(command: list[str]) -> float:
    """Return the samples per second that a program prints; all get the memory settings of a worker."""
    from raysys.distributed.cluster import WORKER_MEMORY

    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | WORKER_MEMORY | {"OMP_NUM_THREADS": str(THREADS)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def against(peer: str) -> float:
    """Return samples per second of raysys over those of a peer, each in a process of its own."""
    python, folder = interpreter(), samples()
    ours = rate([sys.executable, "-m", "benchmarks.peers", str(features())])
    theirs = rate([python, str(Path(__file__).with_name(f"peer_{peer}.py")), str(folder)])
    print(f"  raysys {ours:.0f} samples/s, {peer} {theirs:.0f}", flush=True)
    return ours / theirs


def main(out: str) -> None:
    """Train over one epoch as a worker does and print the samples per second after the first steps."""
    import torch

    from raysys.data.epochs import epoch_batches
    from raysys.nn.loss_inputs import LossInputs
    from raysys.training import StepTotals, build_optimizer, train_steps

    torch.set_num_threads(THREADS)
    job, catalog, model = setup(out)
    training = job.run.training
    inputs = LossInputs(training.loss, catalog.item_counts, job.run.model.num_negatives)
    began: list[tuple[float, int]] = []

    def batches() -> Iterator[tuple[int, Mapping[str, torch.Tensor]]]:
        for step, batch in epoch_batches(job.plan, 0, job.features, 0, 0, 1):
            arrays = {**batch, **inputs.arrays(step, batch)}
            yield step, {name: torch.from_numpy(values) for name, values in arrays.items()}

    def after_step(step: int, totals: StepTotals) -> bool:
        if step + 1 == WARM_STEPS:
            began.append((time.perf_counter(), totals.samples))
        return False

    totals = train_steps(model, build_optimizer(model, training), batches(), training, after_step)
    begin, before = began[0]
    print((totals.samples - before) / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(sys.argv[1])
