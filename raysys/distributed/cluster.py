"""Connecting to Ray: the cluster that the job runs on, one by address, or a local one."""

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

# Workers import ray.data and torch at every start; a warm one is worth keeping for more than Ray's one
# second.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayTaskError

from raysys.errors import ConfigError, RaysysError
from raysys.logs import fields
from raysys.run import ClusterConfig

logger = logging.getLogger(__name__)

# Lets a worker use memory again instead of giving it back after every array: a tenth of the data stage.
WORKER_MEMORY = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}

RAY_DATA_ADVICE = "\nFailed to apply UDF transform after"
"""What Ray Data puts behind the message of an error in a task of its own."""

T = TypeVar("T")
R = TypeVar("R")


def connect(address: str | None, config: ClusterConfig) -> None:
    """Connect to Ray.

    Args:
        address: "local" starts a cluster on this machine, "auto" finds a running one, else an address; None
        takes the
            cluster that the job runs on (`ray job submit` sets RAY_ADDRESS) and otherwise starts a local one.
        config: size of a local cluster.
    Raises:
        ConfigError: no cluster answers at the address.
    """
    _data_labels.clear()
    _data_labels.update(config.data_labels)
    if ray.is_initialized():
        return
    if address is None:
        address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault(
            "RAY_AUTH_MODE", "disabled"
        )  # a private cluster on loopback, gone with this process
        for name, value in WORKER_MEMORY.items():
            os.environ.setdefault(name, value)
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, config.workers, 2),
            include_dashboard=config.dashboard,
            object_store_memory=config.object_store_mb * 2**20,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        if config.dashboard:
            logger.info(fields(dashboard=ray.worker.get_dashboard_url()))
        return
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}"
        ) from None
    nodes = nodes_with({})
    logger.info(fields(nodes=len(nodes), cpus=sum(nodes.values())))
    for name, labels in (("data_labels", config.data_labels), ("training_labels", config.training_labels)):
        if not nodes_with(labels):
            logger.warning(fields(waits_for=f"cluster.{name}", labels=labels, reason="no node has them yet"))


_data_labels: dict[str, str] = {}
"""Labels of the nodes that data tasks and shards go to; what `connect` was told last."""


def data_labels() -> dict[str, str]:
    """Return the labels of the nodes for data tasks and shards, as `label_selector` of Ray takes them."""
    return dict(_data_labels)


def nodes_with(labels: Mapping[str, str]) -> dict[str, int]:
    """Return the id of each node that is up and has the labels, and its CPUs, the most first."""
    found = {
        node["NodeID"]: int(node["Resources"].get("CPU", 0))
        for node in ray.nodes()
        if node["Alive"] and labels.items() <= node["Labels"].items()
    }
    return dict(sorted(found.items(), key=lambda node: (-node[1], node[0])))


def num_cpus() -> int:
    """Return the CPUs of all nodes for data tasks, at least one."""
    return max(1, sum(nodes_with(_data_labels).values()))


def share_of_cpus(cpus: Sequence[int], workers: int) -> int:
    """Return the most CPUs that each of some workers can have on nodes with so many, at least one."""
    for share in range(max(cpus, default=1), 1, -1):
        if sum(node // share for node in cpus) >= workers:
            return share
    return 1


@contextmanager
def own_errors() -> Generator[None]:
    """Raise the raysys error behind a failed Ray task, so that a job shows one line instead of a worker's
    trace."""
    try:
        yield
    except Exception as error:
        found = cause_of(error)
        if found is None or found is error:
            raise
        raise found from None


def cause_of(error: BaseException | None) -> RaysysError | None:
    """Return the raysys error in a chain of causes, or None."""
    for _ in range(16):
        # Ray makes a class that is both its own error and ours; ours, its cause, is the one to raise.
        if isinstance(error, RaysysError) and not isinstance(error, RayTaskError):
            told, mark, _ = str(error).partition(RAY_DATA_ADVICE)
            return type(error)(told) if mark else error
        if error is None:
            return None
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


# Ray Data runs the end of a shuffle in workers of their own, told apart by this environment. Tasks that ask
# for the same one share those workers; a worker costs a second of CPU to start.
DATA_WORKERS: dict[str, Any] = {"env_vars": {"RAY_DATA_SHUFFLE_REDUCE_WORKER": "1"}}


def run_tasks(
    function: Callable[..., R],
    items: Iterable[Any],
    *shared: Any,
    cpus: float = 1,
    progress: str = "",
    runtime_env: dict[str, Any] | None = None,
) -> list[R]:
    """Return `function(item, *shared)` for each item, in order, as Ray tasks, a few per CPU in flight.

    Args:
        function: a module-level function.
        items: one per task.
        shared: sent once to the object store, the same for every task.
        cpus: CPUs of a task.
        progress: a name; where given, progress is logged every few seconds.
        runtime_env: of the tasks; only those with the same one share workers.
    """
    remote: Any = ray.remote(
        num_cpus=cpus, max_retries=3, runtime_env=runtime_env or {}, label_selector=data_labels()
    )
    task = remote(function)
    references = [ray.put(value) for value in shared]
    waiting = list(enumerate(items))[::-1]
    total, results, running = len(waiting), {}, {}
    limit = max(2, 2 * num_cpus())
    ticker = Ticker(progress, total)
    with own_errors():
        while waiting or running:
            while waiting and len(running) < limit:
                number, item = waiting.pop()
                running[task.remote(item, *references)] = number
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                results[running.pop(reference)] = ray.get(reference)
            ticker.show(len(results))
    return [results[number] for number in range(total)]


class Ticker:
    """Logs `done/total` with the time that is left, at most every few seconds."""

    def __init__(self, name: str, total: int, every_s: float = 5.0) -> None:
        self.clock = time.monotonic
        self.name, self.total, self.every_s = name, total, every_s
        self.begin = self.last = self.clock()

    def show(self, done: int) -> None:
        now = self.clock()
        if not self.name or now - self.last < self.every_s or not done:
            return
        self.last = now
        eta = (now - self.begin) / done * (self.total - done)
        logger.info(fields(step=self.name, done=f"{done}/{self.total}", eta_s=round(eta)))
