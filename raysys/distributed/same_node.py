"""Sums over the workers of one node, through shared memory.

Over gloo a message between two processes of a machine takes a millisecond or more, as threads sleep and wake
several times for each; for models of a few megabytes that is a tenth of a step. Here every worker writes its
gradient into memory that all have mapped, and reads those of the others.

Shape suffixes: W workers, N numbers.
"""

import mmap
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from raysys.errors import TrainingError

PIECE_BYTES = 4 * 2**20
"""Bytes of a worker's part; longer gradients go in several pieces."""
FLAG_BYTES = 64
"""Of each worker, so that no two flags share a cache line."""
SPIN_S, NAP_S = 0.002, 0.0001
"""A wait asks again at once for the first while, then after a nap."""
LIMIT_S = 1800.0
SHARED = Path("/dev/shm")  # noqa: S108 # a file there is made by mkstemp
"""Where files are memory, on Linux."""


class SharedSum:
    """Sums over the ranks of a process group that all run on this node; every rank makes one at a time and
    calls it equally often.

    The memory is a file that is unlinked as soon as all ranks have mapped it, so nothing is left behind
    whatever ends a worker. Each rank has two parts and takes them in turn: by the time it writes one again,
    all others have read it, as they have announced the piece in between. Sums go in the order of the ranks,
    so that all ranks get the same bits.

    Args:
        group_bytes: of the largest tensor; longer ones go in several pieces.
    Raises:
        OSError: no such memory is to be had on some rank.
    """

    def __init__(self, group_bytes: int) -> None:
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.piece = min(PIECE_BYTES, max(1, -(-group_bytes // FLAG_BYTES)) * FLAG_BYTES)
        self.turn = 0
        memory = self._map(self.world * (FLAG_BYTES + 2 * self.piece))
        flags, parts = memory[: self.world * FLAG_BYTES], memory[self.world * FLAG_BYTES :]
        self.flag_W = flags.view(torch.int64).view(self.world, -1)[:, 0].numpy()
        self.parts = parts.view(2, self.world, self.piece)

    def _map(self, size: int) -> Tensor:
        """Return zeros of shared memory, or raise on every rank if one cannot map it."""
        name, error = [""], None
        memory: mmap.mmap | None = None
        try:
            if self.rank == 0:
                folder = SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())
                handle, name[0] = tempfile.mkstemp(prefix="raysys-gradients-", dir=folder)
                try:
                    os.posix_fallocate(handle, 0, size)  # a full file system says so here, not by a signal
                    memory = mmap.mmap(handle, size)
                finally:
                    os.close(handle)
        except OSError as caught:
            error = caught
        torch.distributed.broadcast_object_list(name, src=0)
        try:
            if self.rank and name[0]:
                handle = os.open(name[0], os.O_RDWR)
                try:
                    memory = mmap.mmap(handle, size)
                finally:
                    os.close(handle)
        except OSError as caught:
            error = caught
        mapped = torch.tensor([int(memory is not None)])
        torch.distributed.all_reduce(mapped)
        if self.rank == 0 and name[0]:
            os.unlink(name[0])
        if int(mapped) < self.world or memory is None:
            raise OSError(f"{self.world - int(mapped)} workers cannot map {size} bytes: {error}")
        return torch.frombuffer(memory, dtype=torch.uint8)

    def sum_(self, values_N: Tensor) -> Tensor:
        """Put the sum over the ranks into `values_N`, (N,) of any floating type, and return it."""
        for piece in values_N.split(self.piece // values_N.element_size()):
            parts_WN = self.parts[self.turn % 2, :, : piece.nbytes].view(piece.dtype)
            parts_WN[self.rank].copy_(piece)
            self.turn += 1
            self.flag_W[self.rank] = self.turn
            self._wait()
            torch.sum(parts_WN, 0, out=piece)
        return values_N

    def _wait(self) -> None:
        begin = time.monotonic()
        while int(np.min(self.flag_W)) < self.turn:
            waited = time.monotonic() - begin
            time.sleep(0 if waited < SPIN_S else NAP_S)
            if waited > LIMIT_S:
                late = [rank for rank, turn in enumerate(self.flag_W) if turn < self.turn]
                raise TrainingError(f"workers {late} sent no gradient for {LIMIT_S / 60:.0f} minutes")


def orders_writes() -> bool:
    """Return whether other processes see the writes of one in order, as `SharedSum` presumes; Python has no
    barrier to ask for it."""
    return platform.machine().lower() in ("x86_64", "amd64")


def mean_hook(
    shared: SharedSum,
    bucket: torch.distributed.GradBucket,  # pyright: ignore[reportPrivateImportUsage] # DDP asks for it
) -> torch.futures.Future[Tensor]:
    """Return the mean of a `torch.distributed.GradBucket`, as a communication hook of DDP wants it."""
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(shared.sum_(bucket.buffer()).div_(shared.world))
    return done
