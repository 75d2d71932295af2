"""Runs side by side; only runs that were measured under one protocol share a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysys.evaluation import findings, plots
from raysys.evaluation.findings import Cell, Table, number
from raysys.evaluation.sections import Run


@dataclass(frozen=True)
class Comparison:
    """Runs that were measured under one protocol, side by side."""

    title: str
    lead: str
    table: Table
    figure: str


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return one comparison per protocol, in the order of the first run of each; none for a single run."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if _terms(group[0]) == _terms(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    if len(runs) < 2:
        return []
    return [_compare_group(group, groups[0], f"group-{place}") for place, group in enumerate(groups, 1)]


def _terms(run: Run) -> dict[str, Any]:
    return {"part": run.metrics.get("part"), **(run.metrics.get("protocol") or {})}


def _compare_group(group: Sequence[Run], first: Sequence[Run], figure_id: str) -> Comparison:
    key = findings.headline_key(group[0].metrics)
    ranked = sorted(
        (run for run in group if key in run.metrics["metrics"]), key=lambda run: -run.metrics["metrics"][key]
    )
    ranked += [run for run in group if run not in ranked]
    baselines = next((run.metrics["baselines"] for run in group if run.metrics.get("baselines")), {})
    order = sorted(baselines, key=lambda name: (name != findings.REFERENCE, name))
    dots = [
        plots.DotRow(
            run.name,
            run.metrics["metrics"][key],
            (run.metrics.get("intervals") or {}).get(key),
            {name: baselines[name][key] for name in order if key in baselines[name]},
        )
        for run in ranked
        if key in run.metrics["metrics"]
    ]
    said = ", ".join(f"{row.label} {number(row.value)}" for row in dots)
    figure = plots.dot_plot(dots, key, figure_id, f"{key} with intervals: {said}.")
    lead = _first_place(dots, key) if len(group) > 1 else ""
    if group is not first:
        lead = f"Listed apart, because the protocol differs from the one above: {_difference(group[0], first[0])}. {lead}"
    title = (
        "Runs side by side" if group is first else f"Another protocol: {', '.join(run.name for run in group)}"
    )
    return Comparison(
        title, lead.strip(), _comparison_table(ranked, {name: baselines[name] for name in order}), figure
    )


def _first_place(dots: Sequence[plots.DotRow], key: str) -> str:
    if len(dots) < 2:
        return ""
    best, second = dots[0], dots[1]
    text = f"{best.label} is best on {key} with {number(best.value)}, then {second.label} with {number(second.value)}."
    if best.interval is None or second.interval is None:
        return f"{text} Without intervals nobody can say how sure this order is."
    if best.interval[0] > second.interval[1]:
        return f"{text} Their intervals do not overlap: the order is sure."
    return f"{text} Their intervals overlap: the order may be chance."


def _difference(run: Run, first: Run) -> str:
    here, there = _terms(run), _terms(first)
    keys = [key for key in dict.fromkeys([*there, *here]) if here.get(key) != there.get(key)]
    return "; ".join(f"{key} is {number(here.get(key))} instead of {number(there.get(key))}" for key in keys)


def _comparison_table(runs: Sequence[Run], baselines: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for run in runs for key in run.metrics["metrics"]))
    best = {key: max(run.metrics["metrics"].get(key, float("-inf")) for run in runs) for key in keys}
    rows = [
        [
            Cell(run.name),
            *(
                Cell(number(value := run.metrics["metrics"].get(key)), strong=value == best[key])
                for key in keys
            ),
        ]
        for run in runs
    ]
    rows += [
        [Cell(name, "baseline"), *(Cell(number(values.get(key))) for key in keys)]
        for name, values in baselines.items()
    ]
    return Table("All metrics", ["run", *keys], rows)
