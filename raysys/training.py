"""One epoch of gradient steps on one device; no Ray. Also what `[training]` may say."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raysys.config import require
from raysys.errors import TrainingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """`[training]`: how the model learns."""

    epochs: int = 10
    """Passes over the training samples at most."""
    batch_size: int = 1024
    """Samples per step over all workers; a multiple of the number of workers."""
    learning_rate: float = 0.001
    """Step size of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    loss: Literal["sampled_softmax", "full_softmax"] = "sampled_softmax"
    """sampled_softmax: against `model.num_negatives` drawn items, corrected by logQ; full_softmax: all
    items."""
    sampler: Literal["uniform", "log_uniform", "popularity"] = "popularity"
    """Where negatives come from; popularity is training count to the power `sampler_power`."""
    sampler_power: float = 0.75
    """Exponent of the popularity sampler."""
    seed: int = 0
    """Root of every random number of the run."""
    patience: int = 3
    """Stop after this many epochs without a better validation metric; 0: never."""
    metric: str = "ndcg@10"
    """What is watched on the validation part, by real retrieval over the whole catalogue."""
    valid_users: int = 10_000
    """Users that the validation metric is measured on at most, the same ones every time."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; one is also taken at every end of an epoch."""
    max_minutes: float = 0.0
    """Stop after this much training time; 0: no limit."""
    max_retries: int = 3
    """How often a failed group of workers is started again from the last checkpoint."""
    shuffle_events: int = 8_000_000
    """Events held in memory at once per worker; sequence files are shuffled, read in chunks of about this
    size, and
    samples are shuffled within a chunk."""
    samples_per_user: int = 0
    """Training samples of a user in an epoch at most, drawn anew in every epoch, so that heavy users do
    not outweigh the others (YouTube DNN, sec. 3.3); 0: all."""
    source: Literal["files", "ray_data"] = "files"
    """files: each worker cuts its batches itself. ray_data: Ray Data tasks on CPU nodes cut them. Same
    batches."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "valid_users", "checkpoint_every_steps", "shuffle_events"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        require(self.learning_rate > 0, f"learning_rate: found {self.learning_rate}, expected > 0")
        for name in (
            "weight_decay",
            "patience",
            "max_minutes",
            "max_retries",
            "clip_norm",
            "sampler_power",
            "samples_per_user",
        ):
            require(getattr(self, name) >= 0, f"{name}: found {getattr(self, name)}, expected >= 0")
        base, _, k = self.metric.partition("@")
        known = base in ("hit_rate", "recall", "ndcg") and k.isdigit() and int(k) > 0
        known = known or (base == "mrr" and not k)
        require(known, f"metric: found {self.metric!r}, expected hit_rate@k, recall@k, ndcg@k or mrr")

    @property
    def metric_k(self) -> int:
        """How many items the validation retrieves."""
        k = self.metric.partition("@")[2]
        return int(k) if k else 100


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
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


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
) -> StepTotals:
    """Take a gradient step for each batch and return the totals of this device.

    Args:
        model: returns {"loss": ...}; may be wrapped for DDP.
        optimizer: over the model's parameters.
        batches: (step number, batch) pairs, tensors on the model's device.
        config: clipping.
        after_step: called with the step number and the totals so far; returns True to stop.
        rank: named in errors.
    Raises:
        TrainingError: the loss is not finite; raised before the optimiser moves.
    """
    totals = StepTotals()
    for step, batch in batches:
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
