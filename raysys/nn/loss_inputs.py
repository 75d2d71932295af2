"""What the losses of `raysys.nn.losses` need beside the samples, as a pure function of (seed, step, targets);
NumPy only.

Shape suffixes: B batch, V catalogue, N negatives.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from raysys.config import require
from raysys.nn.negatives import NegativeSampler, SamplerKind
from raysys.schema import NUM_RESERVED

LossName = Literal["sampled_softmax", "full_softmax", "in_batch", "mixed", "gbce", "bpr"]

WITH_NEGATIVES: frozenset[str] = frozenset({"sampled_softmax", "mixed", "gbce", "bpr"})
"""Losses whose batches hold drawn `negatives`."""

WITH_HARDNESS: frozenset[str] = frozenset({"sampled_softmax", "full_softmax", "in_batch", "mixed"})
"""Losses that can weigh negatives by how hard they are."""

AMONG_TARGETS: frozenset[str] = frozenset({"in_batch", "mixed"})
"""Losses whose candidates are the targets of the batch."""


def check_loss(loss: str) -> None:
    """Raise ConfigError for a name that is no loss."""
    losses = get_args(LossName)
    require(loss in losses, f"loss: found {loss!r}, expected one of {', '.join(losses)}")


def check_hardness(hardness: float, loss: str) -> None:
    """Raise ConfigError where `model.hard_negatives` does not go with the loss of `[training]`."""
    require(
        not hardness or loss in WITH_HARDNESS,
        f"model.hard_negatives: found {hardness} with training.loss = {loss!r}, expected 0 or one of the "
        f"losses {', '.join(sorted(WITH_HARDNESS))}",
    )


def gbce_beta(num_negatives: int, num_candidates: int, calibration: float) -> float:
    """Return beta = a (t (1 - 1 / a) + 1 / a) with the sampling rate a = N / (R - 1) of R real items.

    Implements Petrov & Macdonald 2023, "gSASRec" (arXiv:2308.07192): t = 0 gives 1, the ordinary
    binary cross-entropy; t = 1 gives a, scores that are calibrated as those of a softmax are.

    Deviations:
        The rate is at most 1: negatives are drawn with replacement, so N can exceed the catalogue.
    """
    rate = min(num_negatives / max(num_candidates - 1, 1), 1.0)
    return calibration * (rate - 1.0) + 1.0


class LossInputs:
    """Makes the arrays that join a batch of samples, by loss:

        sampled_softmax  negatives (N,), log_expected (N,) = ln(N p)
        full_softmax     none
        in_batch         target_log_expected (B,) = ln(B q)
        mixed            negatives, log_expected, target_log_expected, both logs ln(B q + N p)
        gbce             negatives, log_expected, gbce_beta ()
        bpr              negatives, log_expected

    with p the probability of an item in one draw of the sampler, q its share of the training events (an item
    without any counts as one event) and B the rows of the global batch. Negatives are int64, the others
    float32. `gbce` and `bpr` do not read the expected counts.

    Args:
        loss: name of the loss.
        counts: (V,) training events per item, the reserved rows first.
        num_negatives: N; not read by losses without drawn negatives.
        sampler: p.
        power: exponent of the popularity sampler.
        calibration: t of gbce, in [0, 1].
        seed: root seed of the draws.
    Raises:
        ConfigError: calibration out of range, or what `NegativeSampler` refuses.
    """

    def __init__(
        self,
        loss: LossName,
        counts: np.ndarray,
        num_negatives: int = 1,
        *,
        sampler: SamplerKind = "popularity",
        power: float = 0.75,
        calibration: float = 0.75,
        seed: int = 0,
    ) -> None:
        require(0.0 <= calibration <= 1.0, f"gbce_t: found {calibration}, expected in [0, 1]")
        self.loss, self.num_negatives = loss, num_negatives
        self.sampler: NegativeSampler | None = None
        if loss in WITH_NEGATIVES:
            self.sampler = NegativeSampler(sampler, counts, num_negatives, power=power, seed=seed)
        self.events: np.ndarray | None = None
        if loss in AMONG_TARGETS:
            self.events = np.maximum(counts, 1)
            self.num_events = int(self.events[NUM_RESERVED:].sum())
        self.beta = np.array(gbce_beta(num_negatives, len(counts) - NUM_RESERVED, calibration), np.float32)

    def arrays(self, step: int, batch: Mapping[str, np.ndarray], world: int = 1) -> dict[str, np.ndarray]:
        """Return the arrays of one training step by name.

        Args:
            step: number of the step since the start; decides the draw.
            batch: this rank's samples; `target` is read where targets are candidates.
            world: number of ranks, each with as many samples.
        """
        arrays: dict[str, np.ndarray] = {}
        if self.sampler is not None:
            arrays["negatives"], arrays["log_expected"] = self.sampler.draw(step)
        if self.events is not None:
            batch_size = len(batch["target"]) * world
            arrays["target_log_expected"] = self._log_expected(batch["target"], batch_size)
            if self.sampler is not None:
                arrays["log_expected"] = self._log_expected(arrays["negatives"], batch_size)
        if self.loss == "gbce":
            arrays["gbce_beta"] = self.beta
        return arrays

    def _log_expected(self, item_idx: np.ndarray, batch_size: int) -> np.ndarray:
        """Return ln of how often an item is expected among the candidates of a step."""
        assert self.events is not None, "only losses with in-batch candidates count them"
        expected = batch_size * (self.events[item_idx] / self.num_events)
        if self.sampler is not None:
            expected = expected + self.num_negatives * self.sampler.prob(item_idx)
        return np.log(expected).astype(np.float32)
