"""Memory of a training worker and time of a training, from sizes and from what a probe measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from raysys.nn.loss_inputs import AMONG_TARGETS, WITH_NEGATIVES
from raysys.planning.parameters import ModelSize
from raysys.planning.sizes import Sizes
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED

FLOAT, IDX = 4, 8
RAY_IMPORTS = 150_000_000
"""Bytes that Ray Train adds to a process that has torch (measured: 374 MB against 224 MB)."""
START = 290_000_000
"""Bytes of a worker that has read nothing; where no probe has measured them."""
DATA_BYTES, DATA_PEAK_BYTES = 90.0, 180.0
"""Per event of a chunk, held and at most; where no probe has measured them."""
SCORE_COPIES = 3
"""How often the scores of a step are there at once: scores, their exponentials, their gradient."""
SLOT_COPIES = 12
"""Vectors of a history's slot that a step holds; where no probe has measured it."""
VECTOR_COPIES = 2
"""Item vectors of a validation: as they come and joined."""
SAVE_BYTES_PER_S = 300e6
"""Of a checkpoint, to a disk; an assumption."""
LINK_BYTES_PER_S = 1.0e9
"""Of gradients between nodes, 10 Gbit/s; an assumption."""


@dataclass(frozen=True)
class Probed:
    """What a probe measured.

    Attributes:
        samples_per_s: of all processes together, between the start and the end of an epoch; of a counting
            model, training events.
        step_s: seconds of a step.
        load_s: seconds to read an event of a chunk.
        start_bytes: of a process that has read nothing yet.
        data_bytes, data_peak_bytes: per event of a chunk, held while training and at most while reading; of a
            counting model `data_bytes` is cells of the matrix per event.
        step_bytes: peak of a step beyond model, optimiser and data.
        valid_s, valid_user_s: seconds of a validation, and of each of its users.
        products: of a counting model: products of cells per training event.
        products_per_s: of a counting model.
    """

    samples_per_s: float
    step_s: float = 0.0
    load_s: float = 0.0
    start_bytes: int = 0
    data_bytes: float = 0.0
    data_peak_bytes: float = 0.0
    step_bytes: int = 0
    valid_s: float = 0.0
    valid_user_s: float = 0.0
    products: float = 0.0
    products_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WorkerMemory:
    """Bytes of one training worker.

    Attributes:
        start: interpreter, torch and Ray.
        buffers: what of the model is not trained, and the tables that negatives are drawn from.
        parameters, gradients, optimizer: of the model.
        data, data_peak: of a chunk, held while training and at most while it is read.
        step: peak of a step beyond all these.
        validation: item vectors of a validation.
        checkpoint: the copy that is written.
        on_gpu: whether model and step lie on a GPU; data never do.
        is_measured: whether a probe measured start, data and step.
    """

    start: int
    buffers: int
    parameters: int
    gradients: int
    optimizer: int
    data: int
    data_peak: int
    step: int
    validation: int
    checkpoint: int
    on_gpu: bool = False
    is_measured: bool = True

    @property
    def model(self) -> int:
        """Bytes of the model with its gradients and the state of its optimiser."""
        return self.buffers + self.parameters + self.gradients + self.optimizer

    @property
    def host(self) -> int:
        """Peak of the node's memory."""
        if self.on_gpu:
            return self.start + max(self.data + self.validation + self.checkpoint, self.data_peak)
        held = max(self.data + max(self.step, self.validation, self.checkpoint), self.data_peak)
        return self.start + self.model + held

    @property
    def gpu(self) -> int:
        """Peak of the GPU's memory; 0 without one."""
        return self.model + self.step if self.on_gpu else 0


def score_bytes(run: RunConfig, items: int, workers: int) -> int:
    """Return the bytes of the largest tensor of a loss: the scores of a worker's rows for all candidates."""
    training = run.training
    candidates = items if training.loss == "full_softmax" else 0
    if training.loss in WITH_NEGATIVES:
        candidates += run.model.num_negatives
    if training.loss in AMONG_TARGETS:
        candidates += training.batch_size
    # a user with several vectors that the loss compares has scores for each
    vectors = run.model.num_interests if getattr(run.model, "train_score", "") == "served" else 1
    return FLOAT * (training.batch_size // workers) * vectors * candidates


def worker_memory(
    run: RunConfig,
    model: ModelSize,
    sizes: Sizes,
    chunk_events: int,
    workers: int,
    probed: Mapping[int, Probed],
) -> WorkerMemory:
    """Return the memory of each of so many workers.

    Args:
        run: with a model that learns by gradient.
        model: its size.
        sizes: of its data.
        chunk_events: events that a worker reads at once, at most.
        workers: that share a batch; at least 1.
        probed: number of workers -> what a probe of so many measured; may be empty.
    """
    rows = sizes.items + NUM_RESERVED
    training, dim = run.training, run.model.embedding_dim
    drawn = FLOAT * 2 * rows if training.loss in WITH_NEGATIVES and training.sampler == "popularity" else 0
    drawn += IDX * rows if training.loss in AMONG_TARGETS else 0
    found = probed.get(workers) or next(iter(probed.values()), None)
    start, data, data_peak = START, DATA_BYTES, DATA_PEAK_BYTES
    if found:
        start, data = found.start_bytes, found.data_bytes
        data_peak = max(data, found.data_peak_bytes)
        step = found.step_bytes
        if workers not in probed:  # temporaries of a table do not shrink with a worker's share of the batch
            fixed = min(step, model.parameter_bytes)
            step = fixed + (step - fixed) // workers
    else:
        slots = training.batch_size // workers * run.model.history_length
        step = SCORE_COPIES * score_bytes(run, sizes.items, workers) + SLOT_COPIES * FLOAT * slots * dim
        step += model.parameter_bytes
    return WorkerMemory(
        start=start + RAY_IMPORTS,
        buffers=model.buffer_bytes + drawn,
        parameters=model.parameter_bytes,
        gradients=model.parameter_bytes,
        optimizer=model.optimizer_bytes,
        data=int(data * chunk_events),
        data_peak=int(data_peak * chunk_events),
        step=step,
        validation=VECTOR_COPIES * FLOAT * rows * dim + 2 * IDX * rows,
        checkpoint=model.optimizer_bytes,
        on_gpu=run.cluster.use_gpu,
        is_measured=found is not None,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingTime:
    """How long a training takes.

    Attributes:
        workers: that share a batch.
        samples_per_s: over an epoch, reading and checkpoints with it.
        steps: of an epoch.
        epoch_s: without validation.
        validation_s: of an epoch.
        total_s: of all epochs of the run file; patience may end it earlier.
        is_measured: whether a probe of so many workers ran.
    """

    workers: int
    samples_per_s: float
    steps: int
    epoch_s: float
    validation_s: float
    total_s: float
    is_measured: bool


def training_time(
    run: RunConfig,
    model: ModelSize,
    sizes: Sizes,
    workers: int,
    nodes: int,
    probed: Mapping[int, Probed],
) -> TrainingTime | None:
    """Return the time of a training on so many workers, None where no probe ran.

    Of a number of workers that no probe has tried: the step of the nearest smaller one that was tried, shared
    out, and the way of the gradients between nodes.
    """
    if not probed:
        return None
    tried = max((number for number in probed if number <= workers), default=min(probed))
    found, batch = probed[tried], run.training.batch_size
    step_s = found.step_s * tried / workers
    if nodes > 1:
        step_s += 2 * model.parameter_bytes / LINK_BYTES_PER_S
    steps = max(1, sizes.samples // batch)
    saved = model.parameter_bytes + model.optimizer_bytes
    saves = steps // run.training.checkpoint_every_steps + 1
    epoch_s = sizes.events * found.load_s + steps * step_s + saves * saved / SAVE_BYTES_PER_S
    alone = probed[min(probed)]
    users = min(sizes.queries, run.training.valid_users)
    validation_s = alone.valid_s + users * alone.valid_user_s / workers
    return TrainingTime(
        workers=workers,
        samples_per_s=steps * batch / epoch_s,
        steps=steps,
        epoch_s=epoch_s,
        validation_s=validation_s,
        total_s=run.training.epochs * (epoch_s + validation_s),
        is_measured=workers in probed and nodes == 1,
    )


def of_catalogue(probed: Probed, tried_items: int, items: int) -> Probed:
    """Return what was measured on a smaller catalogue as it would be on the run's own: a validation encodes
    and searches all items. Steps stay as they are, which is too fast where the loss takes all items."""
    factor = max(1.0, items / max(tried_items, 1))
    return replace(probed, valid_s=probed.valid_s * factor, valid_user_s=probed.valid_user_s * factor)
