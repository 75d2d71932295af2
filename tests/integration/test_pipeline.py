"""The whole line as a user runs it: jobs called with flags, files as the contract says, metrics anyone can
recompute."""

import itertools
import math
import shutil
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs import evaluate, export, index, pipeline, report
from raysys.data.queries import read_queries
from raysys.distributed.checkpoints import load_trained
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):
    """A finished run on two workers and two shards."""
    folder = planted_log(tmp_path_factory.mktemp("line"))
    path = run_file(folder, cluster="workers = 2\nobject_store_mb = 150")
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    return folder, path


def held_out(folder):
    """Return per user the last item and the set of items before it, straight from the log."""
    events = defaultdict(list)
    for row in pq.read_table(folder / "events.parquet").to_pylist():
        events[row["user_id"]].append((row["timestamp"], row["item_id"]))
    ordered = {user: [item for _, item in sorted(rows)] for user, rows in events.items()}
    return {user: (items[-1], set(items[:-1])) for user, items in ordered.items()}


def test_every_metric_is_recomputed_from_the_recommendations_and_the_log(finished):
    folder, _ = finished
    results = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    lists = defaultdict(list)
    for row in pq.read_table(folder / "out" / "evaluation" / "recommendations.parquet").to_pylist():
        lists[row["user_id"]].append((row["rank"], row["item_id"], row["score"]))
    truth = held_out(folder)
    assert lists.keys() == truth.keys()
    sums = defaultdict(float)
    shown = defaultdict(set)
    for user, (target, seen) in truth.items():
        ranked = sorted(lists[user])
        assert [rank for rank, _, _ in ranked] == list(range(1, 11))
        assert all(a[2] >= b[2] for a, b in itertools.pairwise(ranked))
        items = [item for _, item, _ in ranked]
        assert len(set(items)) == len(items)
        assert not seen & set(items)
        place = items.index(target) + 1 if target in items else None
        for k in (5, 10):
            hit = place is not None and place <= k
            sums[f"hit_rate@{k}"] += hit
            sums[f"recall@{k}"] += hit
            sums[f"ndcg@{k}"] += 1 / math.log2(place + 1) if hit else 0.0
            shown[k] |= set(items[:k])
        sums["mrr"] += 1 / place if place else 0.0
    for key, total in sums.items():
        assert results["metrics"][key] == pytest.approx(total / len(truth), abs=1e-9)
    candidates = results["protocol"]["candidates"]
    for k, items in shown.items():
        assert results["metrics"][f"coverage@{k}"] == pytest.approx(len(items) / candidates, abs=1e-9)
    assert results["protocol"]["queries"] == len(truth)


def test_the_planted_taste_is_found(finished):
    folder, _ = finished
    results = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    assert results["metrics"]["hit_rate@10"] > 1.3 * results["baselines"]["popular"]["hit_rate@10"]
    chance = 10 / (results["protocol"]["candidates"] - 11)
    assert results["baselines"]["random"]["hit_rate@10"] == pytest.approx(chance, abs=0.1)


def test_outputs_and_keys_are_those_of_the_contract(finished):
    folder, _ = finished
    out = Folder(folder / "out")
    for name in (
        "features",
        "checkpoint",
        "logs",
        "vectors",
        "index",
        "evaluation",
        "report.html",
        "report.md",
    ):
        assert out.exists(name), name
    assert not [name for name in out.names() if name.startswith(".")]
    results = out.read_json("evaluation/metrics.json")
    top = "model part protocol metrics intervals baselines interests index slices training lineage"
    assert set(top.split()) <= results.keys()
    assert {
        "split",
        "filter_seen",
        "candidates",
        "queries",
        "history_length",
        "tie_break",
        "order",
        "depth",
        "candidates_digest",
        "data_digest",
    } <= results["protocol"].keys()
    assert {"random", "popular"} <= results["baselines"].keys()
    assert {"active_mean", "pairwise_cosine_mean", "routing_entropy_mean", "wins"} <= results[
        "interests"
    ].keys()
    assert {"users", "cutoff", "recall_by_interests", "hit_rate_by_interests"} <= results["interests"].keys()
    assert {"kind", "shards", "metric", "recall_vs_exact@10", "queries_per_s"} <= results["index"].keys()
    slices = {"user_activity", "item_popularity", "history_length", "since_last_event", "cold_items"}
    assert slices == results["slices"].keys()
    users = results["protocol"]["queries"]
    for told in (results["slices"], *results["baseline_slices"].values()):
        for name in ("user_activity", "history_length", "since_last_event"):
            assert sum(part["users"] for part in told[name].values()) == users
    assert results["baseline_slices"].keys() == results["baselines"].keys()
    assert {"samples", "samples_per_s", "epochs", "seed", "workers"} <= results["training"].keys()
    assert {"run_digest", "features_digest", "code_version"} <= results["lineage"].keys()
    vectors = pq.read_schema(folder / "out" / "vectors" / "items.parquet")
    assert vectors.names == ["item_id", "item_idx", "vector"]
    lists = pq.read_schema(folder / "out" / "evaluation" / "recommendations.parquet")
    assert lists.names == ["user_id", "rank", "item_id", "score"]
    values = pq.read_table(folder / "out" / "evaluation" / "values.parquet")
    assert values.num_rows == users
    assert set(values.column_names) == {"user_id", *results["intervals"]}
    for key in results["intervals"]:
        assert np.nanmean(values[key].to_numpy()) == pytest.approx(results["metrics"][key], abs=1e-12)


def test_all_interests_together_find_what_the_model_finds(finished):
    folder, _ = finished
    results = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    interests, metrics = results["interests"], results["metrics"]
    assert (interests["users"], interests["cutoff"]) == (results["protocol"]["queries"], 5)
    assert len(interests["recall_by_interests"]) == 3
    for name in ("recall", "hit_rate"):
        assert interests[f"{name}_by_interests"][-1] == pytest.approx(metrics[f"{name}@5"], abs=1e-12)
    # two tastes are planted, so one interest cannot find what several find
    assert interests["recall_by_interests"][0] < interests["recall_by_interests"][-1]
    text = (folder / "out" / "report.md").read_text()
    assert "What each interest adds" in text


def test_a_second_call_does_nothing_again(finished, capsys):
    folder, path = finished
    stages = ("features", "checkpoint", "vectors", "index", "evaluation")
    before = {name: (folder / "out" / name / "manifest.json").stat().st_mtime_ns for name in stages}
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    after = {name: (folder / "out" / name / "manifest.json").stat().st_mtime_ns for name in stages}
    assert after == before
    shown = capsys.readouterr().out
    for stage in stages:
        assert f"{stage}=unchanged" in shown


def test_the_exported_program_encodes_as_the_checkpoint_does(finished, capsys):
    folder, path = finished
    out = folder / "out"
    for _ in range(2):
        assert export.main(["--run", str(path), "--out", str(out), "--program"]) == 0
    assert "user_encoder=unchanged" in capsys.readouterr().out
    encode = torch.export.load(out / "user_encoder" / "user_encoder.pt2").module()
    trained = load_trained(Folder(out / "checkpoint"), Folder(out / "features"))
    part = sorted(Folder(out / "features").read_json("manifest.json")["info"]["part_events"])[0]
    queries = read_queries(Folder(out / "features"), part, "test", trained.shape)
    batch = {
        name: torch.from_numpy(values) for name, values in queries.batch(np.arange(len(queries))).items()
    }
    assert sorted(batch) == Folder(out / "user_encoder").read_json("manifest.json")["info"]["inputs"]
    vectors, active = encode(batch)
    expected, expected_active = trained.model.encode_users(batch)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
    assert torch.equal(active, expected_active)
    table = pq.read_table(out / "vectors" / "items.parquet")
    found = np.array(table.column("vector").to_pylist(), np.float32)
    item_idx = torch.from_numpy(np.asarray(table.column("item_idx").to_numpy()).astype(np.int64))
    torch.testing.assert_close(
        torch.from_numpy(found), trained.model.encode_items(item_idx), atol=1e-6, rtol=0
    )


def test_a_change_runs_again_what_depends_on_it_only(finished):
    folder, path = finished
    out = folder / "out"
    before = {
        name: (out / name / "manifest.json").stat().st_mtime_ns
        for name in ("features", "checkpoint", "vectors")
    }
    index = (out / "index" / "manifest.json").stat().st_mtime_ns
    assert pipeline.main(["--run", str(path), "--out", str(out), "--set", "index.shards=3"]) == 0
    assert {n: (out / n / "manifest.json").stat().st_mtime_ns for n in before} == before
    assert (out / "index" / "manifest.json").stat().st_mtime_ns > index


def test_the_report_job_prints_the_table_and_its_path(finished, tmp_path, capsys):
    folder, _ = finished
    assert report.main([str(folder / "out"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "hit_rate@10" in shown
    assert f"report: {tmp_path}/report.html" in shown


def test_a_report_of_nothing_is_one_clear_line(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "jobs/evaluate.py" in error


@pytest.mark.parametrize(
    "split",
    [
        'kind = "time"\nvalid_from = "2020-09-19T00:00:00Z"\ntest_from = "2020-09-22"',
        'kind = "user"\nvalid_fraction = 0.2\ntest_fraction = 0.3',
        'kind = "random_target"\nvalid_fraction = 0.05\ntest_fraction = 0.05',
        'kind = "leave_one_out"\nunit = "session"\nfilter_seen = false',
    ],
    ids=["time", "user", "random_target", "session"],
)
def test_every_split_goes_down_the_whole_line(tmp_path, ray_cluster, split):
    folder = planted_log(tmp_path, users=80)
    training = "epochs = 1\nbatch_size = 64\nlearning_rate = 0.01"
    path = run_file(folder, split=split, training=training, session="gap_s = 59")
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    results = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    info = Folder(folder / "out" / "features").read_json("manifest.json")["info"]
    assert 0 < results["protocol"]["queries"] == info["queries"]["test"] <= 80
    assert 0 <= results["metrics"]["hit_rate@10"] <= 1
    lists = pq.read_table(folder / "out" / "evaluation" / "recommendations.parquet")
    assert len(set(lists.column("user_id").to_pylist())) == results["protocol"]["queries"]


BEYOND_THE_PAPER = """name = "mind"
embedding_dim = 16
num_interests = 3
hidden_dims = [16]
history_length = 8
most_frequent_of = 12
num_negatives = 20
recency = "gap"
residual = true
latest_items = 2
train_score = "served"
next_items = 2
hard_negatives = 0.5
routing_start = "farthest_point"
routing_gradient = "all"
routing_regularisation = 0.1
learnt_quota = 0.01
history_dropout = 0.1
"""


def test_options_beyond_the_paper_go_down_the_whole_line(tmp_path, ray_cluster):
    folder, out = planted_log(tmp_path, users=80), tmp_path / "out"
    training = 'epochs = 2\nbatch_size = 64\nlearning_rate = 0.01\nschedule = "cosine"\nwarmup_steps = 2'
    path = run_file(folder, model=BEYOND_THE_PAPER, training=training)
    assert pipeline.main(["--run", str(path), "--out", str(out)]) == 0
    results = Folder(out / "evaluation").read_json("metrics.json")
    assert 0 <= results["metrics"]["hit_rate@10"] <= 1
    curve = Folder(out / "checkpoint").read_json("state.json")["curve"]
    assert all({"train/learnt_quota", "train/routing_regularisation"} <= entry.keys() for entry in curve)
    assert export.main(["--run", str(path), "--out", str(out), "--program"]) == 0
    inputs = Folder(out / "user_encoder").read_json("manifest.json")["info"]["inputs"]
    assert inputs == ["history", "history_at"]
    trained = load_trained(Folder(out / "checkpoint"), Folder(out / "features"))
    part = sorted(Folder(out / "features").read_json("manifest.json")["info"]["part_events"])[0]
    queries = read_queries(Folder(out / "features"), part, "test", trained.shape)
    for user in Folder(out / "evaluation").read_json("users.json")["users"]:
        assert len({line["item_id"] for line in user["history"]}) == len(user["history"]) <= 8
        assert len(user["couplings"]) == len(user["history"])
    arrays = queries.batch(np.arange(len(queries)))
    batch = {name: torch.from_numpy(arrays[name]) for name in inputs}
    encode = torch.export.load(out / "user_encoder" / "user_encoder.pt2").module()
    for got, expected in zip(encode(batch), trained.model.encode_users(batch), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_lists_with_variety_keep_the_cap_and_their_curve_starts_at_the_plain_lists(finished, tmp_path):
    folder, path = finished
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    plain = Folder(out / "evaluation").read_json("metrics.json")["metrics"]
    asked = [
        "--set", "evaluation.max_per_category=4",
        "--set", "evaluation.diversity_category=group",
    ]  # fmt: skip
    curve = ["--set", "evaluation.diversity_curve=[0, 0.05, 10]"]
    command = ["--run", str(path), "--out", str(out)]
    assert evaluate.main([*command, *curve]) == 0
    results = Folder(out / "evaluation").read_json("metrics.json")
    first, _, last = results["diversity_curve"]
    assert results["metrics"] == plain
    for name in ("hit_rate", "recall", "ndcg"):
        assert first[f"{name}@10"] == plain[f"{name}@10"]
    assert last["diversity@10"] > first["diversity@10"]
    assert report.main([str(out)]) == 0
    assert "Relevance and diversity" in (out / "report.html").read_text()

    assert evaluate.main([*command, *asked]) == 0
    groups = dict(zip(*pq.read_table(folder / "items.parquet", columns=["item_id", "group"]), strict=True))
    groups = {item.as_py(): group.as_py() for item, group in groups.items()}
    lists = defaultdict(list)
    for row in pq.read_table(out / "evaluation" / "recommendations.parquet").to_pylist():
        lists[row["user_id"]].append(groups[row["item_id"]])
    most = [max(list(shown).count(group) for group in shown) for shown in lists.values()]
    assert max(most) == 4  # without the cap a user is shown the two groups that it moves between
    shown = Folder(out / "evaluation").read_json("users.json")["users"]
    for user in shown:
        told = [groups[item["item_id"]] for item in user["recommendations"]]
        assert max(told.count(group) for group in told) <= 4


def test_a_category_that_the_items_do_not_have_is_named(finished, tmp_path, capfd):
    folder, path = finished
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    command = ["--run", str(path), "--out", str(out), "--set", "evaluation.max_per_category=4"]
    assert evaluate.main([*command, "--set", "evaluation.diversity_category=brand"]) == 2
    said = capfd.readouterr().err
    assert "diversity_category: found 'brand', categorical item features are group" in said
    assert Folder(out / "evaluation").exists("metrics.json")


def test_an_approximate_index_is_told_apart_from_the_model(finished, tmp_path):
    folder, path = finished
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    exact = Folder(out / "evaluation").read_json("metrics.json")
    coarse = ["--set", "index.kind=IVF8,Flat", "--set", "index.search_parameters=nprobe=1"]
    command = ["--run", str(path), "--out", str(out), *coarse]
    assert index.main(command) == 0
    assert evaluate.main(command) == 0
    results = Folder(out / "evaluation").read_json("metrics.json")
    under = results["index"]["sample_metrics"]
    assert results["index"]["recall_vs_exact@10"] < 0.9
    assert 0 < results["index"]["sample_users"] <= 120  # of one partition
    assert (
        under["exact"].keys()
        == under["index"].keys()
        == {key for key in exact["metrics"] if not key.startswith("coverage")}
    )
    first = sorted((folder / "out" / "features" / "sequences").iterdir())[0]
    values = pq.read_table(folder / "out" / "evaluation" / "values.parquet").to_pylist()
    own = {row["user_id"] for row in pq.read_table(first, columns=["user_id"]).to_pylist()}
    for key, value in under["exact"].items():
        mine = [row[key] for row in values if row["user_id"] in own]
        assert value == pytest.approx(np.mean(mine), abs=1e-12)
    assert report.main([str(out)]) == 0
    assert "lost or won by the index" in (out / "report.html").read_text()
    assert "sample_metrics" not in exact["index"]
