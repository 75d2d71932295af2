"""Epochs: the order of training samples as a function of (seed, epoch), the same for any number of workers.

An epoch is a seeded permutation of the sequence files, cut into chunks that fit in memory; the samples of
a chunk are permuted and cut into global batches; what is left over at the end of a chunk is dropped,
another remainder in every epoch. A rank takes its own slice of each global batch. A position (epoch,
step) is therefore all that resuming needs.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from raysys.data.budget import draw
from raysys.data.hashing import hash_text
from raysys.data.history import load_item_columns, load_sequences
from raysys.data.pairs import pair_samples, rating_samples
from raysys.data.samples import Samples, sequence_samples, training_samples
from raysys.data.shapes import SampleShape
from raysys.errors import DataError
from raysys.seeds import derive_seed, generator
from raysys.storage import Folder

T = TypeVar("T")


@dataclass(frozen=True)
class Chunk:
    """Sequence files that are shuffled together, and the epoch's steps [start, stop) that they give."""

    epoch: int
    number: int
    parts: tuple[str, ...]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """What decides the order of samples.

    Attributes:
        parts: sequence file -> its number of training samples in an epoch, see `budget.part_samples`.
        events: sequence file -> its number of events.
        batch_size: global batch.
        seed: the run's seed.
        shuffle_events: events of a chunk at most, unless one file has more.
        shape: what the batches hold.
        samples_per_user: samples of a user in an epoch at most, drawn anew in each; 0: all.
        newest_at: UTC seconds of the newest training event, for the example age.
    """

    parts: Mapping[str, int]
    events: Mapping[str, int]
    batch_size: int
    seed: int
    shuffle_events: int
    shape: SampleShape
    samples_per_user: int = 0
    newest_at: int = 0

    def chunks(self, epoch: int) -> list[Chunk]:
        """Return the chunks of an epoch in order."""
        names = sorted(self.parts)
        order = generator(self.seed, "files", epoch).permutation(len(names))
        groups: list[list[str]] = []
        held = 0
        for name in (names[i] for i in order):
            if not groups or held + self.events[name] > self.shuffle_events:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += self.events[name]
        chunks: list[Chunk] = []
        start = 0
        for number, group in enumerate(groups):
            stop = start + sum(self.parts[name] for name in group) // self.batch_size
            chunks.append(Chunk(epoch, number, tuple(group), start, stop))
            start = stop
        return chunks

    def steps(self, epoch: int) -> int:
        """Return the number of steps of an epoch.

        Raises:
            DataError: not even one batch can be filled.
        """
        steps = self.chunks(epoch)[-1].stop
        if steps == 0:
            raise DataError(
                f"{sum(self.parts.values())} training samples do not fill one batch of {self.batch_size}; "
                "lower training.batch_size"
            )
        return steps


def read_samples(plan: EpochPlan, parts: Sequence[str], features: Folder, epoch: int) -> Samples:
    """Return every training sample of some sequence files, in the order given.

    Raises:
        DataError: the features lack a column that the shape needs.
    """
    shape = plan.shape
    names = [f"sequences/{part}" for part in parts]
    user_idx = shape.user_idx or shape.kind == "ratings"
    sequences = load_sequences(features, names, shape.columns, shape.profile_features, user_idx)
    match shape.kind:
        case "next_item":
            items = load_item_columns(features, shape.item_columns)
            return training_samples(sequences, shape, items, plan.newest_at)
        case "sequence":
            return sequence_samples(sequences, shape, derive_seed(plan.seed, "windows", epoch))
        case "pairs":
            return pair_samples(sequences, shape)
        case "ratings":
            return rating_samples(sequences, shape)


def drawn_rows(plan: EpochPlan, samples: Samples, epoch: int) -> np.ndarray:
    """Return the ascending rows that an epoch has of some samples under the budget of each user."""
    if not plan.samples_per_user:
        return np.arange(len(samples))
    seed = derive_seed(plan.seed, "samples_per_user", epoch)
    hashes = hash_text(samples.sequences.user_id)
    return draw(samples.owner, samples.place, hashes, plan.samples_per_user, seed)


def chunk_batches(
    plan: EpochPlan, chunk: Chunk, features: Folder, first_step: int, rank: int, world: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for the steps of a chunk from `first_step` on.

    Raises:
        DataError: the files hold another number of samples than the manifest says, or lack a column.
    """
    samples = read_samples(plan, chunk.parts, features, chunk.epoch)
    rows = drawn_rows(plan, samples, chunk.epoch)
    expected = sum(plan.parts[name] for name in chunk.parts)
    if len(rows) != expected:
        raise DataError(
            f"{features.uri}: {len(rows)} training samples in {len(chunk.parts)} sequence files, "
            f"the manifest says {expected}; run jobs/prepare.py again"
        )
    order = generator(plan.seed, "samples", chunk.epoch, chunk.number).permutation(rows)
    share = plan.batch_size // world
    for step in range(max(chunk.start, first_step), chunk.stop):
        begin = (step - chunk.start) * plan.batch_size + rank * share
        yield step, samples.batch(order[begin : begin + share])


def epoch_batches(
    plan: EpochPlan, epoch: int, features: Folder, first_step: int, rank: int, world: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for an epoch from `first_step` on; steps before it cost nothing."""
    for chunk in plan.chunks(epoch):
        if chunk.stop > max(first_step, chunk.start):
            yield from chunk_batches(plan, chunk, features, first_step, rank, world)


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield the items in order, the next `depth` of them made by a thread while the caller is at work.

    An error of the items is raised at the place of the item; when the caller stops early, what is under way
    is finished and dropped.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield cast("T", item)
