"""Figures of a search: how the best value came about, what trials had in common, and every trial by epoch."""
# pyright: reportUnknownMemberType=false
# matplotlib declares its functions with keyword arguments of unknown types.

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raysys.config import to_literal
from raysys.evaluation.plots import ACCENT, INK, LINE, MUTED, canvas, drawing, to_svg
from raysys.training_config import goal
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import AT_S, UNTUNED, Trial, ranked
from raysys.tuning.words import short

WIDE = 9.6
BEST = 3
"""Trials drawn as the best."""
INACTIVE = -0.12
"""Height of a key that a trial does not have, below the axis of those that do."""


def over_time(trials: Sequence[Trial], metric: str, figure_id: str, message: str) -> str:
    """Return an SVG of every epoch's value and of the best so far over the minutes of the search."""
    points = sorted(
        (entry[AT_S] / 60, entry[metric])
        for trial in trials
        if trial.kind == "search"
        for entry in trial.curve
    )
    values = [value for _, value in points]
    so_far = list(itertools.accumulate(values, min if goal(metric) == "min" else max))
    with drawing():
        figure = canvas(2.9)
        axes: Axes = figure.subplots()
        minutes = [at for at, _ in points]
        axes.plot(minutes, values, "o", color=MUTED, markersize=3, alpha=0.6)
        axes.step(minutes, so_far, where="post", color=ACCENT, linewidth=2)
        _plain_axes(axes, "minutes of the search", metric)
        _untuned_line(axes, trials, metric)
        return to_svg(figure, figure_id, message)


def by_epoch(trials: Sequence[Trial], metric: str, figure_id: str, message: str) -> str:
    """Return an SVG with a line per trial: the best in colour, the untuned dashed, the others faint."""
    with drawing():
        figure = canvas(2.9)
        axes: Axes = figure.subplots()
        for trial, style in _styles(trials, metric):
            values = [entry[metric] for entry in trial.curve]
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=2.5, **style)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        _plain_axes(axes, "epoch", metric)
        return to_svg(figure, figure_id, message)


def parallel_coordinates(
    trials: Sequence[Trial], parameters: dict[str, Parameter], metric: str, figure_id: str, message: str
) -> str:
    """Return an SVG with an axis per key, the metric at the right, and a line per trial."""
    keys = list(parameters)
    scores = [trial.best(metric) or 0.0 for trial in ranked(trials, metric)]
    low, high = min(scores), max(scores)
    with drawing():
        figure = canvas(3.6, WIDE)
        axes: Axes = figure.subplots()
        for trial, style in _styles(trials, metric):
            values = trial.values
            heights = [_height(parameters[key], values[key]) if key in values else INACTIVE for key in keys]
            score = trial.best(metric) or 0.0
            axes.plot(
                range(len(keys) + 1),
                [*heights, (score - low) / (high - low) if high > low else 0.5],
                marker="o",
                markersize=3,
                **style,
            )
        for place in range(len(keys) + 1):
            axes.axvline(place, color=LINE, linewidth=1, zorder=0)
        for place, key in enumerate(keys):
            for height, label in _ticks(parameters[key]):
                _label(axes, place, height, label)
        for height, value in ((0.0, low), (1.0, high)):
            _label(axes, len(keys), height, f"{value:.4f}")
        names = [key.partition(".")[2].replace("_", "\n") for key in keys]
        axes.set_xticks(range(len(keys) + 1), [*names, metric], fontsize=9, parse_math=False)
        axes.set_yticks([])
        axes.set_xlim(-0.15, len(keys) + 0.55)
        axes.set_ylim(INACTIVE - 0.05, 1.08)
        axes.tick_params(length=0)
        for side in ("top", "left", "right", "bottom"):
            axes.spines[side].set_visible(False)
        return to_svg(figure, figure_id, message)


def _label(axes: Axes, place: float, height: float, text: str) -> None:
    axes.annotate(
        text, (place, height), xytext=(4, 3), textcoords="offset points", fontsize=8, color=MUTED,
        parse_math=False,
    )  # fmt: skip


def _height(parameter: Parameter, value: Any) -> float:
    """Return where a value stands between the ends of its axis, 0 to 1."""
    if parameter.type == "choice":
        literals = [to_literal(known) for known in parameter.values]
        return literals.index(to_literal(value)) / max(len(literals) - 1, 1)
    low, high = float(parameter.min), float(parameter.max)
    if parameter.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    if parameter.type == "choice":
        return [(_height(parameter, value), short(to_literal(value))) for value in parameter.values]
    return [(0.0, short(to_literal(parameter.min))), (1.0, short(to_literal(parameter.max)))]


def _styles(trials: Sequence[Trial], metric: str) -> list[tuple[Trial, dict[str, Any]]]:
    """Return the searched trials with how their lines look, the most important last, on top."""
    drawn: list[tuple[Trial, dict[str, Any]]] = []
    for place, trial in enumerate(ranked(trials, metric)):
        if trial.number == UNTUNED:
            style: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.8, "zorder": 5}
        elif place < BEST:
            style = {"color": ACCENT, "linewidth": 2.2 - 0.4 * place, "zorder": 6 - 0.1 * place}
        else:
            style = {"color": MUTED, "linewidth": 0.9, "alpha": 0.5, "zorder": 2}
        drawn.append((trial, style))
    return drawn[::-1]


def _plain_axes(axes: Axes, across: str, up: str) -> None:
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(axis="y", length=0, labelcolor=MUTED)
    axes.set_xlabel(across)
    axes.set_title(up, loc="left", fontsize=10.5, color=INK, parse_math=False)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _untuned_line(axes: Axes, trials: Sequence[Trial], metric: str) -> None:
    best = next((trial.best(metric) for trial in trials if trial.number == UNTUNED), None)
    if best is not None:
        axes.axhline(best, color=INK, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
        axes.annotate(
            "untuned", (1.0, best), xycoords=("axes fraction", "data"), xytext=(2, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
