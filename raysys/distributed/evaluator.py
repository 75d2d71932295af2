"""Evaluation over the cluster: tasks encode the users of a partition, search the sharded index and measure.

Per-user values come back to the driver, which merges them; recommendations go to disk from the tasks.
"""

import itertools
import logging
import time
from typing import Any

import numpy as np

from raysys import __version__
from raysys import config as configuration
from raysys.data.parquet import join_tables
from raysys.data.queries import read_queries
from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.checkpoints import Trained, catalog_of, load_trained
from raysys.distributed.cluster import run_tasks
from raysys.distributed.explain import describe_interests, explain_users
from raysys.distributed.index import KIND as INDEX
from raysys.distributed.index import ShardedIndex, open_index
from raysys.distributed.measure import Job, Measured, item_categories, measure_part, trained_run
from raysys.distributed.tables import KIND as TABLE
from raysys.distributed.tables import is_table, open_table, table_figures
from raysys.distributed.tracking import record_results
from raysys.distributed.validation import local_index, ragged_rows, retrieve
from raysys.errors import ManifestError
from raysys.evaluation.health import collapse_warning
from raysys.evaluation.metrics import METRICS, mean
from raysys.evaluation.slices import Bucket
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.retrieval.table import TableRetriever
from raysys.retrieval.vectors import VectorRetriever
from raysys.run import RunConfig
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

KIND = "evaluation"
CONTENT = 5
"""Version of what an evaluation holds; a folder of another one is measured again."""
RECALL_SAMPLE = 512
TASK_CPUS = 0.5
"""Of a task that asks shards: half its time it waits for them, and they hold the other half of the cluster's
CPUs."""


def evaluate(run: RunConfig, out: Folder) -> Folder:
    """Measure the model on the held-out part and write `evaluation/`.

    Raises:
        ConfigError: `evaluation.diversity_category` is no categorical item feature.
        ManifestError: a stage before this one is missing, or checkpoint, index and features do not belong
        together.
        RetrievalError: a shard of the index stays away.
    """
    target, begin = out / "evaluation", time.monotonic()
    manifests = {
        "features": read_manifest(out / "features", "features", "prepare"),
        "checkpoint": read_manifest(out / "checkpoint", CHECKPOINT, "train"),
    }
    answers = TABLE if is_table(manifests["checkpoint"]) else INDEX
    manifests[answers] = read_manifest(out / answers, answers, "export" if answers == TABLE else "index")
    _check_vocabulary(manifests, out)
    parents = {name: manifest.digest for name, manifest in manifests.items()}
    digest = configuration.digest([CONTENT, run.evaluation, run.split.filter_seen, run.index.replicas])
    found = find_manifest(target, KIND)
    if found and found.matches(digest, parents):
        logger.info(fields(evaluation="unchanged", path=target.uri))
        return target
    category = run.evaluation.diversity_category
    if category:  # a wrong name is told before anything is measured
        item_categories(catalog_of(out / "features", manifests["features"]), category)
    trained = load_trained(out / "checkpoint", out / "features")
    index, index_manifest = (
        open_table(out / TABLE) if answers == TABLE else open_index(out / INDEX, run.index.replicas)
    )
    try:
        with replacing(target) as staged:
            job = Job(run, out, staged, index)
            parts = sorted(manifests["features"].info["part_events"])
            cpus = TASK_CPUS if isinstance(index, ShardedIndex) else 1
            measured = run_tasks(measure_part, parts, job, cpus=cpus, progress="evaluate")
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
            if merged.content:
                staged.write_json("interests.json", describe_interests(merged.content, run, out))
            for name in ("recommendations", "values"):
                join_tables(staged, [f"{name}/{part}" for part in parts], f"{name}.parquet")
                (staged / name).delete()
            Manifest(kind=KIND, config_digest=digest, parents=parents).write(staged)
    finally:
        if isinstance(index, ShardedIndex):
            index.close()
    warning = collapse_warning(results["interests"]) if results["interests"] else None
    if warning:
        logger.warning(fields(interests=warning))
    for name, metrics in {"model": results["metrics"], **results["baselines"]}.items():
        logger.info(fields(scores=name, **metrics))
    record_results(run, out, {f"{run.evaluation.part}/{key}": v for key, v in results["metrics"].items()})
    logger.info(
        fields(evaluation=target.uri, users=results["protocol"]["queries"], seconds=time.monotonic() - begin)
    )
    return target


def _check_vocabulary(manifests: dict[str, Manifest], out: Folder) -> None:
    digests = {name: manifest.info["vocabularies"]["item"] for name, manifest in manifests.items()}
    jobs = {"checkpoint": "train", TABLE: "export", INDEX: "export.py and jobs/index"}
    for name, job in jobs.items():
        if digests.get(name, digests["features"]) != digests["features"]:
            raise ManifestError(
                f"{out.uri}/{name}: item vocabulary {digests[name]}, features/ has {digests['features']}; "
                f"run jobs/{job}.py again"
            )


def _merge(parts: list[Measured]) -> Measured:
    merged = parts[0]
    for part in parts[1:]:
        merged.totals = {name: total.merge(part.totals[name]) for name, total in merged.totals.items()}
        merged.slices = {name: slices.merge(part.slices[name]) for name, slices in merged.slices.items()}
        merged.history_items = np.concatenate([merged.history_items, part.history_items])
        if part.health:  # None for a partition without queries
            merged.health = merged.health.merge(part.health) if merged.health else part.health
        if part.gates:
            merged.gates = merged.gates.merge(part.gates) if merged.gates else part.gates
        if part.content:
            merged.content = merged.content.merge(part.content) if merged.content else part.content
        if merged.curve and part.curve:
            merged.curve = merged.curve.merge(part.curve)
        merged.search_s += part.search_s
        merged.searched += part.searched
    return merged


def _index_figures(
    run: RunConfig,
    out: Folder,
    trained: Trained,
    index: ShardedIndex | TableRetriever,
    manifest: Manifest,
    merged: Measured,
) -> dict[str, Any]:
    """Return the `index` section of metrics.json; an approximate kind is compared with exact search."""
    depth = run.evaluation.depth
    if isinstance(index, TableRetriever):
        return table_figures(manifest, depth, merged.searched / max(merged.search_s, 1e-9))
    figures: dict[str, Any] = {
        "kind": manifest.info["kind"],
        "shards": len(manifest.info["shards"]),
        "replicas": run.index.replicas,
        "metric": manifest.info["metric"],
        f"recall_vs_exact@{depth}": 1.0,
        "queries_per_s": merged.searched / max(merged.search_s, 1e-9),
        "build_s": manifest.info["build_s"],
    }
    if manifest.info["kind"] not in ("exact", "flat"):
        figures |= _against_exact(run, out, trained, index, manifest)
    return figures


def _against_exact(
    run: RunConfig, out: Folder, trained: Trained, index: ShardedIndex, manifest: Manifest
) -> dict[str, Any]:
    """Return the share of the items of exact search that an approximate index finds, and the metrics of the
    same users under both: what they lack under exact search is the model's loss, the rest the index's."""
    features, depth = read_manifest(out / "features", "features", "prepare"), run.evaluation.depth
    for part in sorted(features.info["part_events"]):
        queries = read_queries(out / "features", part, run.evaluation.part, trained.shape)
        if len(queries.truth_items):
            break
    else:
        return {}  # nothing is relevant to anyone, which the metrics say
    rows = np.arange(min(len(queries), RECALL_SAMPLE))
    dim, metric = trained.run.model.embedding_dim, manifest.info["metric"]
    exact = local_index(trained.model, features.info["items"], dim, "cpu", metric)
    answers = {
        name: retrieve(VectorRetriever(trained.model, which), queries, rows, trained_run(trained, run), depth)
        for name, which in (("exact", exact), ("index", index))
    }
    wanted, found = (answers[name].item_idx for name in ("exact", "index"))
    same = [np.isin(b[b >= 0], a[a >= 0]).sum() for a, b in zip(wanted, found, strict=True)]
    truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
    measured = {
        name: {
            key: mean(METRICS[kind](answer, truth, k))
            for key, (kind, k) in zip(run.evaluation.keys(), run.evaluation.pairs(), strict=True)
            if kind in METRICS
        }
        for name, answer in answers.items()
    }
    return {
        f"recall_vs_exact@{depth}": float(np.sum(same)) / max(int((wanted >= 0).sum()), 1),
        "sample_users": len(rows),
        "sample_metrics": measured,
    }


def _results(
    run: RunConfig, manifests: dict[str, Manifest], merged: Measured, index: dict[str, Any]
) -> dict[str, Any]:
    features, checkpoint, seed = manifests["features"], manifests["checkpoint"], run.training.seed
    model = merged.totals["model"]
    slices = {
        name: {
            "user_activity": _activity_slices(merged.totals[name].values, merged.history_items),
            **found.result(),
        }
        for name, found in merged.slices.items()
    }
    return {
        "model": run.model_name,
        "part": run.evaluation.part,
        "protocol": {
            **run.protocol,
            "candidates": features.info["items"],
            "candidates_digest": features.info["vocabularies"]["item"],
            "queries": len(merged.history_items),
            "data_digest": features.info["data_digest"],
        },
        "metrics": model.result(),
        "intervals": {key: list(value) for key, value in model.intervals(seed).items()},
        "baselines": {name: totals.result() for name, totals in merged.totals.items() if name != "model"},
        "baseline_intervals": {
            name: {key: list(value) for key, value in totals.intervals(seed).items()}
            for name, totals in merged.totals.items()
            if name != "model"
        },
        "interests": merged.health.result() if merged.health else {},
        "index": index,
        **({"gate": merged.gates.result()} if merged.gates else {}),
        **({"diversity_curve": merged.curve.points()} if merged.curve else {}),
        "slices": slices.pop("model"),
        "baseline_slices": slices,
        "training": {
            name: checkpoint.info[name]
            for name in ("samples", "samples_per_s", "epochs", "best_epoch", "stopped", "workers")
        }
        | {"seed": seed},
        "lineage": {
            "run_digest": run.run_digest,
            "features_digest": features.digest,
            "checkpoint_digest": checkpoint.digest,
            "index_digest": manifests[TABLE if TABLE in manifests else INDEX].digest,
            "code_version": __version__,
        },
    }


def _activity_slices(values: dict[str, np.ndarray], history_items: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the metrics by quarters of users with few to many distinct items in the history."""
    edges = np.unique(np.quantile(history_items, [0, 0.25, 0.5, 0.75, 1]).astype(np.int64))
    buckets: dict[str, Bucket] = {}
    for low, high in itertools.pairwise(edges):
        last = high == edges[-1]
        mask = (history_items >= low) & ((history_items <= high) if last else (history_items < high))
        name = f"{low}-{high if last else high - 1} items"
        buckets.setdefault(name, Bucket()).add(int(mask.sum()), {k: v[mask] for k, v in values.items()})
    if not buckets:
        buckets[f"{edges[0]} items"] = Bucket()
        buckets[f"{edges[0]} items"].add(len(history_items), values)
    return {name: bucket.result() for name, bucket in buckets.items() if bucket.users}
