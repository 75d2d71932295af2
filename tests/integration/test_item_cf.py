"""A counting model down the whole line; its answers are worked out again from the raw log in plain loops."""

from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import evaluate, export, index, pipeline, train
from raysys.distributed import tables
from raysys.storage import Folder
from tests.reference.item_cf import scores_of, similarities_of
from tests.reference.logs import planted_log, run_file

MODEL = 'name = "item_cf"\nsimilarity = "{}"\nhistory_length = 6\ndecay = 0.8\nnum_neighbours = {}'
STAGES = ("features", "checkpoint", "table", "evaluation")


def written(folder, similarity="cosine", neighbours=100, **sections):
    sections = {"training": "seed = 3", "cluster": "workers = 2\nobject_store_mb = 150", **sections}
    return run_file(folder, model=MODEL.format(similarity, neighbours), **sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):
    """A finished run whose rows were computed in many blocks."""
    folder = planted_log(tmp_path_factory.mktemp("item_cf"))
    path = written(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK_PRODUCTS", 500)
        assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    return folder, path


def histories(folder):
    """Return per user the items in order of time, the last one held out for test, the one before for
    validation."""
    events = defaultdict(list)
    for row in pq.read_table(folder / "events.parquet").to_pylist():
        events[row["user_id"]].append((row["timestamp"], row["item_id"]))
    return {user: [item for _, item in sorted(rows)] for user, rows in events.items()}


def recommendations(folder):
    lists = defaultdict(list)
    for row in pq.read_table(folder / "evaluation" / "recommendations.parquet").to_pylist():
        lists[row["user_id"]].append((row["rank"], row["item_id"], row["score"]))
    return {user: sorted(rows) for user, rows in lists.items()}


def worked_out(folder, similarity):
    """Return user -> item -> score from the raw log; every neighbour is kept."""
    logged = histories(folder)
    items = sorted({item for own in logged.values() for item in own})
    place = {item: number + 2 for number, item in enumerate(items)}
    counts = np.zeros((len(items) + 2, len(logged) + 2), int)
    for number, own in enumerate(logged.values()):
        for item in own[:-2]:
            counts[place[item], number + 2] += 1
    similar = similarities_of(counts, similarity)
    table = {i: {j: s for j, s in enumerate(row) if s > 0} for i, row in enumerate(similar)}
    answers = {}
    for user, own in logged.items():
        scores = scores_of(table, [place[item] for item in own[:-1]][-6:], 0.8)
        answers[user] = {items[item - 2]: score for item, score in scores.items()}
    return answers


@pytest.mark.parametrize("similarity", ["cosine", "tf_idf", "bm25"])
def test_answers_are_those_of_plain_loops_over_the_log(finished, tmp_path, similarity):
    folder, _ = finished
    out = folder / "out"
    if similarity != "cosine":
        path = written(folder, similarity)
        assert pipeline.main(["--run", str(path), "--out", str(out)]) == 0
    logged = histories(folder)
    expected, found = worked_out(folder, similarity), recommendations(out)
    assert found.keys() == logged.keys()
    hits = 0
    for user, rows in found.items():
        left = {item: score for item, score in expected[user].items() if item not in logged[user][:-1]}
        best = sorted(left.values(), reverse=True)[:10]
        assert [rank for rank, _, _ in rows] == list(range(1, len(best) + 1))
        np.testing.assert_allclose([score for _, _, score in rows], best, rtol=1e-5)
        for _, item, score in rows:
            assert score == pytest.approx(left[item], rel=1e-5)
        hits += logged[user][-1] in [item for _, item, _ in rows]
    results = Folder(out / "evaluation").read_json("metrics.json")
    assert results["metrics"]["hit_rate@10"] == pytest.approx(hits / len(logged), abs=1e-9)
    assert results["index"]["metric"] == similarity
    # the planted groups are found: half of the items are of the user's two groups
    assert results["metrics"]["hit_rate@10"] > 1.3 * results["baselines"]["popular"]["hit_rate@10"]


def test_outputs_and_keys_are_those_of_the_contract(finished):
    folder, _ = finished
    out = Folder(folder / "out")
    assert all(out.exists(name) for name in (*STAGES, "report.html", "report.md"))
    assert not [name for name in out.names() if name.startswith(".")]
    assert not [name for name in ("vectors", "index") if out.exists(name)]
    assert out.names("checkpoint") == ["manifest.json", "rows.parquet", "run.toml"]
    results = out.read_json("evaluation/metrics.json")
    top = "model part protocol metrics intervals baselines interests index slices training lineage"
    assert set(top.split()) <= results.keys()
    assert results["model"] == "item_cf"
    assert results["protocol"]["history_length"] == 6
    assert {"random", "popular"} <= results["baselines"].keys()
    assert results["interests"] == {}
    assert {"kind", "shards", "metric", "recall_vs_exact@10", "queries_per_s"} <= results["index"].keys()
    assert {"samples", "samples_per_s", "epochs", "seed", "workers"} <= results["training"].keys()
    assert {"run_digest", "features_digest", "code_version"} <= results["lineage"].keys()
    served = pq.read_table(folder / "out" / "table" / "items.parquet")
    assert served.column_names == ["item_id", "item_idx", "neighbour_id", "neighbour_idx", "score"]
    names = dict(zip(*(served.column(name).to_pylist() for name in ("item_idx", "item_id")), strict=True))
    for row in served.to_pylist():
        assert row["neighbour_id"] == [names[item] for item in row["neighbour_idx"]]
        assert row["item_id"] in row["neighbour_id"]
    users = out.read_json("evaluation/users.json")["users"]
    assert len(users) == 2
    assert all(user["recommendations"] and user["couplings"] is None for user in users)


def test_the_rows_depend_neither_on_blocks_nor_on_workers(finished, tmp_path, monkeypatch):
    folder, _ = finished
    path = written(folder, neighbours=7)
    tables_found = []
    for number, (workers, products) in enumerate([(0, 10**9), (0, 1), (2, 3000)]):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "features").symlink_to(folder / "out" / "features")
        monkeypatch.setattr(tables, "BLOCK_PRODUCTS", products)
        flags = ["--run", str(path), "--out", str(out), "--set", f"cluster.workers={workers}"]
        assert train.main(flags) == 0
        tables_found.append(pq.read_table(out / "checkpoint" / "rows.parquet"))
    assert tables_found[0].num_rows == 60
    assert max(map(len, tables_found[0].column("score").to_pylist())) == 8
    assert all(found.combine_chunks() == tables_found[0].combine_chunks() for found in tables_found)


def test_a_second_call_does_nothing_and_a_change_runs_what_depends_on_it(finished, capsys):
    folder, _ = finished
    path, out = written(folder), folder / "out"
    flags = ["--run", str(path), "--out", str(out)]

    def times():
        return [(out / name / "manifest.json").stat().st_mtime_ns for name in STAGES]

    assert pipeline.main(flags) == 0
    before = times()
    capsys.readouterr()
    assert pipeline.main(flags) == 0
    assert times() == before
    shown = capsys.readouterr().out
    for stage in STAGES:
        assert f"{stage}=unchanged" in shown
    assert "index=none" in shown
    assert pipeline.main([*flags, "--set", "training.seed=4", "--set", "evaluation.ks=[5]"]) == 0
    assert times()[:3] == before[:3]  # no gradient step: the seed is of no matter to the table
    assert times()[3] > before[3]


def test_where_repeats_are_allowed_the_latest_items_come_back(tmp_path, ray_cluster):
    folder = planted_log(tmp_path, users=80)
    path = written(folder, split="filter_seen = false")
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    results = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    assert "own_frequent" in results["baselines"]
    logged, found = histories(folder), recommendations(folder / "out")
    expected = worked_out(folder, "cosine")
    for user, rows in found.items():
        best = sorted(expected[user].values(), reverse=True)[:10]
        np.testing.assert_allclose([score for _, _, score in rows], best, rtol=1e-5)
    repeated = [logged[user][-2] in [item for _, item, _ in rows] for user, rows in found.items()]
    assert np.mean(repeated) > 0.9


def test_what_a_counting_model_does_not_have_is_one_clear_line(finished, tmp_path, capsys):
    folder, _ = finished
    path = written(folder, training='epochs = 3\nloss = "bpr"')
    (tmp_path / "features").symlink_to(folder / "out" / "features")
    flags = ["--run", str(path), "--out", str(tmp_path), "--set", "cluster.workers=0"]
    assert train.main(flags) == 0
    shown = capsys.readouterr()
    assert "training.epochs, training.loss" in shown.out + shown.err
    for job, message in ((evaluate, "no finished table here; run jobs/export.py first"),):
        assert job.main(flags) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    assert export.main([*flags, "--program"]) == 2
    assert "counts and has no user encoder" in capsys.readouterr().err.splitlines()[-1]
    assert index.main(flags) == 0
    assert "index=none" in capsys.readouterr().out
