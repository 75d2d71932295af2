"""Metrics of held-out baskets, recomputed from recommendations.parquet and the raw log alone, by loops."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import pipeline
from raysys.storage import Folder

ROOT = Path(__file__).resolve().parents[2]
MIN_ITEM_EVENTS = 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):
    """A quick run of the retail panel in the repository: one epoch of a small model in this process."""
    out = tmp_path_factory.mktemp("panel")
    changes = (
        "cluster.workers=0",
        "training.epochs=1",
        "training.loss=sampled_softmax",
        "training.batch_size=4096",
        "training.samples_per_user=10",
        "model.num_interests=2",
        "model.next_items=1",
        "model.num_negatives=64",
        "model.embedding_dim=8",
        "model.hidden_dims=[8]",
        "model.history_length=20",
    )
    flags = [flag for change in changes for flag in ("--set", change)]
    run = str(ROOT / "jobs" / "runs" / "mind_completejourney_q1.toml")
    assert pipeline.main(["--run", run, "--out", str(out), *flags]) == 0
    return out


def baskets():
    """Return per household its baskets in order, as ((time, basket), items), with rare items left out."""
    rows = pq.read_table(ROOT / "jobs" / "data" / "completejourney_q1" / "interactions.parquet").to_pylist()
    counts = Counter(row["item_id"] for row in rows)
    rows = [row for row in rows if counts[row["item_id"]] >= MIN_ITEM_EVENTS]
    users = defaultdict(dict)
    for row in rows:
        users[row["user_id"]].setdefault((row["timestamp"], row["session_id"]), Counter())[
            row["item_id"]
        ] += 1
    return {user: sorted(found.items()) for user, found in users.items()}


def measures(items, truth):
    """Return every per-user metric of one list."""
    hits = [item in truth for item in items]
    values = {"mrr": next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)}
    for k in (10, 50):
        gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits[:k]) if hit)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(truth), k)))
        values |= {f"hit_rate@{k}": float(any(hits[:k])), f"recall@{k}": sum(hits[:k]) / len(truth),
                   f"ndcg@{k}": gain / ideal}  # fmt: skip
    return values


def test_every_metric_of_the_model_and_of_popularity(finished):
    results = Folder(finished / "evaluation").read_json("metrics.json")
    users = {user: found for user, found in baskets().items() if len(found) >= 2}
    truth = {user: set(found[-1][1]) for user, found in users.items()}
    lists = defaultdict(list)
    for row in pq.read_table(finished / "evaluation" / "recommendations.parquet").to_pylist():
        lists[row["user_id"]].append((row["rank"], row["item_id"]))
    assert lists.keys() == truth.keys()
    popularity = Counter()
    for found in baskets().values():
        held_out = (
            2 if len(found) >= 3 else 1 if len(found) == 2 else 0
        )  # the last basket, and the one before it
        for _, items in found[: len(found) - held_out]:
            popularity.update(items)
    popular = [item for item, _ in sorted(popularity.items(), key=lambda pair: (-pair[1], pair[0]))][:50]
    model_sums, popular_sums = defaultdict(float), defaultdict(float)
    for user, relevant in truth.items():
        for key, value in measures([item for _, item in sorted(lists[user])], relevant).items():
            model_sums[key] += value
        for key, value in measures(popular, relevant).items():
            popular_sums[key] += value
    assert results["protocol"]["queries"] == len(truth)
    for key in model_sums:
        assert results["metrics"][key] == pytest.approx(model_sums[key] / len(truth), abs=1e-9)
        assert results["baselines"]["popular"][key] == pytest.approx(popular_sums[key] / len(truth), abs=1e-9)


def test_candidates_are_the_items_with_enough_events(finished):
    results = Folder(finished / "evaluation").read_json("metrics.json")
    items = {item for found in baskets().values() for _, basket in found for item in basket}
    assert results["protocol"]["candidates"] == len(items) == 9530
