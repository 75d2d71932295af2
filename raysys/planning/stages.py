"""Memory and disk of the stages around training: data, vectors, index, evaluation, counting."""

from dataclasses import dataclass

from raysys.planning.machine import Machine
from raysys.planning.parameters import ModelSize
from raysys.planning.sizes import Sizes
from raysys.planning.training import FLOAT, IDX, Probed
from raysys.retrieval.index_size import IndexSize, index_size
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED

RAY_NODE = 560_000_000
"""Bytes of Ray's own processes on a node, and of the job."""
TRAIN_PROCESSES = 600_000_000
"""Bytes of what Ray Train runs beside the workers: its controller, the relay of log lines, idle processes."""
TASK_PROCESS = 130_000_000
"""Bytes of a process that runs tasks, before it has read anything; pages that several share are counted
once. This and the next three were measured on logs of 1, 3, 10 and 30 million rows."""
PARTITION_EVENT = 600
"""Bytes per event of a partition while it is sorted, drafted and written."""
SHARD_ROW = 40
"""Bytes per row of the log in the object store, from its reading to its partition."""
DRIVER_ROW = 25
"""Bytes per row of the log elsewhere: what partitions tell of themselves, and ids."""
SEARCH_PROCESS = 400_000_000
"""Bytes of a process that searches a shard or measures users, beside index and model."""
CELL, CELL_PEAK = 40, 160
"""Bytes per cell of a counting model's matrix, both ways, and while it is put in order."""
KEPT_CHECKPOINTS = 3
"""Full checkpoints on disk while training, and best weights: two, and the one that is being written."""


def preparing(sizes: Sizes, machine: Machine, object_store: int) -> int:
    """Return the peak bytes of a node while the log is prepared.

    Args:
        sizes: of the run's data.
        machine: the nodes.
        object_store: bytes of Ray's object store on a node; what does not fit goes to disk.
    """
    rows = sizes.rows // machine.nodes
    shuffled = min(SHARD_ROW * rows, object_store) + DRIVER_ROW * rows
    at_once = min(2 * machine.cpus, max(1, sizes.parts))
    tasks = at_once * TASK_PROCESS + min(machine.cpus, sizes.parts) * PARTITION_EVENT * sizes.largest_part
    return RAY_NODE + shuffled + tasks


@dataclass(frozen=True)
class Serving:
    """Item vectors and the search index.

    Attributes:
        vectors: bytes of all item vectors.
        shard: of the largest shard.
        shards, replicas: how many there are.
    """

    vectors: int
    shard: IndexSize
    shards: int
    replicas: int

    @property
    def file(self) -> int:
        """Bytes of the index on disk: copies share files."""
        return self.shard.file * self.shards

    @property
    def processes(self) -> int:
        return self.shards * self.replicas

    def searching(self, machine: Machine) -> int:
        """Return the peak bytes of a node while shards are loaded and searched."""
        on_node = -(-self.processes // machine.nodes)
        return RAY_NODE + on_node * (SEARCH_PROCESS + self.shard.loading)

    def building(self, machine: Machine) -> int:
        """Return the peak bytes of a node while shards are built: a task per CPU at once."""
        at_once = min(machine.cpus, -(-self.shards // machine.nodes))
        return RAY_NODE + at_once * (SEARCH_PROCESS + self.shard.building)


def serving(run: RunConfig, items: int, shards: int, replicas: int) -> Serving:
    """Return the sizes of vectors and index of a model that answers with vectors.

    Raises:
        ConfigError: an index kind that the vectors do not suit.
    """
    dim = run.model.embedding_dim
    metric = "inner_product" if run.index.metric == "model" else run.index.metric
    shard = index_size(run.index, metric, dim, -(-items // shards))
    return Serving((FLOAT * dim + FLOAT) * items, shard, shards, replicas)


def evaluating(
    run: RunConfig, sizes: Sizes, model: ModelSize, machine: Machine, found: Serving | None
) -> int:
    """Return the peak bytes of a node while users are measured."""
    depth = run.evaluation.search_depth
    tasks = 2 * machine.cpus if found else machine.cpus
    users = -(-sizes.queries // max(sizes.parts, 1))
    lists = 3 * (IDX + FLOAT) * depth * users
    table = 0 if found else (IDX + FLOAT) * sizes.items * getattr(run.model, "num_neighbours", 0)
    each = SEARCH_PROCESS + model.parameter_bytes + model.buffer_bytes + lists + table
    held = found.searching(machine) if found else RAY_NODE
    return held + min(tasks, sizes.parts) * each


def counting(sizes: Sizes, machine: Machine, probed: Probed | None, neighbours: int) -> dict[str, int]:
    """Return the bytes of a counting model: its matrix, the rows of a task, the table, the peak of a node."""
    cells_per_event = probed.data_bytes if probed else 1.0
    cells = round(sizes.train_events * cells_per_event)
    matrix = CELL * cells + IDX * (sizes.users + sizes.items + 2 * NUM_RESERVED)
    table = (FLOAT + FLOAT) * sizes.items * (neighbours + 1)
    work = IDX * (sizes.items + NUM_RESERVED)
    node = RAY_NODE + CELL_PEAK * cells + matrix + machine.cpus * (TASK_PROCESS + work)
    return {"matrix": matrix, "table": table, "node": node}


def training_disk(run: RunConfig, model: ModelSize) -> tuple[int, int]:
    """Return the bytes on disk of `checkpoint/`, and at most while training: states and best weights."""
    one = model.parameter_bytes + model.optimizer_bytes
    best = min(run.training.epochs, KEPT_CHECKPOINTS) * model.parameter_bytes
    return one, KEPT_CHECKPOINTS * one + best
