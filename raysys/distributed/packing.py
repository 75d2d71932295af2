"""How many trainings a cluster has room for at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysys.errors import ConfigError
from raysys.run import RunConfig

Resources = Mapping[str, float]

DRIVER = {"memory": 2.0**20}
"""What a driver asks for: Tune wants every trial to ask for something, and CPUs are the workers'."""


@dataclass(frozen=True)
class Packing:
    """What Ray is asked for.

    Attributes:
        trial: resources of a trial's own process.
        at_once: trials that fit at the same time, their workers and data tasks counted.
        threads: of a trial's own process.
        alone: whether a trial trains in its own process.
    """

    trial: dict[str, float]
    at_once: int
    threads: int
    alone: bool


def pack(run: RunConfig, nodes: Sequence[Resources], most: int = 0) -> Packing:
    """Return how trials of a run share a cluster.

    A trial of one worker, or of a counting model, trains in its own process and asks for the worker's
    resources. One of several is a driver that asks for next to nothing, because its workers ask for
    themselves: were it to take a CPU, drivers could hold what their own workers need, and all would wait for
    ever.

    Args:
        run: its `[cluster]` and `training.source` count.
        nodes: resources of each node of the cluster.
        most: trials at once at most; 0: no limit.
    Raises:
        ConfigError: the cluster has no room for one.
    """
    workers = max(run.cluster.workers, 1) if run.learns_by == "gradient" else 1
    worker = dict(run.cluster.resources_per_worker) or {"CPU": 1.0}
    if run.cluster.use_gpu:
        worker["GPU"] = 1.0
    room = _at_once(worker, workers, _data_cpus(run), nodes)
    if not room:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in worker}
        tasks = f" and {_data_cpus(run):g} CPU for data tasks" if _data_cpus(run) else ""
        raise ConfigError(
            f"cluster.workers: a trial needs {workers} times {_told(worker)}{tasks}, each on one node; the "
            f"cluster has {_told(total)} on {len(nodes)} nodes; ask for less or connect to a larger cluster"
        )
    at_once = min(room, most) if most else room
    alone = workers == 1
    threads = max(1, int(worker.get("CPU", 1.0)))
    return Packing(worker if alone else DRIVER, at_once, threads, alone)


def _data_cpus(run: RunConfig) -> float:
    """Return the CPUs that the data tasks of a trial need besides its workers."""
    return 1.0 if run.training.source == "ray_data" and run.cluster.workers > 1 else 0.0


def _at_once(worker: Resources, workers: int, data_cpus: float, nodes: Sequence[Resources]) -> int:
    """Return how many trials fit: added one at a time, each worker to the first node with room."""
    free, count = [dict(node) for node in nodes], 0
    while all(_take(worker, free) for _ in range(workers)) and (
        not data_cpus or _take({"CPU": data_cpus}, free)
    ):
        count += 1
        if not any(worker.values()) and not data_cpus:
            return 1
    return count


def _take(wanted: Resources, free: list[dict[str, float]]) -> bool:
    for node in free:
        if all(node.get(name, 0.0) >= amount for name, amount in wanted.items()):
            for name, amount in wanted.items():
                node[name] = node.get(name, 0.0) - amount
            return True
    return False


def _told(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
