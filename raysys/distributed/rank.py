"""A worker's place in the group, and what its device and its node ask of the training loop."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysys.distributed.same_node import SharedSum, mean_hook, orders_writes


@dataclass(frozen=True)
class Rank:
    """One worker's place in the group, and how it talks to the driver.

    Attributes:
        on_node: workers of the group on this worker's node, itself among them.
    """

    rank: int
    world: int
    device: str
    say: Callable[[dict[str, Any]], None]
    stopping: Callable[[], bool]
    report: Callable[[dict[str, float], str], None]
    on_node: int = 1

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()


def wrap(model: nn.Module, rank: Rank) -> nn.Module:
    """Return the model as the ranks train it together, or itself for one rank."""
    if rank.world == 1:
        return model
    # buffers are the same on all ranks from the start and never change; copying them before every step took
    # a fifth of its time
    options: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    if rank.device == "cpu":
        # over gloo a message costs more than its bytes; without this DDP sends a small bucket first, to start
        # early
        options["bucket_cap_mb"] = 25
        return DistributedDataParallel(model, **options)
    from ray.train.torch import prepare_model

    return prepare_model(model, parallel_strategy_kwargs=options)


def share_memory(wrapped: nn.Module, rank: Rank) -> SharedSum | None:
    """Let gradients go through the memory of the node, and return it, where all workers are on one."""
    on_one_node = rank.device == "cpu" and rank.on_node == rank.world
    if not (isinstance(wrapped, DistributedDataParallel) and on_one_node and orders_writes()):
        return None
    size = sum(p.numel() * p.element_size() for p in wrapped.parameters() if p.requires_grad)
    try:
        shared = SharedSum(size)
    except OSError as error:
        if rank.rank == 0:
            rank.say({"gradients": f"through gloo, which is slower: {error}"})
        return None
    wrapped.register_comm_hook(shared, mean_hook)
    return shared


def has_core_to_spare(device: str, on_node: int) -> bool:
    """Return whether a second thread of a worker finds a core that no training thread of its node needs.

    Where it finds none, cutting batches in a thread takes longer than between the steps.
    """
    return device != "cpu" or (os.cpu_count() or 1) > on_node * torch.get_num_threads()


def generators_of(device: torch.device) -> list[torch.Generator]:
    """Return what a model on a device draws from.

    `torch.manual_seed` seeds every kind of accelerator and walks the stack for each that is not in use, which
    took 2 % of a step.
    """
    if device.type != "cuda":
        return [torch.default_generator]
    number = torch.empty(0, device=device).get_device()  # also where the device has no number, as in "cuda"
    return [torch.default_generator, torch.cuda.default_generators[number]]
