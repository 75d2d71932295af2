"""`tune/report.html`: whether the search was worth it, and what the keys had to do with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from raysys.evaluation.findings import Cell, Table
from raysys.evaluation.page import render
from raysys.evaluation.plots import DotRow, dot_plot
from raysys.evaluation.sections import Section
from raysys.evaluation.verdict import Verdict
from raysys.tuning import plots
from raysys.tuning.importance import FEWEST, importance
from raysys.tuning.outputs import best_of, every_trial, leaderboard
from raysys.tuning.space import SearchSpace
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import UNTUNED, Spread, Trial, ranked, spreads
from raysys.tuning.words import name_of, short


def search_page(
    space: SearchSpace, trials: Sequence[Trial], generations: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the page of a search of which at least one trial has a value; generations are of a population,
    as in `population.json`."""
    makers = (_trials, _progress, _keys, _importance)
    sections = [make(space, trials) for make in makers]
    if generations:
        sections.insert(2, _population(space, generations))
    return render(
        "search.html.j2", title=f"Search: {space.name}", verdict=judge(space, trials), sections=sections
    )


def judge(space: SearchSpace, trials: Sequence[Trial]) -> Verdict:
    """Return whether the best trial is better than the untuned one by more than seeds do."""
    metric = space.search.metric
    best = best_of(trials, metric)
    values = ", ".join(f"{key} = {short(value)}" for key, value in best.literals.items())
    budget = (
        f"{len([t for t in trials if t.kind == 'search'])} trials, {sum(t.epochs for t in trials)} epochs."
    )
    sentences = [f"Its values: {values}.", f"The search took {budget}"]
    if best.number == UNTUNED:
        return Verdict("unsure", f"No trial is better than the untuned run on {metric}.", sentences[1:])
    by_trial = {spread.of: spread for spread in spreads(trials, metric)}
    mine, untuned = by_trial.get(best.number), by_trial.get(UNTUNED)
    if mine is None or untuned is None or min(len(mine.scores), len(untuned.scores)) < 2:
        base = next((trial.best(metric) for trial in trials if trial.number == UNTUNED), None)
        against = f" against {base:.4f} of the untuned run" if base is not None else ""
        luck = "the model counts and has no seed" if space.counts else "one seed each (search.repeat_best)"
        sentences.append(
            f"How much of it is luck is not known: {luck}. jobs/report.py compares the two runs."
        )
        return Verdict(
            "unsure", f"Trial {best.number}: {metric} {best.best(metric):.4f}{against}.", sentences
        )
    gain, spread = mine.mean - untuned.mean, max(mine.deviation, untuned.deviation)
    sure = (-gain if space.search.goal == "min" else gain) > spread
    relation = "more than" if sure else "not more than"
    headline = (
        f"Trial {best.number}: {metric} {_told(mine)} against {_told(untuned)} untuned, "
        f"{gain:+.4f}, which is {relation} the spread over seeds."
    )
    figures = [
        ("gain", f"{gain:+.4f}"),
        ("spread over seeds", f"{spread:.4f}"),
        ("seeds", str(len(mine.scores))),
    ]
    return Verdict("better" if sure else "unsure", headline, sentences, figures)


def _told(spread: Spread) -> str:
    return f"{spread.mean:.4f} ± {spread.deviation:.4f}"


def _trials(space: SearchSpace, trials: Sequence[Trial]) -> Section:
    states = ("finished", "stopped", "failed", "running")
    ended = {name: sum(trial.status == name for trial in trials) for name in states}
    said = ", ".join(f"{count} {name}" for name, count in ended.items() if count)
    return Section(
        "trials",
        "Trials",
        f"{len(trials)} trainings: {said}. A value is the best epoch's, on the validation part.",
        advice=[(f"Trial {trial.number} failed:", trial.error) for trial in trials if trial.error],
        tables=leaderboard(space, trials),
        folded=[every_trial(space, trials)],
        wide=True,
    )


def _progress(space: SearchSpace, trials: Sequence[Trial]) -> Section:
    metric = space.search.metric
    count = len(ranked(trials, metric))
    figures = [
        plots.over_time(trials, metric, "over-time", f"Best {metric} so far over the time of the search"),
        plots.by_epoch(trials, metric, "by-epoch", f"{metric} of {count} trials by epoch"),
    ]
    return Section(
        "progress",
        "Progress",
        "Every epoch of every trial, and the best value so far; then the trials by epoch: the three best in "
        "colour, the untuned one dashed. A line that ends early was ended by the scheduler.",
        figures=figures,
        gallery=True,
    )


def _population(space: SearchSpace, generations: Sequence[Mapping[str, Any]]) -> Section:
    keys = list(space.parameters)
    rows = [
        [
            Cell(str(generation["epoch"])),
            Cell(name_of(move["number"])),
            Cell(name_of(move["of"])),
            Cell(f"{move['score']:.4f}"),
            *(Cell(short(move["literals"].get(key, "–"))) for key in keys),
        ]
        for generation in generations
        for move in generation["moves"]
    ]
    names = [key.partition(".")[2] for key in keys]
    head = ["after epoch", "trial", "takes over", f"had {space.search.metric}", *names]
    return Section(
        "population",
        "Population",
        "Who went on with whose weights, and with which values. A trial's values, here and in best.toml, are "
        "its last ones; its weights were trained with those of every generation of its line.",
        folded=[Table("Every move", head, rows, text_columns=3)],
        wide=True,
    )


def _keys(space: SearchSpace, trials: Sequence[Trial]) -> Section:
    metric, parameters = space.search.metric, _searched(space, trials)
    return Section(
        "keys",
        "Values",
        "A line is a trial: where it crosses an axis is its value, and the axis at the right is what came of "
        "it. Below an axis: the key was not searched in that trial.",
        figures=[
            plots.parallel_coordinates(
                trials, parameters, metric, "keys-values", f"Values and {metric} of every trial"
            )
        ],
        wide=True,
    )


def _importance(space: SearchSpace, trials: Sequence[Trial]) -> Section:
    parameters = _searched(space, trials)
    shares = importance(trials, parameters, space.search.metric)
    section = Section(
        "importance",
        "Importance",
        "How far the values of the best third of the trials lie from those of all (PED-ANOVA). Of few trials "
        "it is a hint where to look, and no more.",
    )
    if not shares:
        section.notes.append(f"Told of {FEWEST} trials or more that differ in their value.")
        return section
    rows = [DotRow(key.partition(".")[2], share) for key, share in shares.items()]
    section.figures.append(dot_plot(rows, "importance", "importance-of-keys", "Importance of the keys"))
    left_out = [key for key in parameters if key not in shares]
    if left_out:
        names = ", ".join(left_out)
        section.notes.append(f"Not told, as not every trial has them or all have the same value: {names}.")
    return section


def _searched(space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Parameter]:
    """Return the keys that some trial was given."""
    return {
        key: known
        for key, known in space.parameters.items()
        if any(key in trial.literals for trial in trials)
    }
