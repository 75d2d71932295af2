"""Epochs: the order of training samples as a function of (seed, epoch), the same for any number of workers.

An epoch is a seeded permutation of the sequence files, cut into chunks that fit in memory; the samples of a
chunk are
permuted and cut into global batches; what is left over at the end of a chunk is dropped, another remainder in
every
epoch. A rank takes its own slice of each global batch. A position (epoch, step) is therefore all that
resuming needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysys.data.samples import TrainingSamples, load_sequences, training_samples
from raysys.errors import DataError
from raysys.seeds import generator
from raysys.storage import Folder


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
        parts: sequence file -> its number of training samples.
        events: sequence file -> its number of events.
        batch_size: global batch.
        seed: the run's seed.
        shuffle_events: events of a chunk at most, unless one file has more.
        history_length: longest history of a batch.
    """

    parts: Mapping[str, int]
    events: Mapping[str, int]
    batch_size: int
    seed: int
    shuffle_events: int
    history_length: int

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


def read_samples(features: Folder, parts: Sequence[str]) -> TrainingSamples:
    """Return the training samples of some sequence files, in the order given."""
    return training_samples(load_sequences(features, [f"sequences/{part}" for part in parts]))


def chunk_batches(
    plan: EpochPlan, chunk: Chunk, features: Folder, first_step: int, rank: int, world: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for the steps of a chunk from `first_step` on.

    Raises:
        DataError: the files hold another number of samples than the manifest says.
    """
    samples = read_samples(features, chunk.parts)
    expected = sum(plan.parts[name] for name in chunk.parts)
    if len(samples) != expected:
        raise DataError(
            f"{features.uri}: {len(samples)} training samples in {len(chunk.parts)} sequence files, "
            f"the manifest says {expected}; run jobs/prepare.py again"
        )
    order = generator(plan.seed, "samples", chunk.epoch, chunk.number).permutation(len(samples))
    share = plan.batch_size // world
    for step in range(max(chunk.start, first_step), chunk.stop):
        begin = (step - chunk.start) * plan.batch_size + rank * share
        yield step, samples.batch(order[begin : begin + share], plan.history_length)


def epoch_batches(
    plan: EpochPlan, epoch: int, features: Folder, first_step: int, rank: int, world: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for an epoch from `first_step` on; steps before it cost nothing."""
    for chunk in plan.chunks(epoch):
        if chunk.stop > max(first_step, chunk.start):
            yield from chunk_batches(plan, chunk, features, first_step, rank, world)
