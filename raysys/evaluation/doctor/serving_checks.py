"""Checks of serving: whether what is searched is what was trained, and whether a user's vectors depend on the
user only.

Shape suffixes: B batch, K interests, D vector, M items.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.doctor.probes import margin_of, one_row, step_loss
from raysys.evaluation.findings import plural
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.exact import Metric

_TOLERANCE = 2e-3
"""Of scores, over their size or 1: float32 sums of hundreds of products, inverted through a logarithm."""
SAME_VECTOR = 1e-4
"""Of vectors, over their length: other batches round sums in another order."""
SLACK = 1e-4
"""Of scores, over their size or 1: how much worse an item may be than the next one and still be in order."""
_PADDED = 3


@dataclass(frozen=True)
class Exported:
    """What one pass over `vectors/items.parquet` found.

    Attributes:
        rows: rows of the file.
        reserved: rows of padding, unknown or no item of the vocabulary.
        misplaced: rows whose item_id is not that of its item_idx, and items of the vocabulary without a row.
        not_finite: rows with NaN or infinity.
        compared: rows that were compared with the checkpoint; `differ` of them are another vector than it
            gives, and `largest` is the largest difference over the vector's length.
        wanted: item_idx -> vector (D,), of items asked for.
    """

    rows: int
    reserved: int
    misplaced: int
    not_finite: int
    compared: int
    differ: int
    largest: float
    wanted: Mapping[int, np.ndarray]


def differences(found_MD: np.ndarray, expected_MD: np.ndarray) -> np.ndarray:
    """Return (M,) distances of vectors over the length of the expected ones; NaN counts as infinite."""
    length = np.maximum(np.linalg.norm(expected_MD, axis=-1), 1e-12)
    with np.errstate(invalid="ignore"):
        gap = np.linalg.norm(found_MD - expected_MD, axis=-1) / length
    return np.where(np.isnan(gap), np.inf, gap)


def exported_vectors(exported: Exported) -> Check:
    """Compare the exported item vectors with those of the checkpoint, and their ids with the vocabulary."""
    bad = exported.differ + exported.misplaced + exported.not_finite
    return judged(
        "exported_vectors",
        f"{plural(exported.rows, 'row')} of vectors/items.parquet, {exported.compared:,} against checkpoint/",
        f"{exported.differ:,} are another vector (largest difference {exported.largest:.2g} of its length), "
        f"{exported.misplaced:,} with the id of another item or missing, {exported.not_finite:,} not finite",
        "delete vectors/ and index/ and run jobs/export.py and jobs/index.py again",
        fault=bad > 0,
        figures={
            "rows": exported.rows,
            "differ": exported.differ,
            "misplaced": exported.misplaced,
            "not_finite": exported.not_finite,
        },
    )


def training_similarity(
    model: Any,
    loss: str,
    batch: Mapping[str, np.ndarray],
    rows: list[int],
    items: list[int],
    vectors: Mapping[int, np.ndarray],
) -> Check:
    """Compare the scores that the training loss uses with those of the served vectors, for the same users and
    items; the temperature may divide them.

    The loss of one row with one negative is ln(1 + exp(s_negative - s_target)), so it tells the difference of
    two scores, whatever is between the vectors and the loss.

    Args:
        model: with `encode_users`, in evaluation mode.
        loss: of `[training]`.
        batch: of training.
        rows: of the batch.
        items: item_idx, the first of them is the target of every row.
        vectors: item_idx -> exported vector.
    """
    name = "training_similarity"
    worst, compared = 0.0, 0
    for row in rows:
        users = one_row(batch, row)
        with torch.inference_mode():
            vectors_BKD, active_BK = model.encode_users(users)
        interests = vectors_BKD[0][active_BK[0]].double().numpy()
        scores = served_scores(interests, np.stack([vectors[item] for item in items]), model.config)
        for place in range(1, len(items)):
            found = score_difference(model, loss, users, items[0], items[place])
            expected = scores[place] - scores[0]
            if found is not None:
                compared += 1
                gap = abs(found - expected) / max(1.0, abs(expected))
                worst = max(worst, math.inf if math.isnan(gap) else gap)
    if not compared:
        return not_checked(name, f"training.loss = {loss!r} tells no single scores")
    return judged(
        name,
        f"{plural(compared, 'pair')} of a user and an item, the loss against checkpoint/ and vectors/",
        f"scores in training and serving differ by {worst:.2g} at most",
        "train and serve by one similarity: where the loss compares cosines, export vectors of length one "
        "(model.normalize does both), else the vectors as they are; run jobs/export.py and jobs/index.py "
        "again",
        fault=not worst <= _TOLERANCE,
        figures={"pairs": compared, "largest": worst},
    )


def served_scores(interests_KD: np.ndarray, items_MD: np.ndarray, config: Any) -> np.ndarray:
    """Return the scores of items by the definition, (M,), divided by the temperature; the first item is the
    target that label-aware attention looks at, where the model's loss has it."""
    scores_KM = interests_KD @ items_MD.T.astype(np.float64)
    if getattr(config, "train_score", "served") == "served":
        return scores_KM.max(axis=0) / config.temperature
    power = config.label_power
    if math.isinf(power):
        return scores_KM[scores_KM[:, 0].argmax()] / config.temperature
    raised = np.maximum(scores_KM[:, 0], 0) ** power if power else np.zeros(len(scores_KM))
    weights = np.exp(raised - raised.max())
    return (weights / weights.sum()) @ scores_KM / config.temperature


def score_difference(
    model: Any, loss: str, users: Mapping[str, Tensor], target: int, other: int
) -> float | None:
    """Return the score of `other` less that of `target` in the training loss, None where it does not tell."""
    goal, negative = torch.tensor([target]), torch.tensor([other])
    if loss == "full_softmax":
        if getattr(model.config, "train_score", "served") != "served":
            return None  # the user vector is another one for every target
        return step_loss(model, users, goal) - step_loss(model, users, negative)
    if loss == "in_batch":
        # the second row, whose target is the other item, has a negative of no weight, so its loss is 0
        twice = {key: torch.cat([value, value]) for key, value in users.items()}
        both = torch.tensor([target, other])
        value = 2 * step_loss(model, twice, both, target_log_expected=[200.0, 0.0])
    elif loss == "gbce":
        if getattr(model.config, "train_score", "served") != "served":
            return None  # as above
        # with a target without weight the loss tells the score of the negative
        single = [
            margin_of(2 * step_loss(model, users, a, b, beta=0.0))
            for a, b in ((goal, negative), (negative, goal))
        ]
        return single[0] - single[1] if all(map(math.isfinite, single)) else None
    else:
        value = step_loss(model, users, goal, negative)
    margin = margin_of(value)
    return margin if math.isfinite(margin) else None


def index_order(
    queries_QD: np.ndarray,
    answers: Candidates,
    vectors: Mapping[int, np.ndarray],
    better: np.ndarray,
    metric: Metric,
    kind: str,
) -> Check:
    """Compare the order in which the index answers with the inner products that the model was trained for.

    Args:
        queries_QD: user vectors.
        answers: (Q, k) of the index.
        vectors: item_idx -> exported vector, of all answers.
        better: (Q,) how many items of the whole catalogue have a larger inner product than the worst answer.
        metric, kind: of the index.
    """
    turned = pairs = 0
    for query, items in zip(queries_QD.astype(np.float64), answers.item_idx, strict=True):
        found = [vectors[item] for item in items.tolist() if item in vectors]
        if len(found) > 1:
            scores = np.stack(found) @ query
            slack = SLACK * max(1.0, float(np.abs(scores).max()))
            turned += int((np.diff(scores) > slack).sum())
            pairs += len(scores) - 1
    exact = kind in ("exact", "flat")
    spare = np.maximum((answers.item_idx >= 0).sum(axis=1) - 1, 0)
    missed = float(np.maximum(better - spare, 0).mean())
    share = turned / max(pairs, 1)
    return judged(
        "index_order",
        f"{plural(len(queries_QD), 'search', 'searches')} of index/ (kind {kind}, metric {metric}), against "
        "inner products with vectors/",
        f"{share:.2%} of neighbouring answers are in another order, {missed:.1f} better items per search are "
        "left out",
        'set index.metric = "model", so that the index compares as the loss does, and run jobs/index.py '
        "again",
        fault=share > 0.001 or (exact and missed > 0.5),
        warning=missed > 0.5 * answers.k,
        figures={"turned_share": share, "missed": missed},
    )


def same_user_same_vectors(model: Any, batch: Mapping[str, Tensor]) -> Check:
    """Encode the same users together, in reverse, alone, twice, and with more padding: the vectors must not
    change.

    Args:
        model: with `encode_users`, in evaluation mode.
        batch: users, without targets; histories are padded with 0 on the left.
    """
    size = len(next(iter(batch.values())))
    reverse = torch.arange(size - 1, -1, -1)
    ways = {
        "asked twice": batch,
        "in reverse order": {name: values[reverse] for name, values in batch.items()},
        "with more padding": {name: _pad(name, values) for name, values in batch.items()},
    }
    with torch.inference_mode():
        expected, active = model.encode_users(batch)
        worst: dict[str, float] = {}
        for way, changed in ways.items():
            found, still = model.encode_users(changed)
            back = reverse if way == "in reverse order" else torch.arange(size)
            worst[way] = _change(found[back], still[back], expected, active)
        alone = [model.encode_users({n: v[row : row + 1] for n, v in batch.items()}) for row in range(size)]
        worst["alone"] = _change(
            torch.cat([v for v, _ in alone]), torch.cat([a for _, a in alone]), expected, active
        )
    bad = [way for way, change in worst.items() if not change <= SAME_VECTOR]
    return judged(
        "same_user_same_vectors",
        f"{plural(size, 'user')} encoded together, in reverse order, alone, twice and with more padding",
        f"vectors change by {max(worst.values()):.2g} of their length at most"
        + (f" ({', '.join(bad)})" if bad else ""),
        "padding has to be masked in every sum and softmax of the model, and nothing may be drawn or shared "
        "over users while serving (dropout, starting logits, batch statistics)",
        fault=bool(bad),
        figures={way.replace(" ", "_"): change for way, change in worst.items()},
    )


def _pad(name: str, values: Tensor) -> Tensor:
    if not name.startswith(("history", "short", "long_")):
        return values
    return torch.nn.functional.pad(values, (_PADDED, 0))


def _change(found: Tensor, still: Tensor, expected: Tensor, active: Tensor) -> float:
    """Return the largest change of a user's vectors over the length of its longest; infinite where another
    interest is active."""
    if not torch.equal(still, active):
        return math.inf
    moved = (found - expected).norm(dim=2).amax(1) / expected.norm(dim=2).amax(1).clamp(min=1e-12)
    return float(moved.nan_to_num(nan=math.inf).max())
