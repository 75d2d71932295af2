"""The plan of a run: what each stage takes of each node, whether that is there, and what to set."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raysys.errors import ConfigError
from raysys.planning import stages
from raysys.planning.advice import Suggestion, suggest_index, suggest_training
from raysys.planning.machine import Machine
from raysys.planning.parameters import ModelSize
from raysys.planning.remedies import problems_of
from raysys.planning.sizes import Sizes
from raysys.planning.stages import Serving
from raysys.planning.training import (
    Probed,
    TrainingTime,
    WorkerMemory,
    score_bytes,
    training_time,
    worker_memory,
)
from raysys.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a plan is made of.

    Attributes:
        run: to be planned.
        machine: that it is planned for.
        sizes: of its data.
        model: its size.
        chunk_events: events that a worker reads at once, at most.
        probed: number of workers -> what a probe measured; may be empty.
        free_disk: bytes where the output goes; 0: not known.
        notes: what a reader should know of how the plan was made.
    """

    run: RunConfig
    machine: Machine
    sizes: Sizes
    model: ModelSize
    chunk_events: int
    probed: Mapping[int, Probed] = field(default_factory=dict[int, Probed])
    free_disk: int = 0
    notes: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Workers of the run file; training in the calling process counts as one."""
        return max(1, self.run.cluster.workers)

    def worker(self, workers: int) -> WorkerMemory:
        """Return the memory of each of so many workers."""
        return worker_memory(self.run, self.model, self.sizes, self.chunk_events, workers, self.probed)

    def training_node(self, workers: int) -> int:
        """Return the bytes of a node that its share of so many workers takes."""
        on_node = -(-workers // self.machine.nodes)
        return stages.RAY_NODE + stages.TRAIN_PROCESSES + on_node * self.worker(workers).host

    def time(self, workers: int) -> TrainingTime | None:
        """Return how long a training on so many workers takes; None where no probe ran."""
        nodes = min(self.machine.nodes, workers)
        return training_time(self.run, self.model, self.sizes, workers, nodes, self.probed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes.

    Attributes:
        inputs: what the plan is made of.
        worker, serving, counted: of a model that has workers, vectors, or a matrix; None for others.
        scores: bytes of the loss's largest tensor.
        node_bytes: stage -> peak bytes of a node, with the settings of the run file.
        checkpoint, checkpoint_peak: bytes on disk, finished and at most while training.
        times: of the run's own workers, of one, and of those that are suggested.
        suggestions: what to set, and why.
        problems: why the run cannot be done; empty where it can.
        warnings: what may go wrong.
    """

    inputs: Inputs
    worker: WorkerMemory | None
    serving: Serving | None
    counted: dict[str, int] | None
    scores: int
    node_bytes: dict[str, int]
    checkpoint: int
    checkpoint_peak: int
    times: tuple[TrainingTime, ...]
    suggestions: tuple[Suggestion, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def disk(self) -> dict[str, int]:
        """Output folder -> bytes on disk at most."""
        found = {"features": self.inputs.sizes.feature_bytes, "checkpoint": self.checkpoint_peak}
        if self.serving:
            found |= {"vectors": self.serving.vectors, "index": self.serving.file}
        if self.counted:
            found["table"] = 2 * self.counted["table"]
        return found

    def check(self) -> None:
        """Raise ConfigError where the run cannot be done."""
        if self.problems:
            raise ConfigError(f"the run does not fit: {'; '.join(self.problems)}")

    def to_table(self) -> dict[str, Any]:
        """Return everything as plain values, for plan.json."""
        inputs = self.inputs
        parameters = [asdict(p) | {"bytes": p.bytes} for p in inputs.model.parameters]
        worker = asdict(self.worker) | {"host": self.worker.host} if self.worker else None
        index = asdict(self.serving) | {"file": self.serving.file} if self.serving else None
        return {
            "model": inputs.run.model_name,
            "run_digest": inputs.run.run_digest,
            "machine": asdict(inputs.machine),
            "sizes": asdict(inputs.sizes),
            "parameters": parameters,
            "worker": worker,
            "index": index,
            "counting": self.counted,
            "score_bytes": self.scores,
            "node_bytes": self.node_bytes,
            "disk_bytes": self.disk,
            "probed": {str(workers): asdict(found) for workers, found in inputs.probed.items()},
            "times": [asdict(time) for time in self.times],
            "suggestions": [asdict(suggestion) for suggestion in self.suggestions],
            "fits": not self.problems,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "notes": list(inputs.notes),
        }


def make_plan(inputs: Inputs) -> Plan:
    """Return the plan.

    Raises:
        ConfigError: an index kind that the vectors do not suit.
    """
    run, machine, sizes = inputs.run, inputs.machine, inputs.sizes
    store = run.cluster.object_store_mb * 2**20
    nodes = {"prepare": stages.preparing(sizes, machine, store)}
    if run.learns_by == "rows":
        counted = stages.counting(sizes, machine, inputs.probed.get(1), run.model.num_neighbours)
        nodes |= {
            "train": counted["node"],
            "evaluate": stages.evaluating(run, sizes, inputs.model, machine, None),
        }
        plan = Plan(
            inputs=inputs, worker=None, serving=None, counted=counted, scores=0, node_bytes=nodes,
            checkpoint=counted["table"], checkpoint_peak=2 * counted["table"], times=(), suggestions=(),
            problems=(), warnings=(),
        )  # fmt: skip
        return _judged(plan)
    found = stages.serving(run, sizes.items, min(run.index.shards, sizes.items), run.index.replicas)
    nodes |= {
        "train": inputs.training_node(inputs.workers),
        "index": found.building(machine),
        "evaluate": stages.evaluating(run, sizes, inputs.model, machine, found),
    }
    checkpoint, peak = stages.training_disk(run, inputs.model)
    suggestions = (*suggest_training(inputs), *suggest_index(run, sizes, machine))
    wanted = {1, inputs.workers, *(int(s.value) for s in suggestions if s.key == "cluster.workers")}
    times = (inputs.time(workers) for workers in sorted(wanted))
    plan = Plan(
        inputs=inputs, worker=inputs.worker(inputs.workers), serving=found, counted=None,
        scores=score_bytes(run, sizes.items, inputs.workers), node_bytes=nodes, checkpoint=checkpoint,
        checkpoint_peak=peak, times=tuple(time for time in times if time), suggestions=suggestions,
        problems=(), warnings=(),
    )  # fmt: skip
    return _judged(plan)


def _judged(plan: Plan) -> Plan:
    problems, warnings = problems_of(plan.inputs, plan.node_bytes, plan.disk)
    return replace(plan, problems=problems, warnings=warnings)
