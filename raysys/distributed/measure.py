"""What one task of the evaluation does to one user partition: encode, search, measure, write the lists."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raysys.catalog import Catalog
from raysys.config import require
from raysys.data.hashing import hash_text
from raysys.data.history import frequent_positions, take
from raysys.data.parquet import write_table
from raysys.data.queries import Queries, read_queries
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import Trained, catalog_of, load_trained
from raysys.distributed.index import ShardedIndex
from raysys.distributed.interests import block_gates, block_health
from raysys.distributed.tables import answer_all_from_table
from raysys.distributed.validation import batches_by_seen, find, ragged_rows
from raysys.evaluation.diversity_curve import DiversityCurve, relevance_diversity_curve
from raysys.evaluation.gate import GateValues
from raysys.evaluation.health import InterestHealth
from raysys.evaluation.interest_content import InterestContent
from raysys.evaluation.lists import Facts
from raysys.evaluation.metrics import EvaluationConfig, MetricTotals
from raysys.evaluation.slices import (
    POPULARITY,
    SliceTotals,
    length_buckets,
    pause_buckets,
    popularity_buckets,
)
from raysys.manifest import read_manifest
from raysys.models.contract import FusionModel, InterestModel
from raysys.retrieval.candidates import Candidates, drop_seen, missing_candidates
from raysys.retrieval.diversity import diversify
from raysys.retrieval.table import TableRetriever, popular_table, random_candidates
from raysys.retrieval.vectors import VectorRetriever
from raysys.run import RunConfig
from raysys.seeds import derive_seed
from raysys.storage import Folder

BATCH = 512


@dataclass(frozen=True)
class Job:
    """What a task needs to measure one partition."""

    run: RunConfig
    out: Folder
    staged: Folder
    index: ShardedIndex | TableRetriever


@dataclass
class Retrieved:
    """The candidates of every query of a partition, in order, and the seconds that retrieval took; the health
    of the interests, what they retrieve, and the gates of a fusion: None for a model without them, or without
    queries."""

    candidates: Candidates
    seconds: float
    health: InterestHealth | None = None
    content: InterestContent | None = None
    gates: GateValues | None = None


@dataclass
class Measured:
    """What a task returns: per-user values and slices of the model and the baselines, and per user the number
    of distinct items in the history, whose quarters only all users together have; the curve of relevance and
    diversity where the run asks for one; what the interests retrieve and the gates of the fusion, where the
    model has any."""

    totals: dict[str, MetricTotals]
    slices: dict[str, SliceTotals]
    history_items: np.ndarray
    health: InterestHealth | None
    content: InterestContent | None
    gates: GateValues | None
    search_s: float
    searched: int
    curve: DiversityCurve | None


def measure_part(part: str, job: Job) -> Measured:
    """Measure the users of one partition and write `recommendations/<part>` and `values/<part>`."""
    torch.set_num_threads(1)
    run, features = job.run, job.out / "features"
    manifest = read_manifest(features, "features", "prepare")
    catalog = catalog_of(features, manifest)
    trained = load_trained(job.out / "checkpoint", features)
    queries = read_queries(features, part, run.evaluation.part, trained.shape, ("at",))
    retrieved = retrieve_all(trained, queries, run, job.index)
    deep = retrieved.candidates
    truth = (queries.truth_offsets, queries.truth_items.astype(np.int64))
    facts = Facts.of(catalog, (queries.seen_offsets, queries.seen_items.astype(np.int64)))
    candidates = make_lists(deep, catalog, run.evaluation)
    curve = make_curve(deep, catalog, truth, run.evaluation)
    totals: dict[str, MetricTotals] = {}
    slices: dict[str, SliceTotals] = {}
    for name, answer in {"model": candidates, **baselines(queries, run, catalog)}.items():
        totals[name] = MetricTotals(run.evaluation, catalog.num_candidates)
        values = totals[name].add(answer, truth, facts)
        slices[name] = _slices(run.evaluation, answer, values, queries, catalog)
    _write_recommendations(job, part, queries, candidates)
    _write_values(job, part, queries, totals["model"].values)
    items = np.diff(queries.seen_offsets)
    return Measured(
        totals,
        slices,
        items,
        retrieved.health,
        retrieved.content,
        retrieved.gates,
        retrieved.seconds,
        len(queries),
        curve,
    )


def make_lists(deep: Candidates, catalog: Catalog, config: EvaluationConfig) -> Candidates:
    """Return the lists that are measured, written and shown, (Q, depth).

    Args:
        deep: (Q, search_depth) candidates.
        catalog: of the items.
        config: of the run.
    Raises:
        ConfigError: there is no such category.
    """
    if not config.varies_lists:
        return deep.top(config.depth)
    categories, cap = item_categories(catalog, config.diversity_category), config.max_per_category or None
    return diversify(deep, categories, config.depth, config.diversity_weight, cap)


def make_curve(
    deep: Candidates, catalog: Catalog, truth: tuple[np.ndarray, np.ndarray], config: EvaluationConfig
) -> DiversityCurve | None:
    """Return what lists of the largest k are worth for every weight that the run names; None without any."""
    if not config.diversity_curve:
        return None
    categories, cap = item_categories(catalog, config.diversity_category), config.max_per_category or None
    return relevance_diversity_curve(deep, categories, truth, config.diversity_curve, config.depth, cap)


def item_categories(catalog: Catalog, name: str) -> np.ndarray:
    """Return the first value of an item feature, (num_items,) int64; of the first categorical one without a
    name.

    Raises:
        ConfigError: the items have no such feature, or it is a number.
    """
    kinds = {feature.name: feature.kind for feature in catalog.item_features}
    known = [key for key, kind in kinds.items() if kind != "number"]
    found = f"evaluation.diversity_category: found {name!r}"
    require(not name or name in known, f"{found}, categorical item features are {', '.join(known) or 'none'}")
    require(bool(known), f"{found}, but the items have no categorical feature; name one in [data.items]")
    values = catalog.item_values[name or known[0]]
    return values.reshape(len(values), -1)[:, 0].astype(np.int64)


def retrieve_all(trained: Trained, queries: Queries, run: RunConfig, index: Any) -> Retrieved:
    """Return what a model finds for every query.

    Interests are judged by their own lists up to the first cut-off of `evaluation.ks`.
    """
    if isinstance(index, TableRetriever):
        return Retrieved(*answer_all_from_table(trained, queries, run, index))
    retriever, depth = VectorRetriever(trained.model, index), run.evaluation.search_depth
    item_idx = np.full((len(queries), depth), -1, dtype=np.int64)
    score = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    result = Retrieved(Candidates(item_idx, score), 0.0)
    for rows in batches_by_seen(queries, np.arange(len(queries)), BATCH):
        begin = time.monotonic()
        batch, found = find(retriever, queries, rows, trained_run(trained, run), depth)
        answer = found.together()
        result.seconds += time.monotonic() - begin
        item_idx[rows], score[rows] = answer.item_idx, answer.score
        if isinstance(trained.model, InterestModel):
            alone = found.alone(run.evaluation.ks[0])
            truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
            health = block_health(trained.model, batch, found, answer, alone, truth)
            result.health = result.health.merge(health) if result.health else health
            content = InterestContent.of(found.active, alone)
            result.content = result.content.merge(content) if result.content else content
        if isinstance(trained.model, FusionModel):
            gates = block_gates(trained.model, batch)
            result.gates = result.gates.merge(gates) if result.gates and gates else gates
    return result


def trained_run(trained: Trained, run: RunConfig) -> RunConfig:
    """Return the run with the model as it was trained: a model is measured as it is, not as a file says."""
    return dataclasses.replace(run, model=trained.run.model, model_name=trained.run.model_name)


def baselines(queries: Queries, run: RunConfig, catalog: Catalog) -> dict[str, Candidates]:
    """Return what chance and popularity answer under the same protocol; where repeats are allowed, also each
    user's own most frequent items."""
    depth, everybody = run.evaluation.depth, np.arange(len(queries))
    popular = TableRetriever(popular_table(catalog.item_counts))
    keys, seed = hash_text(queries.user_id), derive_seed(run.training.seed, "random")
    answers = {name: missing_candidates(len(queries), depth) for name in ("random", "popular")}
    # Both lists go as deep as the most items that a user of the batch has seen, so such users stand together.
    for rows in batches_by_seen(queries, everybody, BATCH) if run.split.filter_seen else [everybody]:
        seen = ragged_rows(queries.seen_offsets, queries.seen_items, rows) if run.split.filter_seen else None
        most = int(np.diff(seen[0]).max(initial=0)) if seen else 0
        chance = random_candidates(catalog.num_items, keys[rows], depth + most, seed)
        found = {
            "random": drop_seen(chance, *seen, depth) if seen else chance,
            "popular": popular.retrieve_row(len(rows), depth, seen),
        }
        for name, answer in found.items():
            answers[name].item_idx[rows], answers[name].score[rows] = answer.item_idx, answer.score
    if not run.split.filter_seen:
        answers["own_frequent"] = own_frequent(queries, popular.table.item_idx[0], depth)
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


def _slices(
    config: EvaluationConfig,
    candidates: Candidates,
    values: dict[str, np.ndarray],
    queries: Queries,
    catalog: Catalog,
) -> SliceTotals:
    """Return the metrics by what was held out, by events in the history and by the time since the last."""
    slices, history = SliceTotals(), queries.history
    items = queries.truth_items.astype(np.int64)
    truth, places = (queries.truth_offsets, items), popularity_buckets(catalog.item_counts)[items]
    slices.add_truth("item_popularity", POPULARITY, places, config, candidates, truth)
    cold = (catalog.item_counts[items] == 0).astype(np.int64)
    slices.add_truth("cold_items", ("in training", "cold"), cold, config, candidates, truth)
    lengths = history.stop - history.start
    slices.add("history_length", *length_buckets(lengths), values)
    pauses = np.full(len(queries), np.nan)
    some = lengths > 0
    pauses[some] = queries.target_at[some] - history.events["at"][history.stop[some] - 1]
    slices.add("since_last_event", *pause_buckets(pauses), values)
    return slices


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
    write_table(job.staged, f"recommendations/{part}", table)


def _write_values(job: Job, part: str, queries: Queries, values: dict[str, np.ndarray]) -> None:
    """Write every user's metrics, null where undefined: what another run is paired with."""
    columns = {key: pa.array(found, from_pandas=True) for key, found in values.items()}
    write_table(job.staged, f"values/{part}", pa.table({"user_id": queries.user_id, **columns}))
