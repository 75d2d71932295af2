"""What a space file holds: `[search]`, the budget and the ways, and the keys of `[space]`."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from raysys.config import require
from raysys.training_config import WATCHED, goal, is_watched

VALID = "valid/"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """`[search]`: what is optimised, how, and for how long."""

    metric: str = "valid/ndcg@10"
    """What is made as good as possible: `valid/` and a metric that `training.metric` takes, any of the
    evaluator. Every trial retrieves as many candidates for it, whatever its number of interests."""
    mode: Literal["auto", "max", "min"] = "auto"
    """max makes the metric large and min small; auto does what the metric is for, and the other way is
    refused."""
    algorithm: Literal["tpe", "random"] = "tpe"
    """Where values come from: tpe is Optuna's tree-structured Parzen estimator, random draws them."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """What becomes of trials that lag: asha ends them at a rung; under pbt, population-based training, they
    take over the weights of better ones and go on with values near theirs; none lets all run."""
    trials: int = 20
    """Trials at most, under pbt the size of the population; the first one is the base run, untuned."""
    max_epochs: int = 0
    """Epochs of a trial at most; 0: `training.epochs` of the base run."""
    total_epochs: int = 0
    """Start no trial once all of them together have trained this many epochs; 0: no limit."""
    max_minutes: float = 0.0
    """Stop the search after this much time, earlier calls included; 0: no limit."""
    grace_epochs: int = 1
    """asha: epochs that every trial gets, the first rung."""
    reduction_factor: float = 3.0
    """asha: of the trials at a rung the best 1 / reduction_factor go on, for so many times the epochs."""
    exploit_epochs: int = 1
    """pbt: epochs of a generation, at whose end trials are compared."""
    exploit_share: float = 0.25
    """pbt: share of the trials, the worst, that take over the weights of as many of the best; above 0 and at
    most 0.5."""
    resample: float = 0.25
    """pbt: how probable it is that a value is drawn anew, instead of being moved a step."""
    startup_trials: int = 5
    """tpe: trials that are drawn at random before the estimator has enough to go by."""
    repeat_best: int = 3
    """Of the best trials, and of the untuned one, how many are trained again under several seeds; 0: none."""
    repeat_seeds: int = 3
    """Under how many seeds."""
    trials_at_once: int = 0
    """Trials that train at the same time at most; 0: as many as the cluster has room for."""
    seed: int = 0
    """Root of every random number of the search; the seed of a trial comes from it and the trial's values."""

    def __post_init__(self) -> None:
        known = self.metric.startswith(VALID) and is_watched(self.training_metric)
        require(
            known,
            f"metric: found {self.metric!r}, expected valid/mrr or valid/name@k of {', '.join(WATCHED)}",
        )
        found = f"mode: found {self.mode!r}, but of {self.metric} a "
        meant = "smaller" if self.goal == "min" else "larger"
        require(self.mode in ("auto", self.goal), f"{found}{meant} value is better")
        for name in ("trials", "grace_epochs", "exploit_epochs", "repeat_seeds"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        for name in (
            "max_epochs",
            "total_epochs",
            "max_minutes",
            "startup_trials",
            "repeat_best",
            "trials_at_once",
        ):
            require(getattr(self, name) >= 0, f"{name}: found {getattr(self, name)}, expected >= 0")
        found = f"exploit_share: found {self.exploit_share}"
        require(0 < self.exploit_share <= 0.5, f"{found}, expected above 0 and at most 0.5")
        require(0 <= self.resample <= 1, f"resample: found {self.resample}, expected in [0, 1]")
        if self.scheduler == "pbt":
            found = f"algorithm: found {self.algorithm!r}"
            require(self.algorithm == "random", f'{found}, pbt draws its population; expected "random"')
            require(self.trials >= 2, f"trials: found {self.trials}, a population has at least 2")
            require(not self.total_epochs, "total_epochs: pbt has no such limit; use trials and max_epochs")
        found = f"reduction_factor: found {self.reduction_factor}"
        require(1 < self.reduction_factor < math.inf, f"{found}, expected above 1 and finite")

    @property
    def training_metric(self) -> str:
        """The metric as `training.metric` names it."""
        return self.metric.removeprefix(VALID)

    @property
    def goal(self) -> Literal["max", "min"]:
        """Whether a larger or a smaller value of the metric is better."""
        return goal(self.metric)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One key of `[space]`."""

    type: Literal["int", "float", "choice"]
    """int and float are drawn from [min, max], choice from `values`."""
    min: Any = None
    """Smallest value."""
    max: Any = None
    """Largest value, itself possible."""
    scale: Literal["linear", "log"] = "linear"
    """log draws the logarithm evenly: for rates, temperatures, sizes."""
    values: tuple[Any, ...] = ()
    """What a choice is made from."""
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    """Other keys and the values of theirs under which this key is searched; else it keeps the base run's
    value. Keys of the space stand above this one in the file."""

    def __post_init__(self) -> None:
        if self.type == "choice":
            require(len(self.values) > 0, "values: missing; a choice is made from at least one")
            given = self.min is not None or self.max is not None
            require(not given, "min, max: a choice has values instead")
            return
        require(not self.values, f"values: {self.type} has min and max instead")
        kinds = (int,) if self.type == "int" else (int, float)
        for name in ("min", "max"):
            value = getattr(self, name)
            fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
            require(
                fits, f"{name}: found {value!r}, expected {'a whole' if self.type == 'int' else 'a'} number"
            )
        require(self.min < self.max, f"min: found {self.min}, expected below max = {self.max}")
        require(self.scale == "linear" or self.min > 0, f"min: found {self.min}, scale log needs it above 0")

    def holds(self, value: Any) -> bool:
        """Return whether the parameter can have this value."""
        if self.type == "choice":
            return any(same(value, known) for known in self.values)
        whole = self.type == "float" or float(value).is_integer()
        return isinstance(value, int | float) and whole and self.min <= value <= self.max


def same(a: Any, b: Any) -> bool:
    """Return whether two TOML values are equal; 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b and isinstance(a, bool) == isinstance(b, bool)
