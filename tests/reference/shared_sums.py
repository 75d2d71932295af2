"""What each of several processes does in the test of `SharedSum`."""

import os

import torch
from torch import distributed

from raysys.distributed import same_node
from raysys.distributed.same_node import SharedSum

WORLD = 3
LENGTHS = (1, 7, 64, 1000, 5000, 12_345)


def values(rank, turn, length):
    return torch.randn(length, generator=torch.Generator().manual_seed(100 * rank + turn))


def rank_main(rank, folder):
    """Save the sums of many tensors, some longer than a piece, and what is left of the memory's file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    same_node.PIECE_BYTES = 4 * 3000
    shared = SharedSum(4 * max(LENGTHS))
    found = [shared.sum_(values(rank, turn, length)) for turn, length in enumerate(LENGTHS * 40)]
    left = [name for name in os.listdir("/dev/shm") if name.startswith("raysys-gradients-")]
    torch.save(
        {"found": found, "double": shared.sum_(torch.full((5,), float(rank)).double()), "left": left},
        f"{folder}/rank{rank}.pt",
    )
    distributed.barrier()
    distributed.destroy_process_group()


def rank_without_memory(rank, folder):
    """Save what is raised where no rank, or one of them only, can map the memory."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    messages = []
    for broken in (0, 1):
        real = same_node.mmap.mmap
        if rank == broken:
            same_node.mmap.mmap = _refuse
        try:
            SharedSum(1000)
        except OSError as error:
            messages.append(str(error))
        same_node.mmap.mmap = real
    torch.save(messages, f"{folder}/rank{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _refuse(*args):
    raise OSError("no room")
