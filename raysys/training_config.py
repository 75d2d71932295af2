"""`[training]`: how a model learns. Without torch, so that a run file is read without it."""

from dataclasses import dataclass
from typing import Literal

from raysys.config import require
from raysys.nn.loss_inputs import LossName
from raysys.nn.negatives import SamplerKind

LISTS = ("novelty", "popularity_bias", "intra_list_diversity", "coverage", "gini")
WATCHED = ("hit_rate", "recall", "precision", "ndcg", "map", *LISTS)
"""Metrics with a cut-off that training can watch, those of the evaluator; `mrr` is the one without."""
SMALLER_IS_BETTER = ("popularity_bias", "gini")


def is_watched(metric: str) -> bool:
    """Return whether training can watch a metric of this name."""
    name, _, k = metric.partition("@")
    depth = int(k) if k.isdecimal() else 0
    return metric == "mrr" or (name in WATCHED and depth > (name == "intra_list_diversity"))


def goal(metric: str) -> Literal["max", "min"]:
    """Return whether a larger or a smaller value of a metric is better; its name may begin with `valid/`."""
    return "min" if metric.rpartition("/")[2].partition("@")[0] in SMALLER_IS_BETTER else "max"


def is_better(metric: str, value: float, than: float) -> bool:
    """Return whether a value of a metric is better than another; one that is not defined never is."""
    return value < than if goal(metric) == "min" else value > than


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """`[training]`: how the model learns."""

    epochs: int = 10
    """Passes over the training samples at most."""
    batch_size: int = 1024
    """Samples per step over all workers; a multiple of the number of workers."""
    learning_rate: float = 0.001
    """Step size of Adam; the largest one under a schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the step size runs after the warm-up: cosine falls to a hundredth at the last step of the last
    epoch."""
    warmup_steps: int = 0
    """Steps at the start in which the step size rises to `learning_rate`."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    loss: LossName = "sampled_softmax"
    """sampled_softmax: against `model.num_negatives` drawn items, corrected by logQ; full_softmax: all
    items; in_batch: the targets of the global batch, corrected by logQ; mixed: in_batch and
    sampled_softmax together; gbce, bpr: generalised binary cross-entropy (meant for the uniform sampler)
    and pairwise ranking against the drawn items, without correction."""
    gbce_t: float = 0.75
    """Calibration of gbce, in [0, 1]: 0 is the ordinary binary cross-entropy, 1 calibrates scores as a
    softmax does (gSASRec, arXiv:2308.07192); other losses do not use it."""
    sampler: SamplerKind = "popularity"
    """Where negatives come from; popularity is training count to the power `sampler_power`."""
    sampler_power: float = 0.75
    """Exponent of the popularity sampler."""
    seed: int = 0
    """Root of every random number of the run."""
    patience: int = 3
    """Stop after this many epochs without a better validation metric; 0: never."""
    metric: str = "ndcg@10"
    """What is watched on the validation part, by real retrieval over the whole catalogue: a metric of the
    evaluator. Of `popularity_bias` and `gini` a smaller value is better."""
    valid_users: int = 10_000
    """Users that the validation metric is measured on at most, the same ones every time."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; one is also taken at every end of an epoch."""
    max_minutes: float = 0.0
    """Stop after this much training time; 0: no limit."""
    max_retries: int = 3
    """How often a failed group of workers is started again from the last checkpoint."""
    shuffle_events: int = 8_000_000
    """Events held in memory at once per worker; sequence files are shuffled, read in chunks of about this
    size, and samples are shuffled within a chunk."""
    samples_per_user: int = 0
    """Training samples of a user in an epoch at most, drawn anew in every epoch, so that heavy users do
    not outweigh the others (YouTube DNN, sec. 3.3); 0: all."""
    source: Literal["files", "ray_data"] = "files"
    """files: each worker cuts its batches itself. ray_data: Ray Data tasks on CPU nodes cut them. Same
    batches."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "valid_users", "checkpoint_every_steps", "shuffle_events"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        require(self.learning_rate > 0, f"learning_rate: found {self.learning_rate}, expected > 0")
        for name in (
            "warmup_steps",
            "weight_decay",
            "patience",
            "max_minutes",
            "max_retries",
            "clip_norm",
            "sampler_power",
            "samples_per_user",
        ):
            require(getattr(self, name) >= 0, f"{name}: found {getattr(self, name)}, expected >= 0")
        require(0.0 <= self.gbce_t <= 1.0, f"gbce_t: found {self.gbce_t}, expected in [0, 1]")
        alone = self.loss == "in_batch" and self.batch_size < 2
        require(not alone, "batch_size: found 1, expected >= 2 for the loss in_batch")
        names = ", ".join(f"{name}@k" for name in WATCHED)
        require(is_watched(self.metric), f"metric: found {self.metric!r}, expected {names} or mrr")

    @property
    def metric_k(self) -> int:
        """How many items the validation retrieves."""
        k = self.metric.partition("@")[2]
        return int(k) if k else 100
