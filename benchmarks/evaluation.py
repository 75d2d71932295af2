"""Evaluation at the size of MovieLens 1M: 6,040 users, 3,416 items, a million events, two index shards.

Everything that `evaluation/` holds is made: the search, all metrics of the model and the baselines,
intervals, slices, interest health, lists and per-user values on disk, the sample of users. Start-up, the
processes of shards and tasks with their imports, is what the same evaluation of 60 users takes.
"""

import json
import logging
import shutil
import time
from functools import cache
from pathlib import Path

from benchmarks.logs import LOG_KEYS, write_log
from benchmarks.prepare import DATA

USERS, FEW, ITEMS, ROWS = 6_170, 60, 3_416, 1_000_000
"""Of the users of the log about 130 have too few events to be measured, which leaves 6,040."""
RUN = (
    LOG_KEYS
    + """[split]
filter_seen = true
[model]
name = "mind"
num_interests = 4
profile_features = []
[training]
batch_size = 256
epochs = 1
samples_per_user = 10
patience = 0
valid_users = 100
[cluster]
workers = 1
[index]
shards = 2
[evaluation]
ks = [10, 50, 200]
"""
)


@cache
def finished(users: int) -> tuple[Path, Path]:
    """Return the run file and the folder of a run that is trained, indexed and measured once."""
    from raysys.distributed.pipeline import pipeline
    from raysys.run import load_run
    from raysys.storage import Folder

    rows = ROWS * users // USERS
    log = write_log(DATA / f"evaluation-log-{users}", rows, users, num_items=ITEMS)
    file, out = DATA / f"evaluation-{users}.toml", DATA / f"evaluation-{users}"
    file.write_text(RUN.format(log=log))
    pipeline(load_run(str(file)), Folder(str(out)))
    return file, out


def measured_s(users: int) -> float:
    """Return the seconds of `evaluate`, start-up included."""
    from raysys.distributed.evaluator import evaluate
    from raysys.run import load_run
    from raysys.storage import Folder

    file, out = finished(users)
    shutil.rmtree(out / "evaluation")
    begin = time.monotonic()
    evaluate(load_run(str(file)), Folder(str(out)))
    return time.monotonic() - begin


def ml1m_s() -> float:
    """Return the seconds of the evaluation of 6,040 users beyond start-up."""
    from raysys.distributed.cluster import connect
    from raysys.run import ClusterConfig

    logging.disable(logging.WARNING)
    connect("local", ClusterConfig())
    measured_s(FEW), measured_s(USERS)  # what a first one on a cluster also starts, later ones find
    few, all_users = measured_s(FEW), measured_s(USERS)
    queries = json.loads((DATA / f"evaluation-{USERS}/evaluation/metrics.json").read_text())["protocol"][
        "queries"
    ]
    print(f"  {queries} users {all_users:.2f} s, {FEW} users {few:.2f} s", flush=True)
    return all_users - few
