"""Evaluation over the cluster: tasks encode the users of a partition, search the sharded index and measure.

Per-user values come back to the driver, which merges them; recommendations go to disk from the tasks.
"""

import itertools
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raysys import __version__
from raysys import config as configuration
from raysys.catalog import Catalog
from raysys.data.partitions import hash_text
from raysys.data.samples import Queries, load_sequences, queries_of
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.checkpoints import Trained, catalog_of, load_trained
from raysys.distributed.cluster import run_tasks
from raysys.distributed.explain import explain_users
from raysys.distributed.index import KIND as INDEX
from raysys.distributed.index import ShardedIndex, open_index
from raysys.distributed.validation import batches_by_seen, local_index, retrieve
from raysys.errors import ManifestError
from raysys.evaluation.health import InterestHealth, collapse_warning, winning_interest
from raysys.evaluation.metrics import METRICS, EvaluationConfig, MetricTotals, mean
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.models.contract import InterestModel
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.table import TableRetriever, popular_table, random_candidates
from raysys.retrieval.vectors import VectorRetriever
from raysys.run import RunConfig
from raysys.seeds import derive_seed
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

KIND = "evaluation"
BATCH = 512
HEAD_SHARE, TAIL_SHARE = 0.2, 0.5
RECALL_SAMPLE = 512


@dataclass(frozen=True)
class Job:
    """What a task needs to measure one partition."""

    run: RunConfig
    out: Folder
    staged: Folder
    index: ShardedIndex


@dataclass
class Measured:
    """What a task returns: per-user values of the model and the baselines, and what slices are made from."""

    totals: dict[str, MetricTotals]
    history_length: np.ndarray
    popularity: dict[str, dict[str, np.ndarray]]
    health: InterestHealth | None
    search_s: float
    searched: int


def evaluate(run: RunConfig, out: Folder) -> Folder:
    """Measure the model on the held-out part and write `evaluation/`.

    Raises:
        ManifestError: a stage before this one is missing, or checkpoint, index and features do not belong
        together.
        RetrievalError: a shard of the index stays away.
    """
    target, begin = out / "evaluation", time.monotonic()
    manifests = {
        "features": read_manifest(out / "features", "features", "prepare"),
        "checkpoint": read_manifest(out / "checkpoint", CHECKPOINT, "train"),
        "index": read_manifest(out / "index", INDEX, "index"),
    }
    _check_vocabulary(manifests, out)
    parents = {name: manifest.digest for name, manifest in manifests.items()}
    digest = configuration.digest([run.evaluation, run.split.filter_seen, run.index.replicas])
    found = find_manifest(target, KIND)
    if found and found.matches(digest, parents):
        logger.info(fields(evaluation="unchanged", path=target.uri))
        return target
    trained = load_trained(out / "checkpoint", out / "features")
    index, index_manifest = open_index(out / "index", run.index.replicas)
    try:
        with replacing(target) as staged:
            job = Job(run, out, staged, index)
            parts = sorted(manifests["features"].info["part_events"])
            measured = run_tasks(measure_part, parts, job, progress="evaluate")
            merged = _merge(measured)
            figures = _index_figures(run, out, trained, index, index_manifest, merged)
            results = _results(run, manifests, merged, figures)
            staged.write_json("metrics.json", results)
            users = (
                explain_users(trained_run(trained, run), out, trained, index)
                if run.evaluation.sample_users
                else []
            )
            staged.write_json("users.json", {"users": users})
            _join_recommendations(staged, parts)
            Manifest(kind=KIND, config_digest=digest, parents=parents).write(staged)
    finally:
        index.close()
    warning = collapse_warning(results["interests"]) if results["interests"] else None
    if warning:
        logger.warning(fields(interests=warning))
    for name, metrics in {"model": results["metrics"], **results["baselines"]}.items():
        logger.info(fields(scores=name, **metrics))
    logger.info(
        fields(evaluation=target.uri, users=results["protocol"]["queries"], seconds=time.monotonic() - begin)
    )
    return target


def _check_vocabulary(manifests: dict[str, Manifest], out: Folder) -> None:
    digests = {name: manifest.info["vocabularies"]["item"] for name, manifest in manifests.items()}
    for name in ("checkpoint", "index"):
        if digests[name] != digests["features"]:
            job = "train" if name == "checkpoint" else "export.py and jobs/index"
            raise ManifestError(
                f"{out.uri}/{name}: item vocabulary {digests[name]}, features/ has {digests['features']}; "
                f"run jobs/{job}.py again"
            )


def measure_part(part: str, job: Job) -> Measured:
    """Measure the users of one partition and write `recommendations/<part>`."""
    torch.set_num_threads(1)
    run, features = job.run, job.out / "features"
    manifest = read_manifest(features, "features", "prepare")
    catalog = catalog_of(features, manifest)
    trained = load_trained(job.out / "checkpoint", features)
    queries = queries_of(load_sequences(features, [f"sequences/{part}"]), run.evaluation.part)
    candidates, search_s = retrieve_all(trained, queries, run, job.index)
    truth = (queries.truth_offsets, queries.truth_items.astype(np.int64))
    totals = {"model": MetricTotals(run.evaluation, catalog.num_candidates)}
    totals["model"].add(candidates, truth)
    for name, answer in baselines(queries, run, catalog).items():
        totals[name] = MetricTotals(run.evaluation, catalog.num_candidates)
        totals[name].add(answer, truth)
    _write_recommendations(job, part, queries, candidates)
    health = (
        measure_health(trained, queries, candidates, run)
        if isinstance(trained.model, InterestModel)
        else None
    )
    lengths = np.diff(queries.seen_offsets)
    popularity = _by_popularity(run.evaluation, candidates, queries, catalog)
    return Measured(totals, lengths, popularity, health, search_s, len(queries))


def retrieve_all(trained: Trained, queries: Queries, run: RunConfig, index: Any) -> tuple[Candidates, float]:
    """Return the candidates of every query, in order, and the seconds that it took."""
    retriever = VectorRetriever(trained.model, index)  # type: ignore[arg-type]
    depth = run.evaluation.depth
    item_idx = np.full((len(queries), depth), -1, dtype=np.int64)
    score = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    begin = time.monotonic()
    for rows in batches_by_seen(queries, np.arange(len(queries)), BATCH):
        answer = retrieve(retriever, queries, rows, trained_run(trained, run), depth)
        item_idx[rows], score[rows] = answer.item_idx, answer.score
    return Candidates(item_idx, score), time.monotonic() - begin


def trained_run(trained: Trained, run: RunConfig) -> RunConfig:
    """Return the run with the model as it was trained: a model is measured as it is, not as a file says."""
    import dataclasses

    return dataclasses.replace(run, model=trained.run.model, model_name=trained.run.model_name)


def baselines(queries: Queries, run: RunConfig, catalog: Catalog) -> dict[str, Candidates]:
    """Return what chance and popularity answer under the same protocol."""
    depth, count = run.evaluation.depth, len(queries)
    seen = (queries.seen_offsets, queries.seen_items.astype(np.int64)) if run.split.filter_seen else None
    popular = TableRetriever(popular_table(catalog.item_counts)).retrieve_row(count, depth, seen)
    extra = int(np.diff(queries.seen_offsets).max(initial=0)) if seen else 0
    seed = derive_seed(run.training.seed, "random")
    chance = random_candidates(catalog.num_items, hash_text(queries.user_id), depth + extra, seed)
    if seen:
        from raysys.retrieval.candidates import drop_seen

        chance = drop_seen(chance, seen[0], seen[1], depth)
    return {"random": chance.top(depth), "popular": popular.top(depth)}


def measure_health(
    trained: Trained, queries: Queries, candidates: Candidates, run: RunConfig
) -> InterestHealth:
    """Return the interest health of the queries' users; an interest wins where it scores the first candidate
    best."""
    model, length = trained.model, trained.run.model.history_length
    health: InterestHealth | None = None
    with torch.inference_mode():
        for start in range(0, len(queries), BATCH):
            rows = np.arange(start, min(start + BATCH, len(queries)))
            batch = {k: torch.from_numpy(v) for k, v in queries.batch(rows, length).items()}
            vectors, active = (tensor.numpy() for tensor in model.encode_users(batch))  # type: ignore[operator]
            couplings = model.couplings(batch).numpy()  # type: ignore[operator]
            first = candidates.item_idx[rows, 0]
            items = model.encode_items(torch.from_numpy(np.maximum(first, 0))).numpy()  # type: ignore[operator]
            winners = np.where(first >= 0, winning_interest(vectors, active, items), -1)
            health = health or InterestHealth(vectors.shape[1])
            health.add(
                vectors, active, couplings, batch["history"].numpy()[:, -couplings.shape[1] :] > 0, winners
            )
    return health or InterestHealth(1)


def _by_popularity(
    config: EvaluationConfig, candidates: Candidates, queries: Queries, catalog: Catalog
) -> dict[str, dict[str, np.ndarray]]:
    """Return per-user values with the truth cut down to head, middle, tail and cold items."""
    bucket = popularity_buckets(catalog.item_counts)[queries.truth_items]
    owner = np.repeat(np.arange(len(queries)), np.diff(queries.truth_offsets))
    slices: dict[str, dict[str, np.ndarray]] = {}
    for number, name in enumerate(("head", "middle", "tail", "cold")):
        keep = bucket == number
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=len(queries)))])
        truth = (offsets.astype(np.int64), queries.truth_items[keep].astype(np.int64))
        slices[name] = {
            key: METRICS[metric](candidates, truth, k)
            for key, (metric, k) in zip(config.keys(), config.pairs(), strict=True)
            if metric in METRICS
        }
    return slices


def popularity_buckets(item_counts: np.ndarray) -> np.ndarray:
    """Return per item_idx 0 (head), 1 (middle), 2 (tail) or 3 (cold: no training event).

    The head holds the most popular items that together have a fifth of all training events, the tail the
    least
    popular ones that together have half.
    """
    order = np.argsort(-item_counts, kind="stable")
    share = np.cumsum(item_counts[order]) / max(item_counts.sum(), 1)
    buckets = np.empty(len(item_counts), dtype=np.int64)
    buckets[order] = np.where(share <= HEAD_SHARE, 0, np.where(share <= 1 - TAIL_SHARE, 1, 2))
    buckets[item_counts == 0] = 3
    return buckets


def _write_recommendations(job: Job, part: str, queries: Queries, candidates: Candidates) -> None:
    vocabulary = Vocabulary.load(job.out / "features" / "vocabularies", "item")
    query, place = np.nonzero(candidates.item_idx >= 0)
    table = pa.table(
        {
            "user_id": queries.user_id.take(pa.array(query)),
            "rank": pa.array((place + 1).astype(np.int32)),
            "item_id": vocabulary.decode(candidates.item_idx[query, place]),
            "score": pa.array(candidates.score[query, place]),
        }
    )
    with job.staged.open_output(f"recommendations/{part}") as file:
        pq.write_table(table, file, compression="zstd")


def _join_recommendations(staged: Folder, parts: list[str]) -> None:
    """Write the partitions' recommendations as one file, one partition in memory at a time."""
    writer: pq.ParquetWriter | None = None
    with staged.open_output("recommendations.parquet") as file:
        for part in parts:
            with staged.open_input(f"recommendations/{part}") as source:
                table = pq.read_table(source)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer:
            writer.close()
    (staged / "recommendations").delete()


def _merge(parts: list[Measured]) -> Measured:
    merged = parts[0]
    for part in parts[1:]:
        merged.totals = {name: total.merge(part.totals[name]) for name, total in merged.totals.items()}
        merged.history_length = np.concatenate([merged.history_length, part.history_length])
        merged.popularity = {
            name: {key: np.concatenate([value, part.popularity[name][key]]) for key, value in values.items()}
            for name, values in merged.popularity.items()
        }
        if merged.health and part.health:
            merged.health = merged.health.merge(part.health)
        merged.search_s += part.search_s
        merged.searched += part.searched
    return merged


def _index_figures(
    run: RunConfig, out: Folder, trained: Trained, index: ShardedIndex, manifest: Manifest, merged: Measured
) -> dict[str, Any]:
    """Return the `index` section of metrics.json; an approximate kind is compared with exact search."""
    features = read_manifest(out / "features", "features", "prepare")
    depth, recall = run.evaluation.depth, 1.0
    if manifest.info["kind"] not in ("exact", "flat"):
        part = sorted(features.info["part_events"])[0]
        queries = queries_of(load_sequences(out / "features", [f"sequences/{part}"]), run.evaluation.part)
        rows = np.arange(min(len(queries), RECALL_SAMPLE))
        exact = local_index(trained.model, features.info["items"], trained.run.model.embedding_dim, "cpu")
        answers = [
            retrieve(VectorRetriever(trained.model, which), queries, rows, trained_run(trained, run), depth)  # type: ignore[arg-type]
            for which in (exact, index)
        ]
        same = [
            np.isin(b[b >= 0], a[a >= 0]).sum() for a, b in zip(*(a.item_idx for a in answers), strict=True)
        ]
        recall = float(np.sum(same)) / max(int((answers[0].item_idx >= 0).sum()), 1)
    return {
        "kind": manifest.info["kind"],
        "shards": len(manifest.info["shards"]),
        "replicas": run.index.replicas,
        "metric": manifest.info["metric"],
        f"recall_vs_exact@{depth}": recall,
        "queries_per_s": merged.searched / max(merged.search_s, 1e-9),
        "build_s": manifest.info["build_s"],
    }


def _results(
    run: RunConfig, manifests: dict[str, Manifest], merged: Measured, index: dict[str, Any]
) -> dict[str, Any]:
    features, checkpoint, seed = manifests["features"], manifests["checkpoint"], run.training.seed
    model = merged.totals["model"]
    return {
        "model": run.model_name,
        "part": run.evaluation.part,
        "protocol": {
            "split": run.split.kind,
            "unit": run.split.unit,
            "filter_seen": run.split.filter_seen,
            "candidates": features.info["items"],
            "queries": len(merged.history_length),
            "history_length": run.model.history_length,
            "depth": run.evaluation.depth,
            "tie_break": "item_idx",
            "data_digest": features.info["data_digest"],
        },
        "metrics": model.result(),
        "intervals": {key: list(value) for key, value in model.intervals(seed).items()},
        "baselines": {name: merged.totals[name].result() for name in ("random", "popular")},
        "baseline_intervals": {
            name: {key: list(value) for key, value in merged.totals[name].intervals(seed).items()}
            for name in ("random", "popular")
        },
        "interests": merged.health.result() if merged.health else {},
        "index": index,
        "slices": {
            "user_activity": _activity_slices(model, merged.history_length),
            "item_popularity": {
                name: _slice(values, ~np.isnan(next(iter(values.values()))))
                for name, values in merged.popularity.items()
                if not np.isnan(next(iter(values.values()))).all()
            },
        },
        "training": {
            name: checkpoint.info[name]
            for name in ("samples", "samples_per_s", "epochs", "best_epoch", "stopped", "workers")
        }
        | {"seed": seed},
        "lineage": {
            "run_digest": run.run_digest,
            "features_digest": features.digest,
            "checkpoint_digest": checkpoint.digest,
            "index_digest": manifests["index"].digest,
            "code_version": __version__,
        },
    }


def _activity_slices(model: MetricTotals, history_length: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the metrics by quarters of users with short to long histories (distinct items)."""
    edges = np.unique(np.quantile(history_length, [0, 0.25, 0.5, 0.75, 1]).astype(np.int64))
    slices: dict[str, dict[str, float]] = {}
    for low, high in itertools.pairwise(edges):
        last = high == edges[-1]
        mask = (history_length >= low) & ((history_length <= high) if last else (history_length < high))
        if mask.any():
            slices[f"{low}-{high if last else high - 1} items"] = _slice(model.values, mask)
    return slices or {f"{edges[0]} items": _slice(model.values, np.ones(len(history_length), dtype=bool))}


def _slice(values: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    return {"users": int(mask.sum()), **{key: mean(value[mask]) for key, value in values.items()}}
