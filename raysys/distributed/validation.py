"""Validation while training: real retrieval over the whole catalogue, shared out over the ranks."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raysys.data.hashing import hash_text
from raysys.data.queries import Queries, read_queries
from raysys.distributed.checkpoints import catalog_of
from raysys.distributed.interests import block_health
from raysys.evaluation.health import InterestHealth, to_curve
from raysys.evaluation.lists import Facts, gini
from raysys.evaluation.metrics import EvaluationConfig, MetricTotals
from raysys.manifest import Manifest
from raysys.models import sample_shape
from raysys.models.contract import InterestModel, VectorModel
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.exact import Metric
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.vectors import Found, VectorRetriever, encode_catalogue
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED
from raysys.seeds import derive_seed
from raysys.storage import Folder
from raysys.training_config import LISTS, TrainingConfig

if TYPE_CHECKING:
    from raysys.distributed.rank import Rank

BATCH = 512
HEALTH_USERS = 1000
"""Users whose interests are examined at a validation at most, the same ones every time: it takes another pass
through the routing, and means over so many are exact enough for an alarm."""


def validate(
    model: Any, run: RunConfig, features: Folder, manifest: Manifest, rank: "Rank"
) -> dict[str, float]:
    """Return hit_rate@k, ndcg@k and the watched metric on the validation part, the same on every rank; of a
    model with several interests also their health, as by `raysys.evaluation.health.to_curve`, for
    `HEALTH_USERS` of the users.

    Every rank measures every world-th query and the sums are added up, so the result does not depend on the
    number of workers beyond rounding. A metric that no query defines is NaN.
    """
    k = run.training.metric_k
    watched = Watched(run.training, features, manifest)
    index = local_index(model, manifest.info["items"], run.model.embedding_dim, rank.device)
    retriever = VectorRetriever(model, index, rank.device)
    health: InterestHealth | None = None
    shape = sample_shape(run.model_name, run.model, run.session)
    for part in sorted(manifest.info["part_events"]):
        queries = read_queries(features, part, "valid", shape)
        for chosen, examined in user_batches(queries, run.training, manifest.info["queries"]["valid"], rank):
            batch, found = find(retriever, queries, chosen, run, k)
            candidates = found.together()
            truth = watched.add(queries, chosen, candidates)
            if examined and isinstance(model, InterestModel) and found.active.shape[1] > 1:
                block = block_health(model, batch, found, candidates, found.alone(k), truth)
                health = health.merge(block) if health else block
    return watched.result(rank) | _health_over_ranks(health, k, rank)


class Watched:
    """Adds up hit_rate@k, ndcg@k and the watched metric over the users of a validation."""

    def __init__(self, training: TrainingConfig, features: Folder, manifest: Manifest) -> None:
        names = dict.fromkeys([training.metric.partition("@")[0], "hit_rate", "ndcg"])
        config = EvaluationConfig(ks=(training.metric_k,), metrics=tuple(names))
        self.totals = MetricTotals(config, manifest.info["items"])
        self.catalog = catalog_of(features, manifest) if training.metric.startswith(LISTS) else None

    def add(
        self, queries: Queries, rows: np.ndarray, candidates: Candidates
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take in the lists of some queries; return their relevant items."""
        truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
        seen = ragged_rows(queries.seen_offsets, queries.seen_items, rows)
        self.totals.add(candidates, truth, Facts.of(self.catalog, seen) if self.catalog else None)
        return truth

    def result(self, rank: "Rank | None" = None) -> dict[str, float]:
        """Return `valid/<metric>` of the queries of all ranks; NaN for one that no query defines."""
        totals, values = self.totals, self.totals.values
        own = [part for key in values for part in (np.nansum(values[key]), (~np.isnan(values[key])).sum())]
        shown = [*totals.recommended.values(), *totals.times.values()]
        flat = np.concatenate([own, *shown])
        sums = np.array(rank.sum(flat.tolist())) if rank else flat
        means = {
            key: float(sums[2 * i] / sums[2 * i + 1]) if sums[2 * i + 1] else math.nan
            for i, key in enumerate(values)
        }
        times = sums[len(own) + NUM_RESERVED :].astype(np.int64)
        for k in totals.recommended:
            means[f"coverage@{k}"] = int((times > 0).sum()) / max(1, totals.num_candidates)
        for k in totals.times:
            means[f"gini@{k}"] = gini(times)
        return {f"valid/{key}": means[key] for key in totals.config.keys()}  # noqa: SIM118 # no mapping


def user_batches(
    queries: Queries, training: TrainingConfig, total: int, rank: "Rank | None" = None
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the batches of the sampled users, of one rank its share, and whether their interests are
    examined."""
    users = min(training.valid_users, total)
    rows = sampled_rows(queries, users / total, training.seed)
    few = sampled_rows(queries, min(users, HEALTH_USERS) / total, training.seed)
    own = slice(rank.rank, None, rank.world) if rank else slice(None)
    for chosen, examined in ((few, True), (np.setdiff1d(rows, few), False)):
        for batch in batches_by_seen(queries, chosen[own], BATCH):
            yield batch, examined


def _health_over_ranks(health: InterestHealth | None, k: int, rank: "Rank") -> dict[str, float]:
    """Return the health of the users of all ranks; a rank without users does not know how many interests."""
    known, ranks = rank.sum([float(health.num_interests), 1.0] if health else [0.0, 0.0])
    if not ranks:
        return {}
    own = health or InterestHealth(round(known / ranks), k)
    return to_curve(InterestHealth.of_sums(own.num_interests, k, rank.sum(own.sums())).result())


def local_index(
    model: VectorModel, num_candidates: int, dim: int, device: str, metric: Metric = "inner_product"
) -> ExactIndex:
    """Return an exact index of the model's present item vectors."""
    index = ExactIndex(metric, dim)
    for item_idx, vectors in encode_catalogue(model, num_candidates + 2, device=device):
        index.add(item_idx, vectors)
    return index


def sampled_rows(queries: Queries, share: float, seed: int) -> np.ndarray:
    """Return the rows of a fixed sample of users: those whose hash falls below the share."""
    if share >= 1:
        return np.arange(len(queries))
    draw = hash_text(queries.user_id, derive_seed(seed, "valid_users")).astype(np.float64) / 2.0**64
    return np.flatnonzero(draw < share)


def batches_by_seen(queries: Queries, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield batches of rows with similar numbers of seen items, because a search goes as deep as its
    largest."""
    seen = np.diff(queries.seen_offsets)[rows]
    ordered = rows[np.argsort(seen, kind="stable")]
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def ragged_rows(offsets: np.ndarray, items: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ragged sets of some rows."""
    sizes = np.diff(offsets)[rows]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    position = np.repeat(offsets[:-1][rows] - starts[:-1], sizes) + np.arange(starts[-1])
    return starts.astype(np.int64), items[position].astype(np.int64)


def find(
    retriever: VectorRetriever, queries: Queries, rows: np.ndarray, run: RunConfig, k: int
) -> tuple[dict[str, torch.Tensor], Found]:
    """Return the batch of some queries, on the retriever's device, and what was found for it under the run's
    rule for seen items."""
    arrays = queries.batch(rows)
    batch = {name: torch.from_numpy(values).to(retriever.device) for name, values in arrays.items()}
    seen = ragged_rows(queries.seen_offsets, queries.seen_items, rows) if run.split.filter_seen else None
    return batch, retriever.find(batch, k, seen)


def retrieve(
    retriever: VectorRetriever, queries: Queries, rows: np.ndarray, run: RunConfig, k: int
) -> Candidates:
    """Return the candidates of some queries under the run's rule for seen items."""
    return find(retriever, queries, rows, run, k)[1].together()
