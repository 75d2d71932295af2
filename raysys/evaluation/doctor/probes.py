"""Small batches that make a training loss tell what it scores, and a user encoder what it depends on.

Shape suffixes: B batch, N negatives.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SHARED = ("negatives", "log_expected", "gbce_beta", "target_log_expected", "target")
"""What a batch of training holds beside its histories and profiles."""


class LossModel(Protocol):
    """A model whose forward pass is the training loss."""

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


def users_of(batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return what a batch holds of its users, without targets and negatives."""
    return {name: torch.from_numpy(values) for name, values in batch.items() if name not in SHARED}


def one_row(batch: Mapping[str, np.ndarray], row: int) -> dict[str, Tensor]:
    """Return one row of a batch of training, with its first target only, and the last step of its session."""
    alone = {name: values[row : row + 1] for name, values in users_of(batch).items()}
    for name in alone:
        # a loss with targets at every step would score the earlier steps too
        if name.startswith("short"):
            alone[name] = alone[name][:, -1:]
    target = batch["target"][row : row + 1].reshape(1, -1)[:, :1]
    shape = (1,) if batch["target"].ndim == 1 else (1, 1)
    return {**alone, "target": torch.from_numpy(target).reshape(shape)}


def step_loss(
    model: LossModel,
    users: Mapping[str, Tensor],
    targets_B: Tensor,
    negatives_N: Tensor | None = None,
    log_expected: float = 0.0,
    target_log_expected: list[float] | None = None,
    beta: float = 1.0,
) -> float:
    """Return the loss of users with these targets and negatives, without gradients.

    Args:
        model: in evaluation mode.
        users: what `one_row` returned, or several of these; its own target decides the shape only.
        targets_B: item_idx.
        negatives_N: item_idx; none without.
        log_expected: ln of the expected count of every negative.
        target_log_expected: the same of every target as a candidate of other rows; 0 without.
        beta: power of the positive's probability in gbce.
    """
    negatives = torch.zeros(0, dtype=torch.int64) if negatives_N is None else negatives_N
    batch = {
        **users,
        "target": targets_B.reshape(len(targets_B), *users["target"].shape[1:]),
        "negatives": negatives,
        "log_expected": torch.full((len(negatives),), log_expected),
        "target_log_expected": torch.tensor(target_log_expected or [0.0] * len(targets_B)),
        "gbce_beta": torch.tensor(beta),
    }
    with torch.inference_mode():
        return float(model(batch)["loss"])


def margin_of(loss: float) -> float:
    """Return d of loss = ln(1 + exp(d)); -inf where the loss is too small to tell, NaN where negative."""
    if loss > 50:
        return loss
    return math.log(math.expm1(loss)) if loss > 0 else -math.inf if loss == 0 else math.nan
