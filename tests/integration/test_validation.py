"""Validation while training: the evaluator's metrics, whatever the number of workers."""

import dataclasses
import math
import threading

import numpy as np
import pytest

from raysys.data.queries import read_queries
from raysys.distributed.checkpoints import catalog_of
from raysys.distributed.datasets import prepare
from raysys.distributed.trainer import Job, Rank, train
from raysys.distributed.validation import local_index, retrieve, validate
from raysys.errors import ConfigError, TrainingError
from raysys.manifest import read_manifest
from raysys.models import build_model, sample_shape
from raysys.retrieval.vectors import VectorRetriever
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference import metrics as reference
from tests.reference.logs import planted_log, run_file

K = 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ray_cluster):
    """The folder of a planted log with its features and its run file."""
    folder = planted_log(tmp_path_factory.mktemp("planted"))
    prepare(load_run(str(run_file(folder))), Folder(folder))
    return folder


def job_of(folder, *overrides):
    run, out = load_run(str(folder / "run.toml"), overrides), Folder(folder)
    return Job(run, out / "features", read_manifest(out / "features", "features", "prepare"), out)


def model_of(job):
    catalog = catalog_of(job.features, job.manifest)
    return build_model("mind", job.run.model, catalog, "sampled_softmax", 3).eval()


class Together(Rank):
    """A rank among threads of this process: every sum waits for all of them, as over a group of workers."""

    barrier: threading.Barrier
    shared: list[list[float]]

    def sum(self, values: list[float]) -> list[float]:
        self.shared[self.rank] = values
        self.barrier.wait(timeout=60)
        total = [sum(column) for column in zip(*self.shared, strict=True)]
        self.barrier.wait(timeout=60)
        return total


def validated(job, model, world):
    """Return what every rank of a group gets from a validation."""
    found = [{} for _ in range(world)]
    shared, barrier = [[] for _ in range(world)], threading.Barrier(world)

    def run(number):
        rank = Together(number, world, "cpu", print, lambda: False, lambda metrics, path: None)
        object.__setattr__(rank, "shared", shared)
        object.__setattr__(rank, "barrier", barrier)
        found[number] = validate(model, job.run, job.features, job.manifest, rank)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def lists_of(job, model):
    """Return for every validation query its list, relevant items and history, in order of the files."""
    index = local_index(model, job.manifest.info["items"], job.run.model.embedding_dim, "cpu")
    shape = sample_shape(job.run.model_name, job.run.model, job.run.session)
    found = []
    for part in sorted(job.manifest.info["part_events"]):
        queries = read_queries(job.features, part, "valid", shape)
        rows = np.arange(len(queries))
        lists = retrieve(VectorRetriever(model, index), queries, rows, job.run, K).item_idx
        for row in rows:
            of = [getattr(queries, f"{name}_offsets") for name in ("truth", "seen")]
            truth, seen = (set(getattr(queries, f"{name}_items")[o[row] : o[row + 1]].tolist())
                           for name, o in zip(("truth", "seen"), of, strict=True))  # fmt: skip
            found.append((lists[row].tolist(), truth, seen))
    return found


def expected(metric, job, found):
    catalog = catalog_of(job.features, job.manifest)
    counts = catalog.item_counts.tolist()
    groups = catalog.item_values["group"].reshape(catalog.num_items, -1).tolist()
    lists = [ranked for ranked, _, _ in found]
    if metric == "gini":
        return reference.gini(lists, range(2, catalog.num_items), K)
    if metric == "coverage":
        return len({item for ranked in lists for item in ranked[:K]}) / (catalog.num_items - 2)
    of_one = {
        "map": lambda ranked, truth, _: reference.average_precision(ranked, truth, K),
        "novelty": lambda ranked, *_: reference.novelty(ranked, counts, K),
        "popularity_bias": lambda ranked, _, seen: reference.popularity_bias(ranked, counts, seen, K),
        "intra_list_diversity": lambda ranked, *_: reference.intra_list_diversity(ranked, [groups], K),
    }.get(metric) or (lambda ranked, truth, _: getattr(reference, metric)(ranked, truth, K))
    values = [of_one(*entry) for entry in found]
    return float(np.nanmean(values))


@pytest.mark.parametrize(
    "metric",
    ["hit_rate", "recall", "precision", "ndcg", "map", "novelty", "popularity_bias", "intra_list_diversity",
     "coverage", "gini"],
)  # fmt: skip
def test_every_metric_of_the_evaluator_is_watched_with_its_value_on_any_number_of_workers(prepared, metric):
    job = job_of(prepared, f"training.metric={metric}@{K}")
    model = model_of(job)
    wanted = expected(metric, job, lists_of(job, model))
    assert 0 < wanted < 20
    for world in (1, 3):
        for found in validated(job, model, world):
            assert found[f"valid/{metric}@{K}"] == pytest.approx(wanted, abs=1e-9)
            assert {f"valid/hit_rate@{K}", f"valid/ndcg@{K}"} <= found.keys()


def test_the_best_epoch_of_a_metric_whose_smaller_value_is_better_has_the_smallest(prepared, tmp_path):
    job = job_of(prepared, f"training.metric=popularity_bias@{K}")
    out = Folder(tmp_path)
    train(job.run, out, job.features)
    manifest, state = read_manifest(out / "checkpoint", "checkpoint", "train"), (out / "checkpoint")
    curve = [entry[f"valid/popularity_bias@{K}"] for entry in state.read_json("state.json")["curve"]]
    assert len(set(curve)) == len(curve) == 3
    assert manifest.info["best_epoch"] == 1 + int(np.argmin(curve))
    assert manifest.info["metric"] == {f"popularity_bias@{K}": min(curve)}


def test_a_metric_that_no_user_defines_is_an_error(prepared, tmp_path, monkeypatch):
    job = job_of(prepared, "training.metric=novelty@5", "training.epochs=1")
    monkeypatch.setattr(
        "raysys.distributed.loop.validate", lambda *_: {"valid/novelty@5": math.nan, "valid/ndcg@5": 0.1}
    )
    with pytest.raises(TrainingError, match="no sampled user of the validation part defines novelty@5"):
        train(job.run, Folder(tmp_path), job.features)


def test_diversity_without_categories_is_told_before_training(tmp_path):
    folder = planted_log(tmp_path)
    path = run_file(folder)
    path.write_text(path.read_text().replace("[data.items.features]\ngroup = {}\n", ""))
    run = load_run(str(path), ["training.metric=intra_list_diversity@5"])
    prepare(run, Folder(folder))
    with pytest.raises(
        ConfigError, match=r"training\.metric: intra_list_diversity@5 needs a categorical item"
    ):
        train(run, Folder(folder))
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("users", [2, 50, 120])
def test_health_depends_on_no_number_of_workers_even_where_some_have_no_user(prepared, users):
    job = job_of(prepared, f"training.valid_users={users}")
    model = model_of(job)
    (alone,) = validated(job, model, 1)
    assert {name for name in alone if name.startswith("health/recall")} == {
        f"health/recall_with_{count}" for count in (1, 2, 3)
    }
    for together in validated(job, model, 4):
        assert together == pytest.approx(alone, abs=1e-6)


def test_health_of_a_few_users_is_that_of_the_model(prepared, monkeypatch):
    job = job_of(prepared)
    model = build_model("mind", job.run.model, catalog_of(job.features, job.manifest), "bpr", 3).eval()
    (whole,) = validated(job, model, 1)
    assert whole["health/recall_with_3"] == pytest.approx(whole["valid/hit_rate@10"])  # one target a user
    monkeypatch.setattr("raysys.distributed.validation.HEALTH_USERS", 40)
    (few,) = validated(job, model, 1)
    assert few["valid/ndcg@10"] == pytest.approx(whole["valid/ndcg@10"], abs=1e-9)
    assert few["health/pairwise_cosine"] != whole["health/pairwise_cosine"]
    assert few["health/pairwise_cosine"] == pytest.approx(whole["health/pairwise_cosine"], abs=0.1)
    one = dataclasses.replace(job.run, model=dataclasses.replace(job.run.model, num_interests=1))
    model = build_model("mind", one.model, catalog_of(job.features, job.manifest), "bpr", 3).eval()
    (single,) = validated(dataclasses.replace(job, run=one), model, 1)
    assert not [name for name in single if name.startswith("health/")]  # nothing to tell apart
