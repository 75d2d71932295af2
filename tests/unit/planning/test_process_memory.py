"""Memory of a process and of arrays; the oracles are arrays of known size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysys.planning.process_memory import Memory, array_bytes


def test_bytes_of_arrays_are_counted_once():
    whole = np.zeros(1000)
    assert array_bytes({"a": whole, "b": whole[:10], "c": (whole, np.zeros(5, np.int8))}) == 8005
    assert array_bytes([pa.array([1, 2, 3]), "text", 7]) == 24


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_the_peak_is_seen_and_forgotten():
    memory = Memory()
    memory.forget_peak()
    before, size = memory.now(), 200_000_000
    array = np.ones(size, np.int8)
    assert memory.now() - before > 0.9 * size  # other allocations of the process are far smaller
    del array
    assert memory.peak() - before > 0.9 * size
    memory.forget_peak()
    assert memory.peak() - before < 0.5 * size
