"""Training batches cut by Ray Data tasks, so that nodes with CPUs feed workers with GPUs.

The batches are those of `raysys.data.epochs.epoch_batches`, in the same order: one task per chunk, in order,
each
yielding the rank's share of its global batches. One pass of Ray Data carries a whole epoch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raysys.data.epochs import Chunk, EpochPlan, chunk_batches
from raysys.storage import Folder


def ray_data_batches(
    plan: EpochPlan, epoch: int, features: Folder, first_step: int, rank: int, world: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, batch) of one rank for an epoch from `first_step` on."""
    chunks = [chunk for chunk in plan.chunks(epoch) if chunk.stop > max(first_step, chunk.start)]
    if not chunks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
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
    share = plan.batch_size // world
    for block in dataset.iter_batches(batch_size=share, batch_format="pyarrow", prefetch_batches=2):
        batch = {name: _dense(block.column(name)) for name in block.schema.names if name != "step"}
        longest = max(int((batch["history"] != 0).sum(axis=1).max()), 1)
        batch["history"] = np.ascontiguousarray(batch["history"][:, -longest:])
        yield block.column("step")[0].as_py(), batch


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
            history = batch["history"]
            padded = np.zeros((len(history), plan.history_length), dtype=np.int64)
            padded[:, plan.history_length - history.shape[1] :] = history
            arrays = {**batch, "history": padded, "step": np.full(len(history), step, dtype=np.int64)}
            yield pa.table({name: _column(values) for name, values in arrays.items()})


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _dense(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    array = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size).copy()
    return array.to_numpy(zero_copy_only=False).copy()
