"""Memory of this process, and of the arrays that an object holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa


class Memory:
    """Resident memory of this process, by /proc; zeros where there is none."""

    STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def _field(self, name: str) -> int:
        try:
            lines = self.STATUS.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)

    def now(self) -> int:
        """Return the resident bytes."""
        return self._field("VmRSS:")

    def peak(self) -> int:
        """Return the most resident bytes since `forget_peak`."""
        return self._field("VmHWM:")

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        try:
            self.PEAK.write_text("5")
        except OSError:
            return  # another system: the peak is then that of the whole process, which is too high


def array_bytes(value: Any, known: set[int] | None = None) -> int:
    """Return the bytes of all NumPy arrays that an object holds, each block of memory once."""
    known = set[int]() if known is None else known
    if id(value) in known:
        return 0
    known.add(id(value))
    if isinstance(value, np.ndarray):
        if value.base is not None:
            return array_bytes(value.base, known)
        return int(value.nbytes)
    if isinstance(value, pa.Buffer | pa.Array):
        return int(value.size if isinstance(value, pa.Buffer) else value.nbytes)
    if isinstance(value, Mapping):
        return sum(array_bytes(part, known) for part in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, tuple | list):
        return sum(array_bytes(part, known) for part in cast("list[Any]", value))
    return array_bytes(vars(value), known) if hasattr(value, "__dict__") else 0
