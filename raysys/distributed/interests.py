"""What a model tells of a block of users beside their answers: interest health, and the gates of a fusion.

Interest health comes from the search that answered the users: no item is searched twice. Validation while
training and the evaluation call the same function, so their figures compare.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysys.evaluation.gate import GateValues
from raysys.evaluation.health import InterestHealth, interest_order, winning_interest
from raysys.evaluation.metrics import Truth
from raysys.models.contract import Batch, FusionModel
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.vectors import Found, serving
from raysys.schema import PADDING_IDX


def block_health(
    model: Any, batch: Batch, found: Found, answer: Candidates, alone: Candidates, truth: Truth
) -> InterestHealth:
    """Return the interest health of some users; an interest wins where it scores the first candidate best.

    Args:
        model: an `InterestModel` with item vectors, in any mode.
        batch: the users, as the model reads them, on the model's device.
        found: what `VectorRetriever.find` found for them.
        answer: what they were answered with, `found.together()`.
        alone: what each interest finds by itself, `found.alone(cutoff)`: as many items are looked at when
            only the first interests answer; at most those of `answer`.
        truth: what was held out of each.
    """
    first = answer.item_idx[:, 0]
    with serving(model):
        couplings_BTK = _array(model.couplings(batch))
        asked = torch.from_numpy(np.maximum(first, 0)).to(batch["history"].device)
        items_BD = _array(model.encode_items(asked))
    history_BT = batch["history"].cpu().numpy()[:, -couplings_BTK.shape[1] :] > 0
    winners = np.where(first >= 0, winning_interest(found.vectors, found.active, items_BD), -1)
    health = InterestHealth(found.active.shape[1], alone.k)
    health.add(found.vectors, found.active, couplings_BTK, history_BT, winners)
    health.add_answers(alone, interest_order(couplings_BTK, history_BT, found.active), truth)
    return health


def block_gates(model: FusionModel, batch: Batch) -> GateValues | None:
    """Return the gates of some users with the lengths of their sessions; None for another kind of fusion."""
    with serving(model):
        found = model.fusion(batch)
    if "gate" not in found:
        return None
    lengths = (batch["short"] != PADDING_IDX).sum(1).cpu().numpy()
    return GateValues(lengths.astype(np.int64), _array(found["gate"]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
