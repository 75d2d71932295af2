"""How much of a search's success each key explains."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raysys.config import to_literal
from raysys.training_config import goal
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import Trial, ranked

optuna.logging.set_verbosity(optuna.logging.WARNING)

DIRECTIONS: dict[Literal["max", "min"], Literal["maximize", "minimize"]] = {
    "max": "maximize",
    "min": "minimize",
}
FEWEST = 8
"""Trials with a value below which an importance is a guess."""


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return what Optuna draws a parameter from; the values of a choice are text, as TOML writes them."""
    if parameter.type == "choice":
        return CategoricalDistribution([to_literal(value) for value in parameter.values])
    kind = IntDistribution if parameter.type == "int" else FloatDistribution
    return kind(parameter.min, parameter.max, log=parameter.scale == "log")


def importance(
    trials: Sequence[Trial], parameters: Mapping[str, Parameter], metric: str
) -> dict[str, float] | None:
    """Return the shares of the keys, by PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv:2304.10255): how far
    the values of the best trials lie from those of all.

    Keys that not every trial has are left out. None for too few trials, or where all have the same value.
    """
    scored = ranked(trials, metric)
    values = [trial.best(metric) or 0.0 for trial in scored]
    if len(scored) < FEWEST or len(set(values)) < 2:
        return None
    keys = [key for key in parameters if all(key in trial.literals for trial in scored)]
    keys = [key for key in keys if len({trial.literals[key] for trial in scored}) > 1]
    study = optuna.create_study(direction=DIRECTIONS[goal(metric)])
    for trial, value in zip(scored, values, strict=True):
        own = trial.values
        params = {key: to_literal(own[key]) if parameters[key].type == "choice" else own[key] for key in keys}
        distributions = {key: distribution(parameters[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.34)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
