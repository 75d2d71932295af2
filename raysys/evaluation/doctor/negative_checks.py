"""Checks of negatives: what the run's sampler draws, how it is corrected, and what the loss makes of a draw
that is the target.

Shape suffixes: B batch, V catalogue, N negatives.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.doctor.probes import LossModel, margin_of, one_row, step_loss
from raysys.evaluation.findings import plural
from raysys.nn.loss_inputs import AMONG_TARGETS, WITH_NEGATIVES
from raysys.schema import NUM_RESERVED
from raysys.training_config import TrainingConfig

DRAWS = 200_000
"""Negatives that are drawn to look at a sampler."""
_MOST_STEPS = 20_000
_BINS = 50
_SIGMAS = 6.0
"""Standard deviations of chance beyond which a difference is none of chance: below 1 in 10^8."""
_TOLERANCE = 1e-4
_TRIED = 16
CORRECTED = frozenset({"sampled_softmax", "mixed"})
"""Losses that correct drawn negatives for how likely they are."""

Draw = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Step -> item_idx (N,) of the negatives, and ln of the expected count of each among the candidates (N,)."""


def accidental_hits(
    model: LossModel, training: TrainingConfig, batches: list[dict[str, np.ndarray]], counts: np.ndarray
) -> Check:
    """Count the negatives of real batches that are the row's target, and try whether the loss leaves them
    out: its value must not change when the target is put among the negatives of a row.

    Args:
        model: in evaluation mode.
        training: loss and batch size.
        batches: of training, with what the loss needs.
        counts: (V,) training events by item_idx.
    """
    name, loss = "accidental_hits", training.loss
    if loss not in WITH_NEGATIVES | AMONG_TARGETS:
        return not_checked(name, f"training.loss = {loss!r} compares with every item; there are no negatives")
    pairs = hits = others = 0
    expected = 0.0
    share = np.maximum(counts, 1) / np.maximum(counts, 1)[NUM_RESERVED:].sum()
    for batch in batches:
        targets = batch["target"].reshape(len(batch["target"]), -1)
        first = targets[:, 0]
        for candidates, likely, own in _candidates(loss, batch, expected_prob(training, counts), share):
            pairs += len(first) * len(candidates) - own
            hits += int((first[:, None] == candidates).sum()) - own
            others += int((targets[:, 1:, None] == candidates).sum())
            expected += float(likely[first].sum()) * (len(candidates) - (own > 0))
    change = max(
        _change_by_hits(model, loss, batches[0], row) for row in range(min(_TRIED, len(batches[0]["target"])))
    )
    rows = sum(len(batch["target"]) for batch in batches)
    return judged(
        name,
        f"{plural(rows, 'row')} of {plural(len(batches), 'batch', 'batches')} with the run's own sampler",
        f"{hits:,} of {pairs:,} pairs of a row and a negative are the row's target, {expected:,.0f} expected "
        f"of the sampler ({others:,} are another target of the row); more change the loss by {change:.2g}",
        "the loss must leave out negatives that are the row's target: mask them in raysys/nn/losses.py, as "
        "every loss there does",
        fault=change > _TOLERANCE,
        figures={"pairs": pairs, "hits": hits, "expected_hits": expected, "change": change},
    )


def _candidates(
    loss: str, batch: Mapping[str, np.ndarray], prob: np.ndarray, share: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield what a row's target is compared with, how likely each item is among them, and how many pairs of a
    row and a candidate are the row itself."""
    if loss in WITH_NEGATIVES:
        yield batch["negatives"], prob, 0
    if loss in AMONG_TARGETS:
        yield batch["target"].reshape(-1), share, len(batch["target"])


def _change_by_hits(model: LossModel, loss: str, batch: Mapping[str, np.ndarray], row: int) -> float:
    """Return by how much the loss of a row, of size 1 or more, changes by negatives that are its target."""
    alone = one_row(batch, row)
    target = alone["target"].reshape(-1)[:1]
    if loss == "in_batch":
        twice = {key: torch.cat([value, value]) for key, value in alone.items()}
        change = abs(step_loss(model, twice, target.repeat(2)))  # the other row is a hit: nothing is left
        return math.inf if math.isnan(change) else change
    other = torch.from_numpy(batch["negatives"][batch["negatives"] != int(target)][:8])
    with_hits = torch.cat([other, target, target])
    before, after = (step_loss(model, alone, target, negatives) for negatives in (other, with_hits))
    change = abs(after - before) / max(1.0, abs(before))
    return math.inf if math.isnan(change) else change


def expected_prob(training: TrainingConfig, counts: np.ndarray) -> np.ndarray:
    """Return how likely each item is in one draw, (V,) float64, from the training events alone.

    log_uniform presumes items in the order of their popularity; items of equal counts share what their ranks
    have.

    Args:
        training: sampler and power.
        counts: (V,) training events by item_idx; the reserved rows are left out.
    """
    events = np.maximum(counts[NUM_RESERVED:], 1).astype(np.float64)
    if training.sampler == "uniform":
        weights = np.ones(len(events))
    elif training.sampler == "popularity":
        weights = events**training.sampler_power
    else:
        rank = np.arange(1, len(events) + 1, dtype=np.float64)
        by_rank = np.log((rank + 1) / rank)
        order = np.argsort(-counts[NUM_RESERVED:], kind="stable")
        _, group = np.unique(-counts[NUM_RESERVED:][order], return_inverse=True)
        shared = np.bincount(group, by_rank) / np.bincount(group)
        weights = np.empty(len(events))
        weights[order] = shared[group]
    return np.concatenate([np.zeros(NUM_RESERVED), weights / weights.sum()])


def draw_many(draw: Draw, num_items: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return how often each item was drawn (V,), ln of the expected count that was said of it (V,), NaN for
    items that were not drawn, and the steps taken."""
    counts, said = np.zeros(num_items, np.int64), np.full(num_items, np.nan)
    step = 0
    while counts.sum() < DRAWS and step < _MOST_STEPS:
        item_idx, log_expected = draw(step)
        counts += np.bincount(np.clip(item_idx, 0, num_items - 1), minlength=num_items)
        said[np.clip(item_idx, 0, num_items - 1)] = log_expected
        step += 1
    return counts, said, step


def sampler_order(training: TrainingConfig, drawn: np.ndarray, counts: np.ndarray) -> Check:
    """Compare how often items are drawn with what the sampler's name promises of the training events.

    A chi-square test over groups of items of like probability, so a sampler that takes ids for popularity
    ranks shows; the total variation says how far off it is.

    Args:
        training: sampler and power.
        drawn: (V,) how often each item was drawn.
        counts: (V,) training events by item_idx.
    """
    name = "sampler_order"
    prob, total = expected_prob(training, counts)[NUM_RESERVED:], int(drawn[NUM_RESERVED:].sum())
    order = np.argsort(-prob, kind="stable")
    level = np.round(prob[order], 15)
    new = np.concatenate([[True], level[1:] != level[:-1]])
    mass = np.cumsum(prob[order]) - prob[order]
    # a group begins where the mass has grown by a share, though never among equally likely items
    group = np.maximum.accumulate(np.where(new, np.floor(mass * _BINS), 0)).astype(np.int64)
    _, group = np.unique(group, return_inverse=True)
    found, expected = np.bincount(group, drawn[NUM_RESERVED:][order]), np.bincount(group, prob[order]) * total
    freedom = max(len(found) - 1, 1)
    if len(found) == 1:  # every item is as likely: each is a group of its own
        found, expected = drawn[NUM_RESERVED:].astype(np.float64), prob * total
        freedom = max(len(found) - 1, 1)
    square = float(((found - expected) ** 2 / np.maximum(expected, 1e-12)).sum())
    sigmas = (square - freedom) / math.sqrt(2 * freedom)
    variation = float(np.abs(found - expected).sum() / 2 / max(total, 1))
    correlation = rank_correlation(drawn[NUM_RESERVED:], counts[NUM_RESERVED:])
    power = f" to the power {training.sampler_power}" if training.sampler == "popularity" else ""
    return judged(
        name,
        f"{plural(total, 'drawn negative')}, training.sampler = {training.sampler!r}, against the training "
        f"events{power}",
        f"total variation {variation:.3f}, {sigmas:+.1f} standard deviations from chance, rank correlation "
        f"with training events {correlation:.2f}",
        "item ids are not in the order that the sampler takes for popularity: set training.sampler = "
        '"popularity", or run jobs/prepare.py again, which numbers items by falling training count',
        fault=sigmas > _SIGMAS,
        figures={
            "draws": total,
            "sigmas": sigmas,
            "total_variation": variation,
            "rank_correlation": correlation,
        },
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank; 0 where one is constant."""
    ranks: list[np.ndarray] = []
    for values in (a, b):
        _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(sizes) - (sizes - 1) / 2)[place])
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def logq_correction(
    training: TrainingConfig,
    drawn: np.ndarray,
    said: np.ndarray,
    steps: int,
    counts: np.ndarray,
    shift: float | None,
) -> Check:
    """Compare the expected counts that correct the scores with how often items were drawn.

    Args:
        training: loss and batch size.
        drawn: (V,) how often each item was drawn in `steps` steps.
        said: (V,) ln of the expected count of each drawn item among the candidates of a step.
        steps: taken.
        counts: (V,) training events by item_idx.
        shift: by how much a negative's score falls in the loss when ln of its expected count rises by ln 3,
            over ln 3: 1 where the correction is applied as it should; None where it was not tried.
    """
    name = "logq_correction"
    if training.loss not in CORRECTED:
        return not_checked(name, f"training.loss = {training.loss!r} has no drawn negatives to correct")
    often = drawn >= 100
    if not often.any():
        return not_checked(name, "no item was drawn often enough to tell how likely it is")
    frequency = drawn[often] / steps
    expected = np.exp(said[often])
    if training.loss == "mixed":  # an item is a candidate as a target of the batch too
        events = np.maximum(counts, 1)
        expected = expected - training.batch_size * events[often] / events[NUM_RESERVED:].sum()
    sigmas = float((np.abs(frequency - expected) / np.sqrt(np.maximum(expected, 1e-12) / steps)).max())
    wrong_shift = shift is not None and abs(shift - 1) > 0.01
    applied = "" if shift is None else f", and the loss applies {shift:.2f} of it"
    return judged(
        name,
        f"{plural(int(often.sum()), 'item')} drawn 100 times or more in {plural(steps, 'step')}",
        f"largest difference of expected and drawn count {sigmas:.1f} standard deviations{applied}",
        "scores of negatives have to be lowered by ln(N q), after the division by the temperature, with q as "
        "training.sampler draws: check log_expected in raysys/nn/negatives.py",
        fault=sigmas > _SIGMAS or wrong_shift,
        figures={"items": int(often.sum()), "sigmas": sigmas, **({} if shift is None else {"shift": shift})},
    )


def correction_shift(
    model: LossModel, loss: str, batch: Mapping[str, np.ndarray], other: int
) -> float | None:
    """Return how much of ln 3 a negative's score falls by when ln of its expected count rises by ln 3.

    Args:
        model: in evaluation mode.
        loss: of the run; None is returned unless it corrects.
        batch: of training.
        other: item_idx of a negative that is not the target of the first row.
    """
    if loss not in CORRECTED:
        return None
    row = one_row(batch, 0)
    target, negative = row["target"].reshape(-1)[:1], torch.tensor([other])
    margins = [margin_of(step_loss(model, row, target, negative, log_expected=x)) for x in (0, math.log(3.0))]
    return (margins[0] - margins[1]) / math.log(3.0) if all(map(math.isfinite, margins)) else None
