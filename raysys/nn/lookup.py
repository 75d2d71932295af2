"""Rows of a table, with a gradient that is fast on a CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from raysys.schema import PADDING_IDX


def look_up(index: Tensor, table_VD: Tensor) -> Tensor:
    """Return rows of a table; the padding row gets no gradient.

    The numbers, those of the gradient with them, are those of `torch.nn.functional.embedding`, to the bit.
    Its gradient on a CPU calls a routine per index and takes two to three times as long as `index_add_`; on
    an accelerator `index_add_` would add in any order, so there it stays with the former.

    Args:
        index: (...) int64 in [0, V).
        table_VD: (V, D), floats.
    Returns:
        (..., D).
    """
    wanted = table_VD.requires_grad and torch.is_grad_enabled()
    if wanted and table_VD.device.type == "cpu" and not torch.compiler.is_compiling():
        return _LookUp.apply(index, table_VD)
    return functional.embedding(index, table_VD, padding_idx=PADDING_IDX)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, table_VD: Tensor) -> Tensor:  # type: ignore[override] # torch declares *args
        ctx.save_for_backward(index)
        ctx.shape = table_VD.shape
        return functional.embedding(index, table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override] # likewise
        (index,) = ctx.saved_tensors
        rows = grad.reshape(-1, ctx.shape[1])
        grad_VD = grad.new_zeros(ctx.shape).index_add_(0, index.reshape(-1), rows)
        grad_VD[PADDING_IDX] = 0.0
        return None, grad_VD
