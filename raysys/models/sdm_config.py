"""`[model]` with name = "sdm". Without torch, so that a run file is read without it."""

import math
from dataclasses import dataclass
from typing import Literal

from raysys.config import require
from raysys.data.splits import SplitConfig
from raysys.nn.loss_inputs import AMONG_TARGETS, check_hardness
from raysys.schema import ALL_FEATURES


@dataclass(frozen=True, kw_only=True)
class SdmConfig:
    """The fields of `[model]` with name = "sdm"; "the paper" is arXiv:1909.00385."""

    embedding_dim: int = 64
    """Length of item, feature, state and user vectors. The paper does not give one for all."""
    history_length: int = 50
    """Events that session and long-term sets are cut from, the latest ones; what the window of `[session]`
    holds beyond them is left out."""
    long_features: tuple[str, ...] = ("item",)
    """Long-term sets: "item", names of item features, "event_<feature>". The paper: item, leaf category,
    first-level category, brand, shop."""
    event_features: tuple[str, ...] = ()
    """Event features that join the items of the session, such as the store of a purchase."""
    item_features: tuple[str, ...] = (ALL_FEATURES,)
    """Item features that join the item's own embedding; ["*"] is all of them, [] none."""
    profile_features: tuple[str, ...] = (ALL_FEATURES,)
    """User features of the profile vector; ["*"] is all of them, [] none: then the query is learnt alone."""
    lstm_layers: int = 1
    """LSTM layers over the session, at least 1. The authors' program: 2."""
    lstm_residual: int = 0
    """The last so many LSTM layers add their input to their output. The authors' program: 1."""
    num_heads: int = 4
    """Heads of the self-attention of the session; `embedding_dim` is a multiple of it. The paper: 2 to 8."""
    self_attention: bool = True
    """Let the steps of the session attend to each other; without it the LSTM's outputs go on as they are."""
    scaled_attention: bool = False
    """Divide the products of the self-attention by the root of the head's dimension. The paper: no."""
    attention_residual: bool = False
    """Add the LSTM's output to what the self-attention makes of it. The paper: no."""
    user_attention: bool = True
    """Weigh session and sets by the profile vector; without it the last step and the plain mean answer."""
    set_query: Literal["profile", "session"] = "profile"
    """What weighs the values of the sets: the profile vector (the paper), or that plus a linear map of the
    short term, so that the session decides what of the long term matters."""
    layer_norm: bool = False
    """Layer norm before and after the self-attention, as in the authors' program; not in the paper."""
    fusion: Literal["gate", "concat", "short", "long"] = "gate"
    """What makes one vector of both terms: the paper's gate, a linear map of the two, or one alone."""
    train_positions: Literal["last", "every"] = "last"
    """Which steps of the session have targets in training: the last one, or every one, each the items that
    follow it; the self-attention is then causal, in serving too. The authors' program: every."""
    next_items: int = 1
    """Targets of a step: the next events of the user. The authors' program: 5."""
    residual: bool = False
    """Add the latest item's vector, weighed by a learnt number, to the user vector. The paper: no."""
    dropout: float = 0.0
    """Probability of dropping a number of the session's inputs and outputs and of what the sets give, in
    [0, 1)."""
    history_dropout: float = 0.0
    """Probability of dropping an item of the session, but for the latest, or of a set, in training."""
    num_negatives: int = 512
    """Negatives of a step, shared by the global batch; unused with the losses full_softmax and in_batch."""
    temperature: float = 1.0
    """Divisor of the scores in the loss. The paper: none, which is 1."""
    normalize: bool = False
    """Scale item and user vectors to length one, in training and in the index alike, for cosine scores."""
    hard_negatives: float = 0.0
    """How much more negatives weigh that the user vector scores high (`nn.losses`); 0: alike."""

    def __post_init__(self) -> None:
        counts = ("embedding_dim", "history_length", "lstm_layers", "num_heads", "next_items")
        for name in (*counts, "num_negatives"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        require(
            self.embedding_dim % self.num_heads == 0,
            f"num_heads: found {self.num_heads}, expected a divisor of embedding_dim = {self.embedding_dim}",
        )
        require(
            0 <= self.lstm_residual <= self.lstm_layers,
            f"lstm_residual: found {self.lstm_residual}, expected 0 to lstm_layers = {self.lstm_layers}",
        )
        require(
            0.0 < self.temperature < math.inf,
            f"temperature: found {self.temperature}, expected above 0 and finite",
        )
        for name in ("dropout", "history_dropout"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"{name}: found {value}, expected in [0, 1)")
        require(
            0.0 <= self.hard_negatives < math.inf,
            f"hard_negatives: found {self.hard_negatives}, expected >= 0 and finite",
        )
        found = f"long_features: found {list(self.long_features)}"
        require(bool(self.long_features), f'{found}, expected one at least, such as ["item"]')
        require(len(set(self.long_features)) == len(self.long_features), f"{found}, expected each once")
        both = self.user_attention and self.fusion in ("gate", "concat") and self.train_positions == "last"
        require(
            self.set_query == "profile" or both,
            f'set_query: found "session" with fusion = "{self.fusion}", train_positions = '
            f'"{self.train_positions}" and user_attention = {self.user_attention}; expected both terms, '
            '"last" and true',
        )
        every = self.train_positions == "every"
        require(
            not every or self.fusion != "long",
            'train_positions: found "every" with fusion = "long", which has no steps; expected "last"',
        )

    @property
    def one_target(self) -> bool:
        """Whether every row of a batch has one target."""
        return self.next_items == 1 and self.train_positions == "last"

    def check(self, loss: str, split: SplitConfig) -> None:
        """Raise ConfigError where an option does not go with the loss of `[training]` or with `[split]`."""
        require(
            self.one_target or loss not in AMONG_TARGETS,
            f"model.next_items: found {self.next_items} and train_positions {self.train_positions!r} with "
            f"training.loss = {loss!r}, whose candidates are the targets of the batch, one a row; expected "
            '1 and "last", or another loss',
        )
        check_hardness(self.hard_negatives, loss)
        self._check_split(split)

    def _check_split(self, split: SplitConfig) -> None:
        """Refuse targets at every step where these would be others than those of the split."""
        if self.train_positions == "last":
            return
        found = 'model.train_positions: found "every" with'
        require(
            not split.target_events,
            f"{found} split.target_events, under which the other events of a session are no targets; "
            'expected "last"',
        )
        require(
            split.unit == "event",
            f'{found} split.unit = "session", under which a session is not shown to its own events; expected '
            '"last"',
        )
