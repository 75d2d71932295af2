"""`[model]` with name = "item_cf". Without torch, so that a run file is read without it."""

from dataclasses import dataclass
from typing import Literal

from raysys.config import require


@dataclass(frozen=True, kw_only=True)
class ItemCfConfig:
    """The fields of `[model]` with name = "item_cf"."""

    similarity: Literal["cosine", "tf_idf", "bm25"] = "cosine"
    """How alike two items are, from the users that they share: cosine of the counts, cosine of the tf-idf
    weights, or product of the BM25 weights."""
    num_neighbours: int = 100
    """Most similar items that are kept per item, besides itself."""
    history_length: int = 50
    """Events of the history that are seeds, the latest ones."""
    decay: float = 0.9
    """Weight of a seed per event counted back from the latest one, whose weight is 1; in (0, 1], where 1 is
    no decay."""
    bm25_k1: float = 1.2
    """BM25: how slowly the weight of repeated events saturates; 0 counts each user once. Others do not use
    it."""
    bm25_b: float = 0.75
    """BM25: how much popular items are held back, in [0, 1]. Others do not use it."""

    def __post_init__(self) -> None:
        for name in ("num_neighbours", "history_length"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        require(0.0 < self.decay <= 1.0, f"decay: found {self.decay}, expected above 0 and at most 1")
        finite = 0.0 <= self.bm25_k1 < float("inf")
        require(finite, f"bm25_k1: found {self.bm25_k1}, expected >= 0 and finite")
        require(0.0 <= self.bm25_b <= 1.0, f"bm25_b: found {self.bm25_b}, expected in [0, 1]")
