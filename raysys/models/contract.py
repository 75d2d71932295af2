"""The protocols that cover every model: two ways to learn, three ways to answer. Structural, nothing to
inherit.

Shape suffixes: B batch, T history, K interests, D vector.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from raysys.data.interactions import Interactions
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape

Batch = Mapping[str, Tensor]
"""Named tensors of one step. What it holds is declared by the model as a
`raysys.data.shapes.SampleShape`; by default

    history      (B, T) int64    item_idx, oldest first, padded with 0 on the left: the latest is at T - 1
    target       (B,) int64      item_idx to predict (training only)
    profile_*    (B,) int64, (B, L) int64 or (B,) float32   one per user feature

and in training what `raysys.nn.loss_inputs.LossInputs` adds for the loss:

    negatives    (N,) int64      item_idx shared by the whole global batch
    log_expected (N,) float32    log of the expected count of each negative among the candidates of a step
    target_log_expected  (B,) float32   the same of each target, where targets are candidates of other rows
    gbce_beta    () float32      power of the positive's probability
"""


@runtime_checkable
class GradientModel(Protocol):
    """An `nn.Module` built as `Model(config, catalog, seed=...)`, learning by gradient descent."""

    @staticmethod
    def samples(config: Any, session: SessionConfig) -> SampleShape:
        """Return what the model's batches hold, as a function of its config and the run's `[session]`."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"loss": scalar, ...}; further scalars are logged. This is the training loss and nothing
        else."""
        ...


@runtime_checkable
class RowModel(Protocol):
    """Counting: pure and stateless, built as `Model(config)`; its rows are a table that answers."""

    source: Literal["item", "user"]
    """What the rows of the table belong to."""

    @staticmethod
    def samples(config: Any, session: SessionConfig) -> SampleShape:
        """Return what the batches of queries hold, as a function of the config and the run's `[session]`."""
        ...

    def weigh(self, seen: Interactions) -> Interactions:
        """Return the matrix as `rows` wants it; computed once and shared by all blocks."""
        ...

    def rows(self, seen: Interactions, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return item_idx (R, n) int64 and score (R, n) float32 of the sources in `block` (R,), best first.

        Ordered by (score down, item_idx up); -1 and -inf where a source has fewer. A row does not depend on
        the others of its block.
        """
        ...

    def seeds(self, batch: Mapping[str, Any]) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Return (offsets (B + 1,), table rows) int64, ragged per query, and the weight of each seed."""
        ...


@runtime_checkable
class VectorModel(Protocol):
    """A model that answers with vectors; the score of an item is the maximum inner product over the
    interests."""

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """(B,) int64 -> (B, D) float32, exactly what the index holds."""
        ...

    def encode_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return vectors (B, K, D) float32 and active (B, K) bool; inactive vectors are zero and never
        searched."""
        ...


@runtime_checkable
class InterestModel(Protocol):
    """A vector model that can say how much each behaviour belongs to each interest."""

    def couplings(self, batch: Batch) -> Tensor:
        """(B, T, K) float32; rows sum to one over the active interests, zero on padding."""
        ...


@runtime_checkable
class FusionModel(Protocol):
    """A vector model of a session and long-term sets that can say what drove a user's vector."""

    def fusion(self, batch: Batch) -> dict[str, Tensor]:
        """Return `short` (B, S) and `long_<name>` (B, L), float32 weights of what the batch holds under these
        names, which sum to one, or to zero where there is nothing, and `gate` (B,), the share of the session
        in the vector; what the model does not have is left out."""
        ...
