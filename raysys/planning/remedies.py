"""Why a run does not fit the machines, with figures, and what would make it fit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysys.planning import stages
from raysys.planning.machine import GB

if TYPE_CHECKING:
    from raysys.planning.plan import Inputs

LEAST_DIM = 8


def problems_of(
    inputs: "Inputs", node_bytes: Mapping[str, int], disk: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why the run cannot be done, and what may go wrong.

    Args:
        inputs: of the plan.
        node_bytes: stage -> peak bytes of a node.
        disk: output folder -> bytes.
    """
    machine, run = inputs.machine, inputs.run
    problems: list[str] = []
    warnings: list[str] = []
    for stage, need in node_bytes.items():
        found = (
            f"{stage} needs {need / GB:.1f} GB of memory of a node, {machine.usable / GB:.1f} GB are usable"
        )
        if need > machine.usable:
            problems.append(f"{found}: {_remedy(inputs, stage)}")
        elif machine.free_memory and need > machine.free_memory:
            free = machine.free_memory / GB
            warnings.append(f"{stage} needs {need / GB:.1f} GB of memory, {free:.1f} GB are free now")
    if run.learns_by == "gradient":
        gpu, short = inputs.worker(inputs.workers).gpu, machine.gpu_memory
        if gpu and short and gpu > short:
            remedy = _remedy(inputs, "train")
            problems.append(
                f"a worker needs {gpu / GB:.1f} GB of a GPU that has {short / GB:.1f} GB: {remedy}"
            )
        if run.cluster.use_gpu and machine.nodes * machine.gpus < inputs.workers:
            there = machine.nodes * machine.gpus
            problems.append(
                f"cluster.use_gpu wants {inputs.workers} GPUs, there are {there}: lower cluster.workers"
            )
        elif inputs.workers > machine.nodes * machine.cpus:
            there = machine.nodes * machine.cpus
            warnings.append(
                f"cluster.workers = {inputs.workers} share {there} CPUs, which is slower than {there}"
            )
        if inputs.sizes.samples < run.training.batch_size:
            samples, batch = inputs.sizes.samples, run.training.batch_size
            problems.append(
                f"{samples} training samples do not fill one batch of {batch}: lower training.batch_size"
            )
    total = sum(disk.values())
    if inputs.free_disk and total > inputs.free_disk:
        problems.append(
            f"the output takes {total / GB:.1f} GB of disk, {inputs.free_disk / GB:.1f} GB are free: "
            "set --out to a larger disk"
        )
    return tuple(problems), tuple(warnings)


def _remedy(inputs: "Inputs", stage: str) -> str:
    """Return what would make a stage fit."""
    run, machine = inputs.run, inputs.machine
    if stage == "prepare":
        return "use nodes with more memory, or lower cluster.object_store_mb"
    if run.learns_by == "rows":
        return "use a node with more memory, or raise data.min_item_events and data.min_user_events"
    model = inputs.model.parameter_bytes
    if stage == "evaluate" and model > stages.serving(run, inputs.sizes.items, 1, 1).shard.loading:
        return f"set a smaller model.embedding_dim (a task that measures holds it, {model / GB:.1f} GB)"
    if stage in ("index", "evaluate"):
        shards = -(-run.index.shards * 2 // machine.nodes) * machine.nodes
        dim = run.model.embedding_dim
        codes = f'index.kind = "IVF1024,PQ{dim // 4}"' if dim % 4 == 0 else "an index.kind with PQ or SQ8"
        return f"set {codes}, or index.shards = {shards} over more nodes, or a smaller model.embedding_dim"
    return _training_remedy(inputs)


def _training_remedy(inputs: "Inputs") -> str:
    worker, machine = inputs.worker(inputs.workers), inputs.machine
    run, on_node = inputs.run, -(-inputs.workers // inputs.machine.nodes)
    room = (machine.usable - stages.RAY_NODE - stages.TRAIN_PROCESSES) // on_node - worker.start
    remedies: list[str] = []
    parts = {"model": worker.model + worker.checkpoint, "data": worker.data_peak, "step": worker.step}
    largest = max(parts, key=lambda name: parts[name])
    rest = room - sum(size for name, size in parts.items() if name != largest)
    share = max(rest, 0) / max(parts[largest], 1)
    if largest == "model":
        # steps, validation and checkpoints of a large table grow with it
        share = max(room - worker.data, 0) / (worker.host - worker.start - worker.data)
        dim = int(run.model.embedding_dim * share) // LEAST_DIM * LEAST_DIM
        wanted = f"model.embedding_dim = {dim}" if dim >= LEAST_DIM else "a higher data.min_item_events"
        remedies.append(f"set {wanted} (the model takes {worker.model / GB:.1f} GB of a worker)")
    elif largest == "data":
        events = int(inputs.chunk_events * share)
        remedies.append(
            f"set training.shuffle_events = {max(events, 1)} (a chunk takes {worker.data_peak / GB:.1f} GB)"
        )
    else:
        loss = "a loss with drawn negatives or " if run.training.loss == "full_softmax" else ""
        remedies.append(
            f"set {loss}a smaller training.batch_size (a step takes {worker.step / GB:.1f} GB of a worker)"
        )
    if on_node > 1:
        remedies.append(f"fewer than {on_node} workers on a node")
    return ", or ".join([*remedies, "use nodes with more memory"])
