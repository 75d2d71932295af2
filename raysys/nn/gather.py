"""Rows of all ranks in one tensor, with the gradient of each row going back to its rank.

Shape suffixes: B rows of one rank, C rows of all ranks.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gather_rows(local_B: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of the ranks; `local_B` itself on one rank or without a
    group.

    Every rank calls this with as many rows as the others. The gradient of a row is the sum of what all ranks
    ask of it. A loss that is a mean over the rows of a rank then has, after DDP has averaged the gradients of
    the parameters, exactly the gradient of the mean over all rows in one process: each rank holds its share
    of the sum of the ranks' losses, and the average divides by the number of ranks as the global mean does.

    Args:
        local_B: (B, ...), any type.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return local_B
    if distributed.get_world_size() == 1:
        return local_B
    return _Gather.apply(local_B)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_B: Tensor) -> Tensor:  # type: ignore[override] # torch declares *args
        world = distributed.get_world_size()
        gathered_C = local_B.new_empty((world * local_B.shape[0], *local_B.shape[1:]))
        distributed.all_gather(list(gathered_C.chunk(world)), local_B.contiguous())
        if not local_B.is_floating_point():
            ctx.mark_non_differentiable(gathered_C)
        return gathered_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_C: Tensor) -> Tensor:  # type: ignore[override] # likewise
        total_C = grad_C.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total_C)
        return total_C.chunk(distributed.get_world_size())[distributed.get_rank()]
