"""`[model]` with name = "mind". Without torch, so that a run file is read without it."""

import math
from dataclasses import dataclass
from typing import Literal

from raysys.config import require
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

    def __post_init__(self) -> None:
        counts = ("embedding_dim", "num_interests", "routing_iterations", "history_length", "num_negatives")
        for name in counts:
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        for name in ("routing_sigma", "temperature"):
            value = getattr(self, name)
            require(0.0 < value < math.inf, f"{name}: found {value}, expected above 0 and finite")
        require(self.label_power >= 0.0, f"label_power: found {self.label_power}, expected >= 0 or inf")
        require(0.0 <= self.dropout < 1.0, f"dropout: found {self.dropout}, expected in [0, 1)")
        widths = list(self.hidden_dims)
        require(all(width >= 1 for width in widths), f"hidden_dims: found {widths}, expected widths >= 1")
