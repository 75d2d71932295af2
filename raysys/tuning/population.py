"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): who takes over whose weights, and with
which values it goes on.

A move is a function of the search's seed, the epoch and the trials' curves, and is written down before it is
made: an interrupted search makes the moves that it would have made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysys.config import to_literal
from raysys.errors import ConfigError
from raysys.seeds import derive_seed
from raysys.training_config import goal
from raysys.tuning.space import SearchSpace, Values, to_literals
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import Trial

STEPS = (0.8, 1.2)
"""What a value is multiplied by, one or the other (sec. 4.1 of the paper)."""
TRIES = 50
"""Draws that may be impossible before a trial goes on with the values that it takes over."""


@dataclass(frozen=True)
class Move:
    """One trial that takes over another's weights.

    Attributes:
        number: the trial that lagged.
        of: the trial whose weights it has from now on.
        literals: its values from now on, as TOML writes them.
        score: what it had reached itself.
    """

    number: int
    of: int
    literals: dict[str, str]
    score: float


def moves(space: SearchSpace, trials: Sequence[Trial], epoch: int) -> list[Move]:
    """Return the moves at the end of an epoch: each trial of the last `exploit_share` takes over one of the
    first.

    Args:
        space: what is searched.
        trials: those that have trained so many epochs take part.
        epoch: counted from 1.
    """
    metric, sign = space.search.metric, -1 if goal(space.search.metric) == "min" else 1
    scores = {
        trial.number: trial.curve[epoch - 1][metric] for trial in trials if trial.epochs >= epoch
    }  # fmt: skip
    order = sorted(scores, key=lambda number: (-sign * scores[number], number))
    count = min(math.ceil(len(order) * space.search.exploit_share), len(order) // 2)
    by_number = {trial.number: trial for trial in trials}
    found: list[Move] = []
    for number in order[len(order) - count :]:
        random = np.random.default_rng(derive_seed(space.search.seed, "pbt", epoch, number))
        of = order[int(random.integers(count))]
        if scores[of] != scores[number]:
            values = explore(space, by_number[of].values, random)
            found.append(Move(number, of, to_literals(values), scores[number]))
    return found


def explore(space: SearchSpace, values: Values, random: np.random.Generator) -> Values:
    """Return values near the given ones: each is moved a step, or with probability `resample` drawn anew."""

    def suggest(key: str, parameter: Parameter) -> Any:
        if key not in values or random.random() < space.search.resample:
            return draw(parameter, random)
        return step(parameter, values[key], up=bool(random.random() < 0.5))

    for _ in range(TRIES):
        found = space.draw(suggest)
        try:
            space.run(found, 0)
        except ConfigError:
            continue  # the values do not go together
        return found
    return values


def step(parameter: Parameter, value: Any, up: bool) -> Any:
    """Return the next value up or down: 1.2 or 0.8 times a number, at least 1 from a whole one, the
    neighbour of a choice; never outside the space."""
    if parameter.type == "choice":
        literals = [to_literal(known) for known in parameter.values]
        place = literals.index(to_literal(value)) + (1 if up else -1)
        return parameter.values[min(max(place, 0), len(literals) - 1)]
    moved = value * STEPS[up]
    if parameter.type == "int":
        moved = round(moved) if round(moved) != value else value + (1 if up else -1)
    return min(max(moved, parameter.min), parameter.max)


def draw(parameter: Parameter, random: np.random.Generator) -> Any:
    """Return a value of the space, evenly drawn on the parameter's scale."""
    if parameter.type == "choice":
        return parameter.values[int(random.integers(len(parameter.values)))]
    whole = parameter.type == "int"
    low, high = float(parameter.min), float(parameter.max) + whole
    if parameter.scale == "log":
        found = math.exp(random.uniform(math.log(low), math.log(high)))
    else:
        found = random.uniform(low, high)
    found = math.floor(found) if whole else found
    return min(max(found, parameter.min), parameter.max)


def ends(parameter: Parameter) -> Sequence[Any]:
    """Return the values that stand for all of a parameter: every choice, or smallest and largest."""
    return parameter.values if parameter.type == "choice" else (parameter.min, parameter.max)
