"""Training batches cut by Ray Data tasks, so that nodes with CPUs feed workers with GPUs.

The batches are those of `raysys.data.epochs.epoch_batches`, in the same order: one task per chunk, in order,
each yielding the rank's share of its global batches, one row per batch with every array in NumPy's own
format, so that shapes and types arrive as they were cut. One pass of Ray Data carries a whole epoch.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raysys.data.epochs import Chunk, EpochPlan, chunk_batches
from raysys.storage import Folder

STEP = "step"


def ray_data_batches(
    plan: EpochPlan,
    epoch: int,
    features: Folder,
    first_step: int,
    rank: int,
    world: int,
    labels: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for an epoch from `first_step` on, cut on nodes with the labels."""
    chunks = [chunk for chunk in plan.chunks(epoch) if chunk.stop > max(first_step, chunk.start)]
    if not chunks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = dict(labels or {}) or None
    numbers: Any = ray.data.from_items(list(range(len(chunks))), override_num_blocks=len(chunks))
    dataset = numbers.map_batches(
        _cut,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={
            "plan": plan,
            "chunks": chunks,
            "features": features,
            "first_step": first_step,
            "rank": rank,
            "world": world,
        },
    )
    for row in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        arrays = {name: row.column(name)[0] for name in row.schema.names if name != STEP}
        yield row.column(STEP)[0].as_py(), {name: _array(value) for name, value in arrays.items()}


def _cut(
    block: pa.Table,
    plan: EpochPlan,
    chunks: list[Chunk],
    features: Folder,
    first_step: int,
    rank: int,
    world: int,
) -> Iterator[pa.Table]:
    for number in block.column("item").to_pylist():
        for step, batch in chunk_batches(plan, chunks[number], features, first_step, rank, world):
            columns = {name: pa.array([_bytes(values)], pa.large_binary()) for name, values in batch.items()}
            yield pa.table({STEP: pa.array([step], pa.int64()), **columns})


def _bytes(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _array(value: pa.Scalar) -> np.ndarray:
    return np.load(io.BytesIO(value.as_buffer()), allow_pickle=False)
