"""The machines that a run is planned for: this one, one described by flags, or those of a running cluster."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from raysys.config import require

GB = 10**9
USABLE_SHARE = 0.95
"""Share of a node's memory that Ray lets a run use before it ends workers."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Equal nodes.

    Attributes:
        name: where the figures come from, in words.
        nodes: at least 1.
        cpus: of a node.
        memory: bytes of a node.
        free_memory: bytes of a node that nobody uses now; 0: not known.
        gpus: of a node.
        gpu_memory: bytes of each GPU; 0: not known.
    """

    name: str
    nodes: int = 1
    cpus: int
    memory: int
    free_memory: int = 0
    gpus: int = 0
    gpu_memory: int = 0

    def __post_init__(self) -> None:
        for field, flag in (("nodes", "--nodes"), ("cpus", "--cpus")):
            found = getattr(self, field)
            require(found >= 1, f"{flag}: found {found}, expected at least 1")
        require(self.memory > 0, f"--memory-gb: found {self.memory / GB:g}, expected above 0")
        require(self.gpus >= 0, f"--gpus: found {self.gpus}, expected >= 0")
        require(self.gpu_memory >= 0, f"--gpu-memory-gb: found {self.gpu_memory / GB:g}, expected >= 0")

    @property
    def usable(self) -> int:
        """Bytes of a node that a run may use."""
        return int(USABLE_SHARE * self.memory)


def this_machine() -> Machine:
    """Return this machine, or the part of it that its container may use. GPUs are not looked for."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return Machine(name="this machine", cpus=os.cpu_count() or 1, memory=total, free_memory=_free(total))


def _free(total: int) -> int:
    """Return the bytes that are available now, 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(total, found[0]) if found else 0


def described(
    base: Machine,
    nodes: int | None = None,
    cpus: int | None = None,
    memory_gb: float | None = None,
    gpus: int | None = None,
    gpu_memory_gb: float | None = None,
) -> Machine:
    """Return the machine with what the flags say in place of what was found.

    Args:
        base: what counts where a flag is not given.
        nodes: equal nodes.
        cpus: of a node.
        memory_gb: of a node, in 10^9 bytes.
        gpus: of a node.
        gpu_memory_gb: of each GPU, in 10^9 bytes.
    Raises:
        ConfigError: a figure out of range.
    """
    given = {
        "nodes": nodes,
        "cpus": cpus,
        "memory": None if memory_gb is None else int(memory_gb * GB),
        "gpus": gpus,
        "gpu_memory": None if gpu_memory_gb is None else int(gpu_memory_gb * GB),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return base
    if "memory" in changed:
        changed["free_memory"] = 0
    return replace(base, name="the machines that the flags describe", **changed)
