"""`[model]` with name = "mind". Without torch, so that a run file is read without it."""

import math
from dataclasses import dataclass
from typing import Literal

from raysys.config import require
from raysys.data.splits import SplitConfig
from raysys.nn.loss_inputs import AMONG_TARGETS, check_hardness
from raysys.schema import ALL_FEATURES


@dataclass(frozen=True, kw_only=True)
class MindConfig:
    """The fields of `[model]` with name = "mind"; "the paper" is arXiv:1904.08030."""

    embedding_dim: int = 64
    """Length of item, interest and profile feature vectors. The paper: 64 (TmallData), 36 (Amazon Books)."""
    num_interests: int = 4
    """K, the most interests a user can have. The paper: 5 (TmallData), 3 (Amazon Books)."""
    routing_iterations: int = 3
    """Routing rounds, >= 1. The paper: 3."""
    adaptive_interests: bool = True
    """Give a user with n items max(1, min(K, floor(log2 n))) interests (the paper, eq. 9), not all K."""
    routing_sigma: float = 1.0
    """Standard deviation of the starting logits. The paper: 1, and 0.1 to 5 made no difference."""
    routing_gradient: Literal["last", "all"] = "last"
    """Routing rounds that the gradient goes through. The paper does not say."""
    label_power: float = math.inf
    """p of label-aware attention: 0 weighs interests equally, inf (the paper's best) takes the best one."""
    hidden_dims: tuple[int, ...] = (128,)
    """Widths of the ReLU layers after interest and profile are joined. The paper gives no widths."""
    history_length: int = 50
    """Items of the history that are used, the latest ones. The paper does not say."""
    most_frequent_of: int = 0
    """0: the history holds the latest items (the paper). n: it holds, each once, the items that are most
    frequent among the latest n events, the most frequent in the place of the latest; for repeat purchase."""
    dropout: float = 0.0
    """Probability of dropping a unit of the ReLU layers in training, in [0, 1)."""
    num_negatives: int = 512
    """Negatives of a step, shared by the global batch; unused with the losses full_softmax and in_batch.
    The paper: not said."""
    temperature: float = 1.0
    """Divisor of the scores in the loss. The paper: none, which is 1."""
    normalize: bool = False
    """Scale item and user vectors to length one, in training and in the index alike, for cosine scores.

    Under a finite `label_power` the mix of interests is not scaled again."""
    item_features: tuple[str, ...] = (ALL_FEATURES,)
    """Item features that join the item's own embedding; ["*"] is all of them, [] none."""
    profile_features: tuple[str, ...] = (ALL_FEATURES,)
    """User features that join each interest; ["*"] is all of them, [] none."""

    recency: Literal["none", "slot", "gap"] = "none"
    """Learned weight of a behaviour in the routing, per interest: by its place counted back from the latest
    (slot), or by the power of two of the seconds between it and the latest (gap). Not in the paper."""
    residual: bool = False
    """Add the interest to what the layers make of it. Not in the paper."""
    squash_last: bool = True
    """Squash in the last routing round too (the paper); without it an interest keeps the length of its
    sum."""
    latest_items: int = 0
    """How many of the latest items join each interest before the layers, one by one. The paper: 0."""
    train_score: Literal["label_aware", "served"] = "label_aware"
    """What the loss compares: label_aware mixes the interests by the target (the paper); served takes the
    largest score over the interests, for every candidate, as the index does."""
    next_items: int = 1
    """Targets of a sample: the next events of the user. The paper: 1."""
    hard_negatives: float = 0.0
    """How much more negatives weigh that an interest scores high (`nn.losses`); 0, the paper: alike."""
    routing_regularisation: float = 0.0
    """Weight of the variance of an interest's routing weights over the behaviours, which keeps it from
    holding on to single ones; needs `routing_gradient = "all"`. The paper: 0."""
    routing_start: Literal["gaussian", "farthest_point", "position"] = "gaussian"
    """Starting logits: drawn (the paper); or `routing_sigma` times the cosine with behaviours of the user
    that lie far apart; or `routing_sigma` for the interest of the behaviour's place modulo K, 0 for others,
    which deals the history out to the interests."""
    map_start: Literal["gaussian", "identity"] = "gaussian"
    """What the shared map S starts as; under identity an interest begins near its behaviours, which suits
    repeat purchase. The paper does not say."""
    learnt_quota: float = 0.0
    """Weight of the mean number of open interests in the loss: gates learn which interests a user has, within
    K'_u. 0, the paper: all of K'_u are open."""
    history_dropout: float = 0.0
    """Probability of dropping an item of the history in training, in [0, 1). The paper: not said."""

    def __post_init__(self) -> None:
        counts = ("embedding_dim", "num_interests", "routing_iterations", "history_length", "num_negatives")
        for name in (*counts, "next_items"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        for name in ("routing_sigma", "temperature"):
            value = getattr(self, name)
            require(0.0 < value < math.inf, f"{name}: found {value}, expected above 0 and finite")
        require(self.label_power >= 0.0, f"label_power: found {self.label_power}, expected >= 0 or inf")
        for name in ("dropout", "history_dropout"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"{name}: found {value}, expected in [0, 1)")
        for name in (
            "most_frequent_of",
            "latest_items",
            "hard_negatives",
            "routing_regularisation",
            "learnt_quota",
        ):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name}: found {value}, expected >= 0 and finite")
        require(
            not self.routing_regularisation
            or (self.routing_gradient == "all" and self.routing_iterations > 1),
            f"routing_regularisation: found {self.routing_regularisation}, which has no gradient unless "
            'routing_gradient = "all" and routing_iterations >= 2',
        )
        widths = list(self.hidden_dims)
        require(all(width >= 1 for width in widths), f"hidden_dims: found {widths}, expected widths >= 1")

    def check(self, loss: str, split: SplitConfig) -> None:
        """Raise ConfigError where an option does not go with the loss of `[training]`; with every split all
        do."""
        require(
            self.next_items == 1 or loss not in AMONG_TARGETS,
            f"model.next_items: found {self.next_items} with training.loss = {loss!r}, whose candidates are "
            "the targets of the batch, one a row; expected 1 or another loss",
        )
        check_hardness(self.hard_negatives, loss)
