"""What the doctor does with a trained model: draws, encodes, and hands what comes out to the checks.

Shape suffixes: Q users, K interests, D vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysys.data.queries import Queries, read_queries
from raysys.distributed.checkpoints import Trained, catalog_of
from raysys.distributed.doctor_reading import (
    BLOCK,
    MOST_TESTED,
    IdCounts,
    Reading,
    count_ids,
)
from raysys.distributed.loop import loss_inputs
from raysys.evaluation.doctor import negative_checks as negatives
from raysys.evaluation.doctor import outcome_checks as outcomes
from raysys.evaluation.doctor import serving_checks as serving
from raysys.evaluation.doctor.census import Census
from raysys.evaluation.doctor.check import Check, not_checked
from raysys.evaluation.doctor.probes import users_of
from raysys.evaluation.doctor.ranking import Block, Standing, Users, best_targets, standing
from raysys.evaluation.health import InterestHealth
from raysys.models import build_model
from raysys.models.contract import FusionModel, InterestModel
from raysys.nn.loss_inputs import WITH_NEGATIVES
from raysys.retrieval.vectors import serving as encoding
from raysys.schema import NUM_RESERVED
from raysys.seeds import generator

ENCODED = 48
"""Users that are encoded in several ways."""


@dataclass(frozen=True)
class Tested:
    """Users with something held out: what the model reads of them, how it encodes them and what is to be
    found."""

    batches: list[dict[str, Tensor]]
    users: Users


class ModelExam:
    """The examination of one model that learns by gradient and answers with vectors."""

    def __init__(self, reading: Reading, trained: Trained, census: Census) -> None:
        self.reading, self.trained, self.census = reading, trained, census
        self.model, self.training = trained.model, trained.run.training
        self.seed = self.training.seed
        self.catalog = catalog_of(reading.features, reading.manifest)

    @cached_property
    def batches(self) -> list[dict[str, np.ndarray]]:
        """Real batches with what the loss adds to them."""
        inputs = loss_inputs(self.trained.run, self.catalog)
        return [{**batch, **inputs.arrays(step, batch)} for step, batch in enumerate(self.reading.batches())]

    @cached_property
    def tested(self) -> Tested:
        """A sample of the users of the evaluated part."""
        part, batches, found = self.reading.run.evaluation.part, list[dict[str, Tensor]](), list[Users]()
        share = -(-MOST_TESTED // len(self.reading.parts))
        for name in self.reading.parts:
            queries = read_queries(self.reading.features, name, part, self.reading.shape)
            rows = generator(self.seed, "doctor", "tested", name).permutation(len(queries))[:share]
            if len(rows):
                batch = users_of(queries.batch(rows))
                truth, seen = self._sets(queries, rows)
                batches.append(batch)
                found.append(Users(*encode(self.model, batch), truth, seen))
        return Tested(batches, _together(found))

    def _sets(self, queries: Queries, rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return what is to be found and what is not to be given, per user."""
        filters = self.reading.run.split.filter_seen
        ends = [(queries.truth_offsets, queries.truth_items), (queries.seen_offsets, queries.seen_items)]
        truth, seen = ([items[offsets[row] : offsets[row + 1]] for row in rows] for offsets, items in ends)
        if not filters:
            return truth, [np.zeros(0, np.int64) for _ in rows]
        return [np.setdiff1d(a, b) for a, b in zip(truth, seen, strict=True)], seen

    @property
    def cutoff(self) -> int:
        """Items looked at: the first of `evaluation.ks`, less where that is much of the catalogue."""
        return min(self.reading.run.evaluation.ks[0], max(1, self.catalog.num_candidates // 10))

    def training_checks(self, counts: IdCounts) -> list[Check]:
        """Check negatives, correction and encoding; counts the ids of targets and negatives."""
        if not self.batches:
            reason = "there are no training samples"
            names = ("accidental_hits", "sampler_order", "logq_correction")
            return [*(not_checked(name, reason) for name in names), self._same_vectors()]
        return [
            negatives.accidental_hits(self.model, self.training, self.batches, self.census.train_counts),
            *self._sampler_checks(counts),
            self._same_vectors(),
        ]

    def _sampler_checks(self, counts: IdCounts) -> list[Check]:
        if self.training.loss not in WITH_NEGATIVES:
            reason = f"training.loss = {self.training.loss!r} draws no negatives"
            return [not_checked(name, reason) for name in ("sampler_order", "logq_correction")]
        inputs, batch = loss_inputs(self.trained.run, self.catalog), self.batches[0]
        taken = np.concatenate([one["negatives"] for one in self.batches])
        counts["negatives"] = count_ids(taken, self.reading.num_items)

        def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
            arrays = inputs.arrays(step, batch)
            return arrays["negatives"], arrays["log_expected"]

        drawn, said, steps = negatives.draw_many(draw, self.reading.num_items)
        target = int(batch["target"].reshape(-1)[0])
        other = next(item for item in range(NUM_RESERVED, self.reading.num_items) if item != target)
        shift = negatives.correction_shift(self.model, self.training.loss, batch, other)
        train = self.census.train_counts
        return [
            negatives.sampler_order(self.training, drawn, train),
            negatives.logq_correction(self.training, drawn, said, steps, train, shift),
        ]

    def _same_vectors(self) -> Check:
        few = [
            {name: values[:ENCODED] for name, values in batch.items()} for batch in self.tested.batches[:1]
        ]
        if not few:
            return not_checked("same_user_same_vectors", "no user has anything held out")
        return serving.same_user_same_vectors(self.model, few[0])

    def without_vectors(self) -> list[Check]:
        """Check what needs the checkpoint only."""
        blocks = self._encoded(self.model)
        best = best_targets(self.tested.users, self.encoded_targets(self.model))
        return self.user_checks(standing(self.tested.users, best, blocks, self.reading.num_items))

    def item_vectors(self, model: Any, item_idx: np.ndarray) -> np.ndarray:
        """Return the vectors (M, D) float32 that a model gives to items."""
        with encoding(model):
            return model.encode_items(torch.from_numpy(item_idx.astype(np.int64))).float().numpy()

    def _encoded(self, model: Any) -> Iterator[Block]:
        """Yield the catalogue as a model encodes it."""
        for start in range(NUM_RESERVED, self.reading.num_items, BLOCK):
            item_idx = np.arange(start, min(start + BLOCK, self.reading.num_items))
            yield item_idx, self.item_vectors(model, item_idx)

    def encoded_targets(self, model: Any) -> dict[int, np.ndarray]:
        """Return item_idx -> vector (D,) of what the tested users are to find."""
        truth = self.tested.users.truth
        items = np.unique(np.concatenate(truth)) if truth else np.zeros(0, np.int64)
        return dict(zip(items.tolist(), self.item_vectors(model, items), strict=True))

    def hits(self, found: Standing, best: np.ndarray) -> np.ndarray:
        """Return (Q,) bool: whether the best target of a user is among the first `cutoff` items."""
        return np.isfinite(best) & (found.above < self.cutoff)

    def chances(self) -> np.ndarray:
        """Return (Q,) how likely that is for random items."""
        users, items = self.tested.users, self.catalog.num_candidates
        pairs = zip(users.truth, users.seen, strict=True)
        return np.array(
            [outcomes.chance_of_hit(items - len(seen), len(truth), self.cutoff) for truth, seen in pairs]
        )

    def user_checks(self, found: Standing, hits: np.ndarray | None = None) -> list[Check]:
        """Check the interests, the gate and what training did, for the tested users."""
        users = self.tested.users
        if hits is None:
            hits = self.hits(found, best_targets(users, self.encoded_targets(self.model)))
        return [
            self._untrained(hits),
            outcomes.collapsed_interests(self._health(found)),
            outcomes.saturated_gate(self._gates()),
        ]

    def _untrained(self, hits: np.ndarray) -> Check:
        made, users = self.trained.run, self.tested.users
        start = build_model(made.model_name, made.model, self.catalog, self.training.loss, self.seed).eval()
        fresh = _together([Users(*encode(start, batch), [], []) for batch in self.tested.batches])
        before = Users(fresh.vectors, fresh.active, users.truth, users.seen)
        best = best_targets(before, self.encoded_targets(start))
        found = standing(before, best, self._encoded(start), self.reading.num_items)
        pairs = zip(self.model.parameters(), start.parameters(), strict=True)
        moved = max(float((a - b).detach().abs().max()) for a, b in pairs if a.numel())
        return outcomes.untrained_self(hits, self.hits(found, best), moved, self.cutoff)

    def _health(self, found: Standing) -> InterestHealth | None:
        users = self.tested.users
        if not isinstance(self.model, InterestModel):
            return None
        health, start = InterestHealth(users.vectors.shape[1]), 0
        for batch in self.tested.batches:
            with encoding(self.model):
                couplings = self.model.couplings(batch).float().numpy()
            history = batch["history"].numpy()[:, -couplings.shape[1] :] > 0
            rows = slice(start, start + len(history))
            health.add(users.vectors[rows], users.active[rows], couplings, history, found.winners[rows])
            start = rows.stop
        return health

    def _gates(self) -> np.ndarray | None:
        if not isinstance(self.model, FusionModel):
            return None
        with encoding(self.model):
            found = [self.model.fusion(batch) for batch in self.tested.batches]
        gates = [some["gate"].float().numpy() for some in found if "gate" in some]
        return np.concatenate(gates) if gates else None


def encode(model: Any, batch: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors (Q, K, D) float32 of users, and which are active (Q, K)."""
    with encoding(model):
        vectors, active = model.encode_users(batch)
    return vectors.float().numpy(), active.numpy()


def _together(parts: list[Users]) -> Users:
    if not parts:
        empty = np.zeros((0, 1, 1), np.float32)
        return Users(empty, np.zeros((0, 1), bool), [], [])
    return Users(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.active for part in parts]),
        [items for part in parts for items in part.truth],
        [items for part in parts for items in part.seen],
    )
