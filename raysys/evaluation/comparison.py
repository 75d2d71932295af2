"""Runs side by side; only runs that were measured under one protocol share a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysys.evaluation import plots
from raysys.evaluation.findings import Cell, Table, number
from raysys.evaluation.sections import Run, baseline_values


@dataclass(frozen=True)
class Comparison:
    """Runs that were measured under one protocol, side by side."""

    title: str
    lead: str
    table: Table
    figure: str


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return one comparison per protocol, in the order of the first run of each; none for a single run."""
    if len(runs) < 2:
        return []
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if terms(group[0]) == terms(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    first, *others = groups
    title = "Runs side by side" if not others else f"Runs side by side: {_names(first)}"
    found = [_compare_group(first, title, "", "group-1")]
    for place, group in enumerate(others, 2):
        why = f"Listed apart, because the protocol differs: {difference(group[0], first[0])}."
        found.append(_compare_group(group, f"Another protocol: {_names(group)}", why, f"group-{place}"))
    return found


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.name for run in runs)


def terms(run: Run) -> dict[str, Any]:
    """Return what must be equal for two runs to be compared."""
    return {"part": run.measured.part, **run.measured.protocol}


def difference(run: Run, first: Run) -> str:
    """Return the terms in which a run differs from the first one."""
    here, there = terms(run), terms(first)
    keys = [key for key in dict.fromkeys([*there, *here]) if here.get(key) != there.get(key)]
    return "; ".join(f"{key} is {number(here.get(key))}, not {number(there.get(key))}" for key in keys)


def _compare_group(group: Sequence[Run], title: str, why: str, figure_id: str) -> Comparison:
    key = group[0].measured.headline
    having = [run for run in group if key in run.measured.metrics]
    having.sort(key=lambda run: -run.measured.metrics[key])
    dots = [
        plots.DotRow(
            run.name,
            run.measured.metrics[key],
            run.measured.intervals.get(key),
            baseline_values(run.measured, key),
        )
        for run in having
    ]
    told = ", ".join(f"{row.label} {number(row.value)}" for row in dots)
    figure = plots.dot_plot(dots, key, figure_id, f"{key} of every run: {told}.")
    lead = f"{why} {_first_place(dots, key)}".strip()
    return Comparison(title, lead, _table([*having, *(run for run in group if run not in having)]), figure)


def _first_place(dots: Sequence[plots.DotRow], key: str) -> str:
    if len(dots) < 2:
        return ""
    best, second = dots[0], dots[1]
    if best.value == second.value:
        return f"{best.label} and {second.label} have the same {key}, {number(best.value)}."
    values = f"{number(best.value)}, then {second.label} with {number(second.value)}"
    text = f"{best.label} is best on {key} with {values}."
    if best.interval is None or second.interval is None:
        return f"{text} Without intervals nobody can say how sure this order is."
    if best.interval[0] > second.interval[1]:
        return f"{text} Their intervals do not overlap: the choice of users does not explain it."
    return f"{text} Their intervals overlap, so the order may be chance."


def _table(runs: Sequence[Run]) -> Table:
    keys = list(dict.fromkeys(key for run in runs for key in run.measured.metrics))
    best = {key: max(run.measured.metrics.get(key, float("-inf")) for run in runs) for key in keys}
    rows = [[Cell(run.name), *_cells(run.measured.metrics, keys, best)] for run in runs]
    recorded = [run.measured.baselines for run in runs if run.measured.baselines]
    for name, values in recorded[0].items() if recorded else ():
        rows.append([Cell(name, "baseline"), *_cells(values, keys, {})])
    return Table("All metrics", ["run", *keys], rows)


def _cells(values: Mapping[str, float], keys: Sequence[str], best: Mapping[str, float]) -> list[Cell]:
    return [
        Cell(number(values.get(key)), strong=key in best and values.get(key) == best[key]) for key in keys
    ]
