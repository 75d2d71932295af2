"""MIND of torch-rechub 0.9.0 on samples in memory: prints training samples per second.

    python benchmarks/peer_torch_rechub.py SAMPLES

Runs in the environment of `peers.txt`. Settings are those of its examples/matching/run_ml_mind.py: batch 256,
3 negatives by popularity^0.75 drawn beforehand, its own loader without workers, Adam at 1e-3, the list-wise
loss, five user features of 16 dimensions.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import MIND
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

BATCH, NEGATIVES, WARM_STEPS, STEPS = 256, 3, 20, 600
USERS = ("who", "gender", "age", "occupation", "zip")
DIM, USER_DIM, LENGTH, INTERESTS = 64, 16, 50, 4


def samples(folder: Path) -> dict[str, np.ndarray]:
    """Return histories, padded at the end as in its example, users, targets and negatives."""
    history, target, counts = (np.load(folder / f"{name}.npy") for name in ("history", "target", "counts"))
    users = {name: np.load(folder / f"{name}.npy") for name in USERS}
    share = counts**0.75
    drawn = np.random.default_rng(0).choice(len(counts), (len(target), NEGATIVES), p=share / share.sum())
    history = np.take_along_axis(history, np.argsort(history == 0, axis=1, kind="stable"), axis=1)
    return {**users, "hist_movie_id": history, "movie_id": target, "neg_items": drawn}


def loader(columns: dict[str, np.ndarray], first: int, steps: int) -> DataLoader:
    rows = {name: values[first * BATCH : (first + steps) * BATCH] for name, values in columns.items()}
    data = MatchDataGenerator(rows, np.zeros(steps * BATCH, np.int64))  # the first score is the target's
    return data.generate_dataloader(rows, rows, batch_size=BATCH, num_workers=0)[0]


def main(folder: Path) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(2022)
    columns, num_items = samples(folder), len(np.load(folder / "counts.npy"))
    item = {"vocab_size": num_items, "embed_dim": DIM}
    model = MIND(
        [SparseFeature(name, int(columns[name].max()) + 1, USER_DIM) for name in USERS],
        [SequenceFeature("hist_movie_id", **item, pooling="concat", shared_with="movie_id")],
        [SparseFeature("movie_id", **item)],
        [SequenceFeature("neg_items", **item, pooling="concat", shared_with="movie_id")],
        max_length=LENGTH,
        temperature=0.02,
        interest_num=INTERESTS,
    )
    trainer = MatchTrainer(model, mode=2, optimizer_params={"lr": 1e-3, "weight_decay": 1e-6}, device="cpu")
    trainer.train_one_epoch(loader(columns, 0, WARM_STEPS))
    timed = loader(columns, WARM_STEPS, STEPS)
    begin = time.perf_counter()
    trainer.train_one_epoch(timed)
    print(STEPS * BATCH / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
