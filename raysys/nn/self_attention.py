"""Attention over sets and sequences with padding: by a query vector, and of a sequence to itself.

Shape suffixes: B batch, T positions, D vector, H heads, C vector of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.nn.embedding import seeded_normal


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the last axis among the entries of the mask; zeros where a row has none.

    Args:
        logits: (..., T) floats.
        mask: bool, broadcast to the logits.
    """
    lowest = torch.finfo(logits.dtype).min  # not -inf: a row without entries would give NaN, and its gradient
    return logits.masked_fill(~mask, lowest).softmax(-1) * mask


def attend(query_BD: Tensor, keys_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the keys weighted by their product with the query, and the weights.

    Implements the user attention of Lv et al. 2019, "SDM: Sequential Deep Matching Model" (arXiv:1909.00385),
    sec. 3.3 and 3.4: alpha_k = exp(h_k . e_u) / sum_j exp(h_j . e_u), s = sum_k alpha_k h_k.

    Args:
        query_BD: e_u.
        keys_BTD: h; rows past the mask are ignored.
        mask_BT: True at real positions.
    Returns:
        (B, D), zero for an empty row, and (B, T), which sum to one, or to zero for an empty row.
    """
    weights_BT = masked_softmax((keys_BTD @ query_BD[:, :, None]).squeeze(2), mask_BT)
    return (weights_BT[:, None, :] @ keys_BTD).squeeze(1), weights_BT


def attend_to_prefixes(query_BD: Tensor, keys_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return what `attend` gives for the keys up to each position, (B, T, D).

    Args:
        query_BD, keys_BTD, mask_BT: as of `attend`; real positions come first in a row.
    """
    length = keys_BTD.shape[1]
    logits_BT = (keys_BTD @ query_BD[:, :, None]).squeeze(2)
    earlier_TT = torch.ones(length, length, dtype=torch.bool, device=mask_BT.device).tril()
    weights_BTT = masked_softmax(logits_BT[:, None, :], earlier_TT & mask_BT[:, None, :])
    return weights_BTT @ keys_BTD


class MultiHeadSelfAttention(nn.Module):
    """Multi-head self-attention of a sequence with padding.

    Implements sec. 3.3 of Lv et al. 2019 (arXiv:1909.00385): head_h = V softmax(Q^T K), Q = W_Q x, K = W_K x,
    V = W_V x, no bias; the heads are concatenated and mapped by W_O. The products are not divided by the root
    of the head's dimension, as the paper prints it, unless `scaled`.

    Args:
        dim: D, a multiple of `num_heads`.
        num_heads: H.
        scaled: divide the products by sqrt(D / H).
        causal: a position sees itself and earlier ones only.
        dropout: probability of dropping a weight in training, from torch's global generator.
        seed: of the start.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        scaled: bool = False,
        causal: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_heads, self.causal, self.dropout = num_heads, causal, dropout
        self.scale = 1.0 / math.sqrt(dim / num_heads) if scaled else 1.0
        self.inner = nn.Parameter(seeded_normal((3 * dim, dim), 1.0 / math.sqrt(dim), seed, "self_attention"))
        self.output = nn.Parameter(seeded_normal((dim, dim), 1.0 / math.sqrt(dim), seed, "heads"))

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return (B, T, D); rows past the mask hold no meaning, and neither do positions without a key.

        Args:
            x_BTD: the sequence; rows past the mask are ignored as keys.
            mask_BT: True at real positions.
        """
        rows, length, dim = x_BTD.shape
        parts = functional.linear(x_BTD, self.inner).reshape(rows, length, 3, self.num_heads, -1)
        query_BHTC, key_BHTC, value_BHTC = parts.permute(2, 0, 3, 1, 4)
        itself_TT = torch.eye(length, dtype=torch.bool, device=mask_BT.device)
        # a padded position sees itself: a softmax over nothing would be NaN
        seen = mask_BT[:, None, None, :] | itself_TT
        if self.causal:
            seen = seen & torch.ones_like(itself_TT).tril()
        dropout = self.dropout if self.training else 0.0
        attended_BHTC = functional.scaled_dot_product_attention(
            query_BHTC, key_BHTC, value_BHTC, attn_mask=seen, dropout_p=dropout, scale=self.scale
        )
        heads_BTD = attended_BHTC.transpose(1, 2).reshape(rows, length, dim)
        return functional.linear(heads_BTD, self.output)
