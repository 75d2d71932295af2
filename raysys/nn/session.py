"""A session as vectors: LSTM over its steps, and self-attention among them.

Shape suffixes: B batch, S session, D vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.nn.lstm import LstmLayers
from raysys.nn.self_attention import MultiHeadSelfAttention
from raysys.schema import PADDING_IDX


class Session(NamedTuple):
    """A left-aligned session: outputs (B, S, D), which steps are real (B, S), their item_idx (B, S) and where
    each stood in the batch (B, S)."""

    outputs: Tensor
    mask: Tensor
    items: Tensor
    places: Tensor


def left_aligned(short_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a session left-aligned and without gaps: items, which are real, and where each stood, (B, S)."""
    columns = short_BS.shape[1]
    # dropped items leave gaps, which a shift would keep; no two keys are equal, as ONNX has no stable sort
    keys_BS = torch.arange(columns, device=short_BS.device) + columns * (short_BS == PADDING_IDX)
    places_BS = keys_BS.argsort(dim=1)
    items_BS = short_BS.gather(1, places_BS)
    return items_BS, items_BS != PADDING_IDX, places_BS


class SessionEncoder(nn.Module):
    """The outputs of all steps of a session.

    Implements sec. 3.3 of Lv et al. 2019 (arXiv:1909.00385) without its user attention: LSTM, then
    self-attention among the outputs.

    Args:
        dim: D.
        num_layers, num_residual: of the LSTM, see `LstmLayers`.
        num_heads: of the self-attention, see `MultiHeadSelfAttention`; 0 for none.
        scaled, causal: likewise.
        residual: add the LSTM's output to what the self-attention makes of it.
        layer_norm: layer norm before and after the self-attention, as in the authors' program.
        dropout: probability of dropping a number of inputs, outputs and attention weights in training.
        seed: of the start.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int = 1,
        num_residual: int = 0,
        num_heads: int = 4,
        scaled: bool = False,
        causal: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.residual, self.dropout = residual, dropout
        self.lstm = LstmLayers(dim, num_layers, num_residual=num_residual, dropout=dropout, seed=seed)
        self.heads = None
        if num_heads:
            self.heads = MultiHeadSelfAttention(
                dim, num_heads, scaled=scaled, causal=causal, dropout=dropout, seed=seed
            )
        norms = layer_norm * (1 + bool(num_heads))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(norms))

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Return (B, S, D); rows past the mask hold no meaning.

        Args:
            x_BSD: inputs of the steps, left-aligned.
            mask_BS: True at real steps.
        """
        h_BSD = self.lstm(functional.dropout(x_BSD, self.dropout, self.training))
        if self.norms:
            h_BSD = self.norms[0](h_BSD)
        if self.heads is not None:
            attended_BSD = self.heads(h_BSD, mask_BS)
            h_BSD = h_BSD + attended_BSD if self.residual else attended_BSD
            if self.norms:
                h_BSD = self.norms[1](h_BSD)
        return functional.dropout(h_BSD, self.dropout, self.training)
