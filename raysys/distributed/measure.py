"""What one task of the evaluation does to one user partition: encode, search, measure, write the lists."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raysys.catalog import Catalog
from raysys.data.hashing import hash_text
from raysys.data.history import frequent_positions, take
from raysys.data.queries import Queries, read_queries
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import Trained, catalog_of, load_trained
from raysys.distributed.index import ShardedIndex
from raysys.distributed.interests import block_health
from raysys.distributed.tables import answer_all_from_table
from raysys.distributed.validation import batches_by_seen, find, ragged_rows
from raysys.evaluation.health import InterestHealth
from raysys.evaluation.metrics import METRICS, EvaluationConfig, MetricTotals
from raysys.manifest import read_manifest
from raysys.models.contract import InterestModel
from raysys.retrieval.candidates import Candidates, drop_seen
from raysys.retrieval.table import TableRetriever, popular_table, random_candidates
from raysys.retrieval.vectors import VectorRetriever
from raysys.run import RunConfig
from raysys.seeds import derive_seed
from raysys.storage import Folder

BATCH = 512
HEAD_SHARE, TAIL_SHARE = 0.2, 0.5


@dataclass(frozen=True)
class Job:
    """What a task needs to measure one partition."""

    run: RunConfig
    out: Folder
    staged: Folder
    index: ShardedIndex | TableRetriever


@dataclass
class Measured:
    """What a task returns: per-user values of the model and the baselines, and what slices are made from."""

    totals: dict[str, MetricTotals]
    history_length: np.ndarray
    popularity: dict[str, dict[str, np.ndarray]]
    health: InterestHealth | None
    search_s: float
    searched: int


def measure_part(part: str, job: Job) -> Measured:
    """Measure the users of one partition and write `recommendations/<part>`."""
    torch.set_num_threads(1)
    run, features = job.run, job.out / "features"
    manifest = read_manifest(features, "features", "prepare")
    catalog = catalog_of(features, manifest)
    trained = load_trained(job.out / "checkpoint", features)
    queries = read_queries(features, part, run.evaluation.part, trained.shape)
    candidates, health, search_s = retrieve_all(trained, queries, run, job.index)
    truth = (queries.truth_offsets, queries.truth_items.astype(np.int64))
    totals = {"model": MetricTotals(run.evaluation, catalog.num_candidates)}
    totals["model"].add(candidates, truth)
    for name, answer in baselines(queries, run, catalog).items():
        totals[name] = MetricTotals(run.evaluation, catalog.num_candidates)
        totals[name].add(answer, truth)
    _write_recommendations(job, part, queries, candidates)
    lengths = np.diff(queries.seen_offsets)
    popularity = _by_popularity(run.evaluation, candidates, queries, catalog)
    return Measured(totals, lengths, popularity, health, search_s, len(queries))


def retrieve_all(
    trained: Trained, queries: Queries, run: RunConfig, index: Any
) -> tuple[Candidates, InterestHealth | None, float]:
    """Return the candidates of every query, in order, the health of the interests (None for a model without
    interests, or without queries), and the seconds that retrieval took.

    The first interests are judged at the first cut-off of `evaluation.ks`.
    """
    if isinstance(index, TableRetriever):
        return answer_all_from_table(trained, queries, run, index)
    retriever, depth = VectorRetriever(trained.model, index), run.evaluation.depth
    item_idx = np.full((len(queries), depth), -1, dtype=np.int64)
    score = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    health: InterestHealth | None = None
    seconds = 0.0
    for rows in batches_by_seen(queries, np.arange(len(queries)), BATCH):
        begin = time.monotonic()
        batch, found = find(retriever, queries, rows, trained_run(trained, run), depth)
        answer = found.together()
        seconds += time.monotonic() - begin
        item_idx[rows], score[rows] = answer.item_idx, answer.score
        if isinstance(trained.model, InterestModel):
            truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
            block = block_health(trained.model, batch, found, answer, truth, run.evaluation.ks[0])
            health = health.merge(block) if health else block
    return Candidates(item_idx, score), health, seconds


def trained_run(trained: Trained, run: RunConfig) -> RunConfig:
    """Return the run with the model as it was trained: a model is measured as it is, not as a file says."""
    return dataclasses.replace(run, model=trained.run.model, model_name=trained.run.model_name)


def baselines(queries: Queries, run: RunConfig, catalog: Catalog) -> dict[str, Candidates]:
    """Return what chance and popularity answer under the same protocol; where repeats are allowed, also each
    user's own most frequent items."""
    depth, count = run.evaluation.depth, len(queries)
    seen = (queries.seen_offsets, queries.seen_items.astype(np.int64)) if run.split.filter_seen else None
    popular = TableRetriever(popular_table(catalog.item_counts)).retrieve_row(count, depth, seen)
    extra = int(np.diff(queries.seen_offsets).max(initial=0)) if seen else 0
    seed = derive_seed(run.training.seed, "random")
    chance = random_candidates(catalog.num_items, hash_text(queries.user_id), depth + extra, seed)
    if seen:
        chance = drop_seen(chance, seen[0], seen[1], depth)
    answers = {"random": chance.top(depth), "popular": popular.top(depth)}
    if not run.split.filter_seen:
        longest = popular_table(catalog.item_counts)
        answers["own_frequent"] = own_frequent(queries, longest.item_idx[0], depth)
    return answers


def own_frequent(queries: Queries, popular: np.ndarray, depth: int) -> Candidates:
    """Return each user's own items, the most frequent first, of equals the later one, filled up with popular
    ones.

    Args:
        queries: of the users.
        popular: every item, the most popular first.
        depth: columns of the answer.
    """
    history = queries.history
    own, real = frequent_positions(
        history.events["item_idx"], history.start, history.stop, int(history.stop.max(initial=1)), depth
    )
    items = take(history.events["item_idx"], own, real)[:, ::-1]
    item_idx = np.full((len(queries), depth), -1, dtype=np.int64)
    for row, mine in enumerate(items):
        mine = mine[mine > 0]
        more = popular[: depth + len(mine)]
        line = np.concatenate([mine, more[~np.isin(more, mine)]])[:depth]
        item_idx[row, : len(line)] = line
    score = np.where(item_idx >= 0, np.arange(depth, 0, -1, dtype=np.float32), -np.inf)
    return Candidates(item_idx, score.astype(np.float32))


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
    least popular ones that together have half.
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
