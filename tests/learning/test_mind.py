"""MIND on planted taste: users like two of six groups of items, and the right answer is known.

Oracle: a list should hold unseen items of the user's two groups and of no other. Chance and popularity cannot
know the groups, because every group is equally popular.
"""

import numpy as np
import pytest
import torch

from raysys.catalog import Catalog
from raysys.models import build_model
from raysys.models.mind import MindConfig
from raysys.nn.negatives import NegativeSampler
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue
from raysys.training import TrainingConfig, build_optimizer, train_steps

GROUPS, PER_GROUP, USERS, LENGTH, K = 6, 20, 400, 12, 10
NUM_ITEMS = GROUPS * PER_GROUP + 2


def planted(seed, users=USERS):
    """Return histories (users, LENGTH) of two groups, a target of one of them, and the groups (users, 2)."""
    random = np.random.default_rng(seed)
    groups = random.permuted(np.tile(np.arange(GROUPS), (users, 1)), axis=1)[:, :2]
    of_group = 2 + np.arange(PER_GROUP) * GROUPS
    own = (groups[:, :, None] + of_group).reshape(users, -1)
    chosen = random.permuted(own, axis=1)[:, : LENGTH + 1]
    return np.ascontiguousarray(chosen[:, :-1]), np.ascontiguousarray(chosen[:, -1]), groups


def trained(loss, **fields):
    torch.manual_seed(0)
    counts = np.full(NUM_ITEMS, 10, np.int64)
    counts[:2] = 0
    catalog = Catalog(num_items=NUM_ITEMS, num_users=USERS + 2, item_counts=counts)
    config = MindConfig(
        embedding_dim=16, hidden_dims=(32,), history_length=LENGTH, num_negatives=40, **fields
    )
    training = TrainingConfig(learning_rate=0.01)
    model = build_model("mind", config, catalog, loss, seed=1)
    sampler = NegativeSampler("uniform", counts, config.num_negatives, seed=2)

    def batches():
        for step in range(300):
            history, target, _ = planted(1000 + step, users=256)
            negatives, log_expected = sampler.draw(step)
            arrays = {"history": history, "target": target, "negatives": negatives,
                      "log_expected": log_expected}  # fmt: skip
            yield step, {name: torch.from_numpy(values) for name, values in arrays.items()}

    train_steps(model, build_optimizer(model, training), batches(), training, lambda step, totals: False)
    return model.eval()


@pytest.fixture(scope="module", params=["sampled_softmax", "full_softmax"])
def model(request):
    return trained(request.param, num_interests=4)


def lists(model, history):
    index = ExactIndex("inner_product", 16)
    for item_idx, vectors in encode_catalogue(model, NUM_ITEMS):
        index.add(item_idx, vectors)
    seen = (np.arange(0, history.size + 1, LENGTH), np.sort(history, axis=1).ravel())
    return VectorRetriever(model, index).retrieve({"history": torch.from_numpy(history)}, K, seen).item_idx


def test_new_users_get_items_of_their_own_groups(model):
    history, _, groups = planted(99)
    found = (lists(model, history) - 2) % GROUPS
    own = (found[:, :, None] == groups[:, None, :]).any(axis=2)
    assert own.mean() > 0.8  # chance is a third


def test_both_groups_of_a_user_are_served(model):
    history, _, groups = planted(99)
    found = (lists(model, history) - 2) % GROUPS
    both = (found[:, :, None] == groups[:, None, :]).any(axis=1).all(axis=1)
    assert both.mean() > 0.6  # lists are pure by the test above, so one vector per user would serve one group


def test_interests_of_a_user_differ(model):
    history, _, _ = planted(99)
    with torch.inference_mode():
        vectors, active = model.encode_users({"history": torch.from_numpy(history)})
    unit = torch.nn.functional.normalize(vectors, dim=2)
    cosine = unit @ unit.transpose(1, 2)
    pairs = active[:, :, None] & active[:, None, :] & ~torch.eye(active.shape[1], dtype=torch.bool)
    assert cosine[pairs].mean() < 0.9
