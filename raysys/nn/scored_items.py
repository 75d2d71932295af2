"""What a training step scores: the targets of its rows, the negatives and the catalogue.

Shape suffixes: B batch, R targets of the batch, V catalogue, N negatives, D vector.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from raysys.nn.lookup import look_up
from raysys.nn.loss_inputs import LossName
from raysys.schema import PADDING_IDX


class Items(Protocol):
    """An encoder of items: `raysys.nn.embedding.ItemEncoder` or `ConcatItemEncoder`."""

    num_items: int

    def __call__(self, item_idx: Tensor) -> Tensor: ...

    def table(self) -> Tensor: ...


class ScoredItems(NamedTuple):
    """Vectors of a step: of the catalogue (V, D) as encoded and as scored, both None where each slot is
    encoded on its own; of the targets (R, D) and the negatives (N, D) as scored."""

    encoded: Tensor | None
    served: Tensor | None
    targets: Tensor
    negatives: Tensor


def scored_items(
    items: Items,
    serve: Callable[[Tensor], Tensor],
    loss: LossName,
    target_R: Tensor,
    negatives_N: Tensor,
    other_slots: int,
) -> ScoredItems:
    """Return the vectors of targets and negatives.

    They come from the encoded catalogue where it is no larger than the slots of the batch, or where the loss
    needs it anyway; otherwise each slot is encoded on its own. The numbers are the same.

    Args:
        items: the encoder.
        serve: what makes of encoded vectors those that the index holds.
        loss: of the step.
        target_R, negatives_N: item_idx.
        other_slots: items of the histories in the batch, padding included.
    """
    slots = other_slots + target_R.numel() + negatives_N.numel()
    if loss == "full_softmax" or items.num_items <= slots:
        table_VD = items.table()
        served_VD = serve(table_VD)
        return ScoredItems(table_VD, served_VD, look_up(target_R, served_VD), look_up(negatives_N, served_VD))
    return ScoredItems(None, None, serve(items(target_R)), serve(items(negatives_N)))


def real_targets(target: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the real targets (R,), the row of each, and its weight, so that each row weighs 1 / B.

    Row and weight are None where every row has one target.

    Args:
        target: (B,), or (B, n) padded with 0.
    """
    if target.dim() == 1:
        return target, None, None
    real = target != PADDING_IDX
    row_R = real.nonzero()[:, 0]
    return target[real], row_R, 1.0 / (real.sum(1)[row_R] * len(target))
