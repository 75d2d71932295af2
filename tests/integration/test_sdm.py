"""SDM through the whole line: the same weights for any number of workers and any interruption, and what the
evaluation tells of sessions, sets and the gate."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import pipeline
from raysys.data.parquet import read_table
from raysys.data.queries import read_queries
from raysys.distributed.checkpoints import ResumeFolder, from_bytes, load_trained
from raysys.distributed.trainer import Job, Rank, train, train_loop
from raysys.manifest import read_manifest
from raysys.retrieval.exact import exact_search, vector_norms
from raysys.retrieval.vectors import encode_catalogue, serving
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

TOLERANCE = 2e-5
"""Sums over another number of ranks are rounded in another order; weights are of size 0.1 to 1."""
MODEL = """name = "sdm"
embedding_dim = 16
num_heads = 2
num_negatives = 20
history_length = 9
long_features = ["item", "group", "event_store"]
event_features = ["store"]
history_dropout = 0.1
dropout = 0.1
next_items = 2"""


def log_with_stores(folder):
    """A planted log whose events have a store, and whose sessions break after every third event."""
    planted_log(folder)
    table = pq.read_table(folder / "events.parquet")
    at = table.column("timestamp").to_numpy()
    store = [f"s{value}" for value in at // 60 % 5]
    pq.write_table(table.append_column("store", [store]), folder / "events.parquet")
    return run_file(
        folder,
        **{
            "data.columns": 'user = "user_id"\nitem = "item_id"\ntime = "timestamp"\nstore = "store"',
            "session": "last_n = 3",
            "model": MODEL,
            "cluster": "workers = 2\nobject_store_mb = 150",
        },
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):
    """A finished run on two workers and two shards."""
    folder = tmp_path_factory.mktemp("sdm")
    path = log_with_stores(folder)
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    return path, Folder(folder / "out")


def alone(finished, folder, *overrides):
    """Return a job in this process on the same features."""
    path, out = finished
    run = load_run(str(path), ("cluster.workers=0", *overrides))
    folder.mkdir()
    (folder / "features").symlink_to((out / "features").path)
    features = Folder(folder) / "features"
    return Job(run, features, read_manifest(features, "features", "prepare"), Folder(folder))


def weights_of(out):
    return from_bytes((out / "checkpoint").read_bytes("weights.pt"))


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_two_workers_equal_one_and_resumed_equals_uninterrupted(finished, tmp_path):
    # Dropped items and numbers are drawn per rank, so ranks are compared without them.
    still = ("model.dropout=0.0", "model.history_dropout=0.0", "training.epochs=1")
    one = alone(finished, tmp_path / "one", *still)
    train(one.run, one.out)
    two = alone(finished, tmp_path / "two", *still, "cluster.workers=2")
    train(two.run, two.out)
    assert largest_difference(weights_of(one.out), weights_of(two.out)) < TOLERANCE
    whole = alone(finished, tmp_path / "whole", "training.epochs=1")
    train(whole.run, whole.out)
    cut = alone(finished, tmp_path / "cut", "training.epochs=1")
    asked = []
    ResumeFolder(cut.out).open({"training": cut.run.training_digest, "features": cut.manifest.digest})
    stop = Rank(0, 1, "cpu", lambda line: None, lambda: len(asked.append(1) or asked) == 2, lambda *_: None)
    train_loop(cut, stop)
    assert ResumeFolder(cut.out).load().global_step > 0
    train(cut.run, cut.out)
    assert largest_difference(weights_of(cut.out), weights_of(whole.out)) == 0.0


def test_the_planted_taste_is_found_and_the_lists_are_those_of_the_vectors(finished):
    path, out = finished
    results = out.read_json("evaluation/metrics.json")
    assert results["model"] == "sdm"
    assert results["interests"] == {}
    assert results["metrics"]["hit_rate@10"] > 1.3 * results["baselines"]["popular"]["hit_rate@10"]
    trained = load_trained(out / "checkpoint", out / "features")
    item_idx, vectors = (
        np.concatenate(part) for part in zip(*encode_catalogue(trained.model, 62), strict=True)
    )
    run = load_run(str(path))
    lists = read_table(out, "evaluation/recommendations.parquet").to_pylist()
    ids = read_table(out, "features/items.parquet").column("item_id").to_pylist()
    for part in ("part-00000.parquet", "part-00001.parquet"):
        queries = read_queries(out / "features", part, run.evaluation.part, trained.shape)
        batch = {name: _tensor(value) for name, value in queries.batch(np.arange(len(queries))).items()}
        with serving(trained.model):
            users = trained.model.encode_users(batch)[0][:, 0].numpy()
        found = exact_search(users, vectors, vector_norms(vectors), item_idx, 60, "inner_product")
        for row, user in enumerate(queries.user_id.to_pylist()):
            seen = set(queries.seen_items[queries.seen_offsets[row] : queries.seen_offsets[row + 1]].tolist())
            wanted = [ids[item] for item in found.item_idx[row].tolist() if item not in seen][:10]
            assert [line["item_id"] for line in lists if line["user_id"] == user] == wanted


def _tensor(value):
    import torch

    return torch.from_numpy(value)


def test_what_drove_a_user_is_written_and_shown(finished):
    _, out = finished
    gate = out.read_json("evaluation/metrics.json")["gate"]
    assert gate["users"] == 120
    assert [row["length"] for row in gate["by_length"]] == ["3-4"]  # the last three events of everybody
    assert 0 < gate["mean"] < 1
    users = out.read_json("evaluation/users.json")["users"]
    assert len(users) == 2
    for user in users:
        drivers = user["drivers"]
        session = [step["item_id"] for step in drivers["short"]]
        assert session == [event["item_id"] for event in user["history"]][-3:]
        assert sum(step["weight"] for step in drivers["short"]) == pytest.approx(1, abs=1e-5)
        assert set(drivers["long"]) == {"item", "group", "event_store"}
        assert {row["name"] for row in drivers["long"]["group"]["top"]} <= {"0", "1", "2", "3"}
        assert {row["name"] for row in drivers["long"]["event_store"]["top"]} <= {f"s{n}" for n in range(5)}
        titles = {step["title"] for step in drivers["short"]}
        assert not titles & {
            row["name"] for row in drivers["long"]["item"]["top"]
        }  # session and sets disjoint
    page = out.read_bytes("report.html").decode()
    for expected in (
        "Session and long term",
        "Session, oldest first",
        "Long-term sets",
        "of the vector from",
    ):
        assert expected in page
    assert "Interest health" not in page
