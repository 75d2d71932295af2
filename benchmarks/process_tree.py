"""CPU seconds and memory of a process and everything that it started, read from /proc."""

import os
import threading
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
SETTLE_S = 0.05


def _processes() -> dict[int, tuple[int, float]]:
    """Return pid -> (parent, CPU seconds so far)."""
    found: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK)
    return found


def tree(root: int) -> dict[int, float]:
    """Return pid -> CPU seconds of a process and its descendants."""
    processes = _processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, float] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in processes:
            found[pid] = processes[pid][1]
            waiting += children.get(pid, [])
    return found


def _memory(pid: int) -> float:
    """Return a process's share of memory in GB (PSS: shared pages are divided among those who share them)."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass  # it has just ended
    return 0.0


class Watch:
    """Watches a process tree from another thread: CPU seconds spent in a block, and the peak of memory.

    A process that ends between two looks takes what it spent since the last look with it; looks are frequent
    enough for that not to matter.
    """

    def __init__(self, root: int | None = None, memory: bool = False) -> None:
        self.root, self.memory = root or os.getpid(), memory
        self.before: dict[int, float] = {}
        self.after: dict[int, float] = {}
        self.peak_gb = 0.0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def _look(self) -> None:
        now = tree(self.root)
        self.after |= now
        if self.memory:
            self.peak_gb = max(self.peak_gb, sum(map(_memory, now)))

    def _loop(self) -> None:
        while not self.done.wait(0.5 if self.memory else 0.2):
            self._look()

    def __enter__(self) -> "Watch":
        self.before = tree(self.root)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self._look()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the tree since the block began."""
        return sum(spent - self.before.get(pid, 0.0) for pid, spent in self.after.items())
