"""Retrieval by vectors: encode the users, search every active interest, keep the best score of each item.

Shape suffixes: B batch, K interests, D vector.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from raysys.errors import RetrievalError
from raysys.models.contract import Batch, VectorModel
from raysys.retrieval.candidates import (
    BoolArray,
    Candidates,
    FloatArray,
    IntArray,
    Ragged,
    check_ragged,
    drop_seen,
    fold_interests,
    missing_candidates,
    take_sets,
)
from raysys.schema import NUM_RESERVED

_DEPTH_STEPS = (64, 256, 1024, 4096, 16384)
"""Users are searched in groups of about as many seen items: one heavy user must not slow down all."""


class Searcher(Protocol):
    """Anything that finds items for vectors: an index of this machine or one spread over a cluster."""

    @property
    def num_items(self) -> int: ...

    def search(self, queries: FloatArray, k: int) -> Candidates:
        """Return the best k items of each (Q, D) float32 query."""
        ...


@dataclass(frozen=True)
class Found:
    """What a search found for every interest of every user: `together` is the answer, `alone` its parts.

    Attributes:
        vectors: (B, K, D) float32, as `encode_users` gave them.
        active: (B, K) bool.
        k: columns of the answer.
        seen: what each user has seen and is not given, or None.
        lists: groups of users, every user in one: their places, how much deeper than k they were searched,
            and what each of their interests found, (users * K, depth), missing for inactive ones.
    """

    vectors: FloatArray
    active: BoolArray
    k: int
    seen: Ragged | None
    lists: list[tuple[IntArray, int, Candidates]]

    def together(self) -> Candidates:
        """Return (B, k) candidates; an item's score is its maximum over the active interests."""
        result = missing_candidates(len(self.active), self.k)
        for users, _, found in self.lists:
            best = fold_interests(found, self.active.shape[1], self.active[users])
            if self.seen is not None:
                best = drop_seen(best, *take_sets(self.seen, users), self.k)
            best = best.top(self.k)
            result.item_idx[users], result.score[users] = best.item_idx, best.score
        return result

    def alone(self, k: int) -> Candidates:
        """Return what each interest would answer by itself: (B * K, k), the K interests of a user one after
        the other.

        Folding them gives the first k columns of `together`, and so it does for any of a user's interests.

        Args:
            k: columns, at most those of the answer.
        """
        interests = self.active.shape[1]
        result = missing_candidates(self.active.size, k)
        for users, deeper, found in self.lists:
            left, width, deepest = np.flatnonzero(self.active[users]), k, min(found.k, k + deeper)
            while len(left):
                # few lists begin with so many seen items that their first k others lie deep
                width = min(2 * width, deepest)
                part = Candidates(found.item_idx[left, :width], found.score[left, :width])
                owners = users[left // interests]
                if self.seen is not None:
                    part = drop_seen(part, *take_sets(self.seen, owners), k)
                part = part.top(k)
                full = (part.item_idx[:, -1] >= 0) | (width == deepest)
                rows = (owners * interests + left % interests)[full]
                result.item_idx[rows], result.score[rows] = part.item_idx[full], part.score[full]
                left = left[~full]
        return result


class VectorRetriever:
    """Answers for a vector model with an index of its item vectors."""

    def __init__(self, model: VectorModel, index: Searcher, device: str = "cpu") -> None:
        self.model = model
        self.index = index
        self.device = torch.device(device)

    def retrieve(self, batch: Batch, k: int, seen: tuple[IntArray, IntArray] | None = None) -> Candidates:
        """Return the best k items of each user; an item's score is its maximum over the active interests.

        Args:
            batch: what the model's `encode_users` reads; moved to the device.
            k: columns of the answer.
            seen: (offsets, items) of what each user has seen, see `Ragged`; these items are left out. The
                search goes deeper by the number of seen items, so nothing is lost to them.
        Returns:
            (B, k) candidates; all missing for a user without an active interest.
        Raises:
            RetrievalError: vectors or `seen` that do not fit, vectors with NaN, or an index without items.
        """
        return self.find(batch, k, seen).together()

    def find(self, batch: Batch, k: int, seen: tuple[IntArray, IntArray] | None = None) -> Found:
        """Return what every interest of each user found; arguments and errors as of `retrieve`."""
        with serving(self.model):
            vectors_BKD, active_BK = self.model.encode_users(
                {name: tensor.to(self.device) for name, tensor in batch.items()}
            )
        vectors, active = vectors_BKD.float().cpu().numpy(), active_BK.bool().cpu().numpy()
        if vectors.ndim != 3 or active.shape != vectors.shape[:2]:
            raise RetrievalError(
                f"encode_users gave vectors {vectors.shape} and active {active.shape}; "
                "expected (users, interests, dim) and (users, interests)"
            )
        if seen is None:
            everybody = np.arange(len(active))
            return Found(vectors, active, k, None, [(everybody, 0, self._search(vectors, active, k))])
        sets = check_ragged(seen, len(active), "seen items")
        counts = np.diff(sets.offsets)
        most = int(counts.max(initial=0))
        steps = np.array([0, *(step for step in _DEPTH_STEPS if step < most), most])
        deeper = steps[np.searchsorted(steps, counts)]
        lists: list[tuple[IntArray, int, Candidates]] = []
        for extra in map(int, np.unique(deeper)):
            users = np.flatnonzero(deeper == extra)
            lists.append((users, extra, self._search(vectors[users], active[users], k + extra)))
        return Found(vectors, active, k, sets, lists)

    def _search(self, vectors: FloatArray, active: BoolArray, depth: int) -> Candidates:
        """Search the active interests only; their answers go back to their places before the fold."""
        depth = max(1, min(depth, self.index.num_items))
        found = missing_candidates(active.size, depth)
        places = np.flatnonzero(active)
        if len(places):
            answer = self.index.search(vectors.reshape(active.size, -1)[places], depth)
            found.item_idx[places], found.score[places] = answer.item_idx, answer.score
        return found


def encode_catalogue(
    model: VectorModel, num_items: int, block: int = 8192, device: str = "cpu"
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield (item_idx, vectors) of all real items in ascending blocks: what an index is filled with.

    Args:
        model: on `device`; encoded without gradients and without dropout.
        num_items: rows of the item table, the reserved ones included; these are not encoded.
        block: items at a time, at least 1.
        device: where `item_idx` is put.
    Yields:
        (N,) int64 and (N, D) float32, N <= block.
    Raises:
        RetrievalError: vectors of a wrong shape, or NaN among them.
    """
    for start in range(NUM_RESERVED, num_items, block):
        item_idx = np.arange(start, min(start + block, num_items), dtype=np.int64)
        with serving(model):
            vectors = model.encode_items(torch.as_tensor(item_idx, device=device)).float().cpu().numpy()
        if vectors.ndim != 2 or len(vectors) != len(item_idx):
            raise RetrievalError(
                f"encode_items gave {vectors.shape} for {len(item_idx)} items; expected one vector each"
            )
        if not np.isfinite(vectors).all():
            bad = int((~np.isfinite(vectors)).any(axis=1).sum())
            raise RetrievalError(
                f"{bad} of items {start} to {item_idx[-1]} have a vector with NaN or infinity"
            )
        yield item_idx, vectors


@contextmanager
def serving(model: object) -> Generator[None, None, None]:
    """Switch dropout and gradients off inside the block, and a module's training mode back on after it."""
    module = model if isinstance(model, torch.nn.Module) else None
    was_training = module is not None and module.training
    if module is not None and was_training:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if module is not None and was_training:
            module.train()
