"""A small MIND for tests, and the whole model in NumPy, one user at a time, with the parameters of the small
one."""

from typing import NamedTuple

import numpy as np
import torch

from raysys.models.mind import Mind, MindConfig
from tests.reference import mind as reference
from tests.reference.losses import row_loss
from tests.reference.world import small_catalog

SMALL = {"embedding_dim": 6, "num_interests": 3, "history_length": 7, "hidden_dims": (10, 8)}


def build(loss="sampled_softmax", seed=0, catalog=None, **fields):
    return Mind(MindConfig(**{**SMALL, **fields}), catalog or small_catalog(), loss=loss, seed=seed)


def shaken(model, seed=5):
    """The model with parameters of recency and gates as after training: these start at zero or all open.

    Some interests of `small_batch` are closed then.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if model.recency is not None:
            model.recency.log_weight_AK.normal_(generator=generator)
        if model.gates is not None:
            model.gates.weight_D.normal_(generator=generator).mul_(10.0)
            model.gates.bias.zero_()
    return model


def doubled(model, batch):
    """The model and the batch in float64."""
    floats = {name: value.double() for name, value in batch.items() if value.is_floating_point()}
    return model.double(), {**batch, **floats}


def array(tensor):
    return tensor.detach().double().numpy()


def unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1.0, lengths)


class User(NamedTuple):
    """vectors (K, D), zero where not active; active (K,); routing weights of the last round (n, K') and gates
    (K',) of the interests that the length of the history allows; couplings (n, K) over the active ones."""

    vectors: np.ndarray
    active: list[bool]
    weights: np.ndarray
    gates: list[float]
    couplings: np.ndarray


class Reference:
    """The whole model in NumPy, with the parameters of `model`."""

    def __init__(self, model, catalog):
        self.config, self.catalog, self.model = model.config, catalog, model
        encoder = model.items
        sides = []
        for feature in encoder.features:
            parameter = getattr(encoder, "feature_" + feature.name.replace(".", "__"))
            sides.append((feature.kind, catalog.item_values[feature.name], array(parameter)))
        own = array(encoder.item)
        self.raw = np.array([reference.item_vector(j, own, sides) for j in range(catalog.num_items)])
        self.items = unit(self.raw) if model.config.normalize else self.raw

    def profile(self, batch, row):
        if not self.model.profile.features:
            return np.zeros(0)
        age = array(self.model.profile.feature_age)[int(batch["profile_age"][row])]
        likes = array(self.model.profile.feature_likes)
        values = [int(v) for v in batch["profile_likes"][row] if v]
        mean = sum(likes[v] for v in values) / len(values) if values else np.zeros(likes.shape[1])
        return np.concatenate([age, mean, [float(batch["profile_income"][row])]])

    def factors(self, batch, row, ages):
        """What each behaviour is multiplied by, per interest; `ages` count the columns from the latest."""
        if self.config.recency == "none":
            return None
        learnt = np.exp(array(self.model.recency.log_weight_AK))
        if self.config.recency == "gap":
            at = batch["history_at"][row].tolist()
            ages = [reference.gap_age(at[-1] - at[-1 - age]) for age in ages]
        return [learnt[age] for age in ages]

    def start(self, behaviours, ages, k):
        if self.config.routing_start == "farthest_point":
            mapped = reference.mapped(behaviours, array(self.model.routing.map_LD))
            cosines = reference.farthest_points(mapped, k) if mapped else []
            return [[self.config.routing_sigma * value for value in row] for row in cosines]
        if self.config.routing_start == "position":
            return reference.positions(ages, self.config.num_interests, self.config.routing_sigma)
        return [array(self.model.routing.start_TK)[age] for age in ages]

    def user(self, batch, row, length=None):
        """One user; `length` decides the number of interests in place of the number of items."""
        config = self.config
        history = batch["history"][row].tolist()[-config.history_length :]
        places = [column for column, item in enumerate(history) if item]
        behaviours = [self.raw[history[column]] for column in places]
        ages = [len(history) - 1 - column for column in places]
        k = reference.num_active(len(places) if length is None else length, config.num_interests)
        k = k if config.adaptive_interests else config.num_interests
        capsules, weights = reference.route(
            behaviours,
            array(self.model.routing.map_LD),
            self.start(behaviours, ages, k),
            config.routing_iterations,
            k,
            self.factors(batch, row, ages),
            config.squash_last,
        )
        latest = [0] * config.latest_items + history
        beside = [
            self.profile(batch, row),
            *(self.raw[latest[-i]] for i in range(1, config.latest_items + 1)),
        ]
        stack = [array(w) for w in self.model.layers.weights], [array(b) for b in self.model.layers.biases]
        vectors = [reference.layers(np.concatenate([u, *beside]), *stack) for u in capsules]
        if config.residual:
            vectors = [v + u for v, u in zip(vectors, capsules, strict=True)]
        vectors = unit(np.array(vectors)) if config.normalize else np.array(vectors)
        gates = [1.0] * k
        if config.learnt_quota:
            learnt = array(self.model.gates.weight_D), self.model.gates.bias.item()
            gates = [1.0, *(reference.gate(u, *learnt) for u in capsules[1:])]
        active = [gate >= 0.5 for gate in gates] + [False] * (config.num_interests - k)
        served, couplings = np.zeros((len(active), vectors.shape[1])), np.zeros((len(places), len(active)))
        for j in np.flatnonzero(active):
            served[j] = vectors[j]
            couplings[:, j] = weights[:, j] / weights[:, active[:k]].sum(1)
        return User(served, active, weights, gates, couplings)

    def loss(self, batch, lengths=None):
        """The training loss; `lengths` decide the numbers of interests in place of the histories."""
        config, total = self.config, 0.0
        num_users = len(batch["target"])
        for row, targets in enumerate(batch["target"].reshape(num_users, -1).tolist()):
            user = self.user(batch, row, None if lengths is None else int(lengths[row]))
            interests = user.vectors[user.active]
            targets = [target for target in targets if target]
            for target in targets:
                vector = interests
                if config.train_score == "label_aware":
                    vector, _ = reference.label_aware(interests, self.items[target], config.label_power)
                where = self.model.loss, vector, self.items, target, batch, row
                loss = row_loss(*where, config.temperature, config.hard_negatives)
                total += loss / len(targets) / num_users
            total += config.routing_regularisation * reference.variance(user.weights) / num_users
            if config.learnt_quota:
                total += config.learnt_quota * sum(user.gates) / num_users
        return total


def assert_users_equal(model, batch, lengths, columns):
    """Vectors, active interests and couplings of a small model equal those of `Reference`.

    Args:
        model, batch: in float64.
        lengths: of the histories in the batch.
        columns: of the batch's histories.
    """
    expected = Reference(model, small_catalog())
    vectors, active = model.encode_users(batch)
    couplings = model.couplings(batch)
    for row, length in enumerate(lengths):
        user, used = expected.user(batch, row), min(length, model.config.history_length)
        assert active[row].tolist() == user.active
        np.testing.assert_allclose(array(vectors[row]), user.vectors, atol=1e-10)
        np.testing.assert_allclose(array(couplings[row, columns - used :]), user.couplings, atol=1e-10)
        assert couplings[row, : columns - used].abs().sum() == 0
        assert vectors[row, ~active[row]].abs().sum() == 0
    everything = torch.arange(model.items.num_items)
    np.testing.assert_allclose(array(model.encode_items(everything)), expected.items, atol=1e-10)
