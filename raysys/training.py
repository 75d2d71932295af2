"""One epoch of gradient steps on one device; no Ray."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from raysys.errors import TrainingError
from raysys.training_config import TrainingConfig

logger = logging.getLogger(__name__)


class StepTotals:
    """Sums of what a model reports, weighted by samples, so that totals of ranks add up."""

    def __init__(self) -> None:
        self.samples = 0
        self.sums: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        self.samples += samples
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) * samples

    def means(self) -> dict[str, float]:
        return {name: total / max(self.samples, 1) for name, total in self.sums.items()}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay over every trained parameter."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


LOWEST_RATE = 0.01
"""Share of the learning rate that a schedule ends at."""


def learning_rate(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Return the step size of one step.

    Args:
        config: rate, warm-up and schedule.
        step: number of the step since the start of training, from 0.
        total_steps: steps of all epochs.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    passed = min(1.0, (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps))
    share = LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * passed))
    return config.learning_rate * share


def _num_samples(batch: Mapping[str, Tensor]) -> int:
    """Return the rows of a batch: of next items and sequences, of pairs, or of ratings."""
    return len(next(batch[name] for name in ("target", "center", "item_idx") if name in batch))


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[int, Mapping[str, Tensor]]],
    config: TrainingConfig,
    after_step: Callable[[int, StepTotals], bool],
    rank: int = 0,
    rate: Callable[[int], float] | None = None,
) -> StepTotals:
    """Take a gradient step for each batch and return the totals of this device.

    Args:
        model: returns {"loss": ...}; may be wrapped for DDP.
        optimizer: over the model's parameters.
        batches: (step number, batch) pairs, tensors on the model's device.
        config: clipping.
        after_step: called with the step number and the totals so far; returns True to stop.
        rank: named in errors.
        rate: step number -> step size; None leaves that of the optimiser.
    Raises:
        TrainingError: the loss is not finite; raised before the optimiser moves.
    """
    totals = StepTotals()
    for step, batch in batches:
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
        optimizer.zero_grad(set_to_none=True)
        values = model(batch)
        loss = values["loss"]
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"step {step}, rank {rank}: the loss is {float(loss.detach())}; lower "
                f"training.learning_rate or "
                "set training.clip_norm"
            )
        loss.backward()
        if config.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        totals.add(values, _num_samples(batch))
        if after_step(step, totals):
            break
    return totals
