"""What to set for the machines at hand: workers, batch size, shards and replicas, each with its reason."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raysys.planning.machine import GB, Machine
from raysys.planning.sizes import Sizes
from raysys.planning.stages import serving
from raysys.run import RunConfig

if TYPE_CHECKING:
    from raysys.planning.plan import Inputs

SMALL_VECTORS = 64_000_000
"""Bytes of item vectors that one process searches as fast as several would."""
SHARD_SHARE = 0.25
"""Share of a node's memory that a shard may take while it is loaded."""
LEAST_ROWS = 32
"""Samples of a step that a worker has at least in a batch that is suggested."""
MUCH_FASTER = 1.1
"""More workers are worth it from this factor on."""


@dataclass(frozen=True)
class Suggestion:
    """A value for a key of the run file, and why."""

    key: str
    value: int
    now: int
    reason: str


def suggest_training(inputs: "Inputs") -> tuple[Suggestion, ...]:
    """Return `cluster.workers` and `training.batch_size`."""
    batch = _batch_size(inputs)
    workers = _workers(inputs, batch.value)
    return workers, batch


def _batch_size(inputs: "Inputs") -> Suggestion:
    training, samples = inputs.run.training, inputs.sizes.samples
    now, key = training.batch_size, "training.batch_size"
    if samples < now:
        most = 2 ** (max(samples, 1).bit_length() - 1)
        return Suggestion(key, most, now, f"an epoch has {samples:,} samples, which fill no batch of {now:,}")
    worker, usable = inputs.worker(inputs.workers), _room(inputs)
    value = now
    while value % 2 == 0 and value // 2 >= LEAST_ROWS * inputs.workers and worker.step * value / now > usable:
        value //= 2
    if usable >= worker.step * value / now and value < now:
        reason = f"a step of {now:,} samples takes {worker.step / GB:.2f} GB beside the model"
        return Suggestion(key, value, now, reason)
    told = "it fits" if worker.step <= usable else "a smaller one alone would not make it fit"
    return Suggestion(key, now, now, f"as in the run file, because it decides the result; {told}")


def _room(inputs: "Inputs") -> int:
    """Return the bytes that a step of a worker may take beside the model and the data."""
    worker, machine = inputs.worker(inputs.workers), inputs.machine
    if worker.on_gpu and machine.gpu_memory:
        return machine.gpu_memory - worker.model
    on_node = -(-inputs.workers // machine.nodes)
    room = machine.usable // on_node - worker.start - worker.data
    return room if worker.on_gpu else room - worker.model


def _workers(inputs: "Inputs", batch: int) -> Suggestion:
    run, machine, key = inputs.run, inputs.machine, "cluster.workers"
    now = run.cluster.workers
    if run.cluster.use_gpu:
        most = max(1, machine.nodes * machine.gpus)
        value = next(number for number in range(most, 0, -1) if batch % number == 0)
        return Suggestion(key, value, now, f"one for each of {most} GPUs, and the batch size is a multiple")
    numbers = {1, inputs.workers, machine.cpus, machine.nodes, machine.nodes * machine.cpus}
    tried = {number for number in numbers if batch % number == 0 and number <= machine.nodes * machine.cpus}
    fits = sorted(number for number in tried if inputs.training_node(number) <= machine.usable)
    if not fits:
        return Suggestion(key, 1, now, "the fewest, because memory is short")
    speeds = {number: time.samples_per_s for number in fits if (time := inputs.time(number))}
    if not speeds:
        return Suggestion(
            key, fits[-1], now, "one for each CPU, as far as memory allows; no speed was measured"
        )
    best = fits[0]
    for number in fits[1:]:
        if speeds[number] > MUCH_FASTER * speeds[best]:
            best = number
    told = ", ".join(f"{number}: {speed:,.0f}" for number, speed in speeds.items())
    return Suggestion(key, best, now, f"samples/s expected by workers: {told}")


def suggest_index(run: RunConfig, sizes: Sizes, machine: Machine) -> tuple[Suggestion, ...]:
    """Return `index.shards` and `index.replicas`."""
    items, dim = sizes.items, run.model.embedding_dim
    shards, reason = 1, "the vectors are few, one process searches them as fast as several"
    if 4 * items * dim > SMALL_VECTORS:
        shards = max(1, machine.nodes * machine.cpus // 2)
        reason = "one for each CPU that searches; the other half measures"
    limit = SHARD_SHARE * machine.usable
    while shards < items and serving(run, items, shards, 1).shard.loading > limit:
        shards, reason = 2 * shards, f"a larger one takes more than {limit / GB:.1f} GB while it is loaded"
    shards = min(shards, items)
    found = serving(run, items, shards, 1)
    room = machine.nodes > 1 and 2 * found.searching(machine) < machine.usable
    replicas = 2 if room else 1
    why = (
        "a second copy of each shard answers when a node is lost"
        if room
        else "one node, or memory for one copy"
    )
    return (
        Suggestion("index.shards", shards, run.index.shards, reason),
        Suggestion("index.replicas", replicas, run.index.replicas, why),
    )
