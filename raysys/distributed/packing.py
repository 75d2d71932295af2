"""How many trainings a cluster has room for at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raysys.errors import ConfigError
from raysys.run import RunConfig

Resources = Mapping[str, float]

DRIVER = {"memory": 2.0**20}
"""What a driver asks for: Tune wants every trial to ask for something, and CPUs are the workers'."""


@dataclass(frozen=True)
class Node:
    """What a node of the cluster offers, and its labels."""

    resources: Resources
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Packing:
    """What Ray is asked for.

    Attributes:
        trial: resources of a trial's own process.
        labels: of the nodes that a trial's own process may be on; empty: any.
        at_once: trials that fit at the same time, their workers and data tasks counted.
        threads: of a trial's own process.
        alone: whether a trial trains in its own process.
    """

    trial: dict[str, float]
    labels: dict[str, str]
    at_once: int
    threads: int
    alone: bool


def pack(run: RunConfig, nodes: Sequence[Node], most: int = 0) -> Packing:
    """Return how trials of a run share a cluster.

    A trial of one worker, or of a counting model, trains in its own process and asks for the worker's
    resources on a node for training. One of several is a driver that asks for next to nothing, because its
    workers ask for themselves: were it to take a CPU, drivers could hold what their own workers need, and
    all would wait for ever.

    Args:
        run: its `[cluster]` and `training.source` count.
        nodes: of the cluster; workers fit those with `cluster.training_labels`, data tasks those with
            `cluster.data_labels`.
        most: trials at once at most; 0: no limit.
    Raises:
        ConfigError: the cluster has no room for one.
    """
    cluster, counts = run.cluster, run.learns_by == "rows"
    workers = 1 if counts else max(cluster.workers, 1)
    use_gpu = cluster.use_gpu and not counts
    training = [node for node in nodes if cluster.training_labels.items() <= node.labels.items()]
    # as the trainer: nodes with GPUs that declare no CPUs are for training alone
    cpus = any(node.resources.get("CPU") for node in training) or not use_gpu
    worker = dict(cluster.resources_per_worker) or {"CPU": float(cpus)}
    if use_gpu:
        worker["GPU"] = 1.0
    room = _at_once(run, worker, workers, nodes)
    if not room:
        total = {name: sum(node.resources.get(name, 0.0) for node in training) for name in worker}
        tasks = f" and {_data_cpus(run):g} CPU for data tasks" if _data_cpus(run) else ""
        labels = ", ".join(f"{name}={value}" for name, value in cluster.training_labels.items())
        where = f"{len(training)} nodes" + (f" with {labels}" if labels else "")
        raise ConfigError(
            f"cluster.workers: a trial needs {workers} times {_told(worker)}{tasks}, each on one node; the "
            f"cluster has {_told(total)} on {where}; ask for less or connect to a larger cluster"
        )
    at_once = min(room, most) if most else room
    threads = max(1, int(worker.get("CPU", 1.0)))
    if workers > 1:
        return Packing(DRIVER, {}, at_once, threads, alone=False)
    return Packing(worker, dict(cluster.training_labels), at_once, threads, alone=True)


def _data_cpus(run: RunConfig) -> float:
    """Return the CPUs that the data tasks of a trial need besides its workers."""
    return 1.0 if run.training.source == "ray_data" and run.cluster.workers > 1 else 0.0


def _at_once(run: RunConfig, worker: Resources, workers: int, nodes: Sequence[Node]) -> int:
    """Return how many trials fit: added one at a time, each worker to the first node with room."""
    free, count = [Node(dict(node.resources), node.labels) for node in nodes], 0
    data_cpus, cluster = _data_cpus(run), run.cluster
    while all(_take(worker, cluster.training_labels, free) for _ in range(workers)) and (
        not data_cpus or _take({"CPU": data_cpus}, cluster.data_labels, free)
    ):
        count += 1
        if not any(worker.values()) and not data_cpus:
            return 1
    return count


def _take(wanted: Resources, labels: Mapping[str, str], free: list[Node]) -> bool:
    """Take resources from the first node with the labels that has them; return whether there was one."""
    for i, node in enumerate(free):
        left = {name: node.resources.get(name, 0.0) - amount for name, amount in wanted.items()}
        if labels.items() <= node.labels.items() and min(left.values(), default=0.0) >= 0:
            free[i] = Node({**node.resources, **left}, node.labels)
            return True
    return False


def _told(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
