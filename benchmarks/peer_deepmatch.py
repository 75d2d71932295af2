"""MIND of DeepMatch 0.3.2 on samples in memory: prints training samples per second.

    python benchmarks/peer_deepmatch.py SAMPLES

Runs in the environment of `peers.txt`. Settings are those of its notebook
examples/colab_MovieLen1M_YoutubeDNN.ipynb, which holds MIND as the alternative: batch 512, 255 negatives by
popularity, Adam, graph mode, five user features of 16 dimensions. Easier than there: one hidden layer, not
two.
"""

import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf
from deepctr.feature_column import SparseFeat, VarLenSparseFeat
from deepmatch.models import MIND
from deepmatch.utils import NegativeSampler, sampledsoftmaxloss

BATCH, NEGATIVES, WARM_STEPS, STEPS = 512, 255, 20, 480
USERS = ("who", "gender", "age", "occupation", "zip")
DIM, USER_DIM, HIDDEN, LENGTH, INTERESTS = 64, 16, 128, 50, 4


def samples(folder: Path) -> dict[str, np.ndarray]:
    """Return histories, padded at the end as in its examples, their lengths and the targets."""
    history, target = np.load(folder / "history.npy"), np.load(folder / "target.npy")
    history = np.take_along_axis(history, np.argsort(history == 0, axis=1, kind="stable"), axis=1)
    users = {name: np.load(folder / f"{name}.npy") for name in USERS}
    columns = {**users, "hist_movie_id": history, "hist_len": (history != 0).sum(1), "movie_id": target}
    return {name: values[: (WARM_STEPS + STEPS) * BATCH] for name, values in columns.items()}


def main(folder: Path) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    tf.compat.v1.disable_eager_execution()  # as in its examples
    counts = np.load(folder / "counts.npy")
    item = SparseFeat("movie_id", len(counts), DIM)
    behaviour = SparseFeat("hist_movie_id", len(counts), DIM, embedding_name="movie_id")
    ready, warm = samples(folder), WARM_STEPS * BATCH
    users = [SparseFeat(name, int(ready[name].max()) + 1, USER_DIM) for name in USERS]
    model = MIND(
        [*users, VarLenSparseFeat(behaviour, LENGTH, "mean", "hist_len")],
        [item],
        k_max=INTERESTS,
        user_dnn_hidden_units=(HIDDEN, DIM),
        sampler_config=NegativeSampler("frequency", NEGATIVES, "movie_id", item_count=counts.tolist()),
    )
    model.compile(optimizer="adam", loss=sampledsoftmaxloss)
    label = np.ones(len(ready["movie_id"]))
    model.fit({k: v[:warm] for k, v in ready.items()}, label[:warm], batch_size=BATCH, verbose=0)
    ready = {name: values[warm:] for name, values in ready.items()}
    begin = time.perf_counter()
    model.fit(ready, label[warm:], batch_size=BATCH, verbose=0)
    print(STEPS * BATCH / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
