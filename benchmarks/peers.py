"""Training of MIND through raysys against the MIND of torch-rechub and of DeepMatch, two threads each.

All have 64 dimensions, 4 interests, 3 routing rounds, a history of 50 and five user features, those of
MovieLens 1M in number and size, and learn on samples of the same log; after its capsules raysys has the
layers that the peer has. raysys reads and cuts its batches, draws its negatives and takes its steps as a
training worker does; its batch is 1024 with 512 negatives. The peers have their samples in memory and the
settings of their own examples, or easier ones: see `peer_torch_rechub.py` and `peer_deepmatch.py`. Every
program runs as its users start it: raysys sets the C library's memory options for its workers, the peers do
not; RAYSYS_PEERS_MEMORY=1 gives them these options too.

The peers' environment is theirs alone; RAYSYS_PEERS_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.prepare import DATA, ROOT
from benchmarks.train import features, setup

USER_FEATURES = ("who", "gender", "age", "occupation", "zip")
WITH_USERS = ['model.profile_features=["*"]']
LAYERS = {"torch_rechub": ["model.hidden_dims=[]"], "deepmatch": ["model.hidden_dims=[128]"]}
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

    job, catalog, _ = setup(str(features()), WITH_USERS)
    batches = [
        batch for step, batch in epoch_batches(job.plan, 0, job.features, 0, 0, 1) if step * 1024 < SAMPLES
    ]
    folder = DATA / "peers"
    folder.mkdir(exist_ok=True)
    columns = {"history": "history", "target": "target", **{f: f"profile_{f}" for f in USER_FEATURES}}
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", np.concatenate([batch[column] for batch in batches]))
    np.save(folder / "counts.npy", catalog.item_counts)
    return folder


def rate(command: list[str], memory: bool) -> float:
    """Return the samples per second that a program prints, with the memory options of a worker or without."""
    from raysys.distributed.cluster import WORKER_MEMORY

    options = WORKER_MEMORY if memory else {}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | options | {"OMP_NUM_THREADS": str(THREADS)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def against(peer: str) -> float:
    """Return samples per second of raysys over those of a peer, each in a process of its own."""
    python, folder = interpreter(), samples()
    ours = rate([sys.executable, "-m", "benchmarks.peers", str(features()), *LAYERS[peer]], memory=True)
    command = [python, str(Path(__file__).with_name(f"peer_{peer}.py")), str(folder)]
    theirs = rate(command, memory=os.environ.get("RAYSYS_PEERS_MEMORY") == "1")
    print(f"  raysys {ours:.0f} samples/s, {peer} {theirs:.0f}", flush=True)
    return ours / theirs


def main(out: str, overrides: list[str]) -> None:
    """Train over one epoch as a worker does and print the samples per second after the first steps."""
    import torch

    from raysys.data.epochs import ahead, epoch_batches
    from raysys.distributed.rank import has_core_to_spare
    from raysys.nn.loss_inputs import LossInputs
    from raysys.training import StepTotals, build_optimizer, train_steps

    torch.set_num_threads(THREADS)
    job, catalog, model = setup(out, [*WITH_USERS, *overrides])
    training = job.run.training
    inputs = LossInputs(training.loss, catalog.item_counts, job.run.model.num_negatives)
    began: list[tuple[float, int]] = []

    def batches() -> Iterator[tuple[int, Mapping[str, torch.Tensor]]]:
        cut = epoch_batches(job.plan, 0, job.features, 0, 0, 1)
        arrays = ((step, {**batch, **inputs.arrays(step, batch)}) for step, batch in cut)
        for step, named in ahead(arrays) if has_core_to_spare("cpu", on_node=1) else arrays:
            yield step, {name: torch.from_numpy(values) for name, values in named.items()}

    def after_step(step: int, totals: StepTotals) -> bool:
        if step + 1 == WARM_STEPS:
            began.append((time.perf_counter(), totals.samples))
        return False

    totals = train_steps(model, build_optimizer(model, training), batches(), training, after_step)
    begin, before = began[0]
    print((totals.samples - before) / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
