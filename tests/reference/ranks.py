"""The gradient of a tiny model on two processes, for comparison with one."""

from typing import get_args

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from raysys.models.mind import Mind, MindConfig
from raysys.nn.gather import gather_rows
from raysys.nn.loss_inputs import WITH_HARDNESS, LossName
from tests.reference.world import SHARED_KEYS, small_batch, small_catalog

WORLD = 2
OPTIONS = {
    "recency": "gap",
    "latest_items": 1,
    "train_score": "served",
    "routing_gradient": "all",
    "routing_regularisation": 0.3,
    "learnt_quota": 0.1,
    "hard_negatives": 0.5,
}
VARIANTS = ({}, {"normalize": True, "temperature": 0.2, "label_power": 2.0}, OPTIONS)


def global_batch(num_items):
    """Return a batch in float64 whose targets repeat within a rank and over ranks."""
    batch = small_batch(num_items)
    batch["target"][[0, 2, 5]] = batch["negatives"][3]
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def tiny_model(loss, fields, num_items):
    if loss not in WITH_HARDNESS:
        fields = {name: value for name, value in fields.items() if name != "hard_negatives"}
    config = MindConfig(embedding_dim=5, num_interests=3, history_length=7, hidden_dims=(6,), **fields)
    return Mind(config, small_catalog(num_items), loss=loss, seed=0).double()


def cases():
    """Every loss, with items encoded by the catalogue (24 items) and by slot (200)."""
    return [
        (loss, variant, num_items)
        for loss in get_args(LossName)
        for variant, num_items in ((0, 24), (1, 200), (2, 24))
    ]


def rank_main(rank, folder):
    """Run on each of two processes: rank 0 saves what it gets for all cases."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {}
    for loss, variant, num_items in cases():
        batch = global_batch(num_items)
        share = len(batch["target"]) // WORLD
        own = slice(rank * share, (rank + 1) * share)
        batch = {name: value if name in SHARED_KEYS else value[own] for name, value in batch.items()}
        model = DistributedDataParallel(tiny_model(loss, VARIANTS[variant], num_items))
        value = model(batch)["loss"]
        value.backward()
        total = value.detach().clone()
        distributed.all_reduce(total)
        gradients = {name: p.grad for name, p in model.module.named_parameters()}
        results[loss, variant, num_items] = (total / WORLD, gradients)
    rows = torch.arange(6.0).reshape(3, 2) + 10 * rank
    rows.requires_grad_()
    gathered = gather_rows(rows)
    (gathered * (1 + rank) * torch.arange(6.0)[:, None]).sum().backward()
    results["gather"] = (gathered.detach(), rows.grad, gather_rows(torch.tensor([rank, 7])))
    torch.save(results, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()
