"""Runs side by side; only runs that were measured under one protocol share a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysys.evaluation import plots
from raysys.evaluation.findings import LEVEL, Cell, Table, is_ranked, number, plural
from raysys.evaluation.pairing import SURE, Pair, can_pair, difference, groups, pair, paired_table
from raysys.evaluation.sections import Run, baseline_values


@dataclass(frozen=True)
class Comparison:
    """Runs that were measured under one protocol, side by side."""

    title: str
    lead: str
    table: Table
    figure: str
    paired: Table | None = None


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return one comparison per protocol, in the order of the first run of each; none for a single run."""
    if len(runs) < 2:
        return []
    first, *others = groups(runs)
    title = "Runs side by side" if not others else f"Runs side by side: {_names(first)}"
    found = [_compare_group(first, title, "", "group-1")]
    for place, group in enumerate(others, 2):
        why = f"Listed apart, because the protocol differs: {difference(group[0], first[0])}."
        found.append(_compare_group(group, f"Another protocol: {_names(group)}", why, f"group-{place}"))
    return found


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.name for run in runs)


def _compare_group(group: Sequence[Run], title: str, why: str, figure_id: str) -> Comparison:
    key = group[0].measured.headline
    having = best_first(group)
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
    pairs = pair_with_best(having)
    headline = next((found for found in (pairs[0][1] if pairs else ()) if found.key == key), None)
    lead = f"{why} {_first_place(dots, key, headline)}".strip()
    ordered = [*having, *(run for run in group if run not in having)]
    paired = paired_table(having[0], pairs) if pairs else None
    return Comparison(title, lead, _table(ordered), figure, paired)


def best_first(group: Sequence[Run]) -> list[Run]:
    """Return the runs that have the first one's headline metric, the best first."""
    key = group[0].measured.headline
    having = [run for run in group if key in run.measured.metrics]
    return sorted(having, key=lambda run: -run.measured.metrics[key])


def pair_with_best(runs: Sequence[Run]) -> list[tuple[Run, list[Pair]]]:
    """Return each other run with how the first differs from it; none where a run kept no values of users."""
    if len(runs) < 2 or not all(can_pair(run) for run in runs):
        return []
    return [(run, pair(runs[0], run)) for run in runs[1:]]


def _first_place(dots: Sequence[plots.DotRow], key: str, found: Pair | None) -> str:
    if len(dots) < 2:
        return ""
    best, second = dots[0], dots[1]
    if best.value == second.value:
        return f"{best.label} and {second.label} have the same {key}, {number(best.value)}."
    values = f"{number(best.value)}, then {second.label} with {number(second.value)}"
    text = f"{best.label} is best on {key} with {values}."
    if found:
        low, high = found.interval
        chance = (
            "the order may be chance" if found.p_value >= SURE else "the choice of users does not explain it"
        )
        return (
            f"{text} Over the same {plural(found.users, 'user')} the difference is {found.difference:+.4f} "
            f"({LEVEL} interval {low:+.4f} to {high:+.4f}, p = {found.p_value:.4f}): {chance}."
        )
    if best.interval is None or second.interval is None:
        return f"{text} Without intervals nobody can say how sure this order is."
    if best.interval[0] > second.interval[1]:
        return f"{text} Their intervals do not overlap: the choice of users does not explain it."
    return f"{text} Their intervals overlap, so the order may be chance."


def _table(runs: Sequence[Run]) -> Table:
    keys = list(dict.fromkeys(key for run in runs for key in run.measured.metrics))
    best = {
        key: max(run.measured.metrics.get(key, float("-inf")) for run in runs)
        for key in keys
        if is_ranked(key)
    }
    rows = [[Cell(run.name), *_cells(run.measured.metrics, keys, best)] for run in runs]
    recorded = [run.measured.baselines for run in runs if run.measured.baselines]
    for name, values in recorded[0].items() if recorded else ():
        rows.append([Cell(name, "baseline"), *_cells(values, keys, {})])
    return Table("All metrics", ["run", *keys], rows)


def _cells(values: Mapping[str, float], keys: Sequence[str], best: Mapping[str, float]) -> list[Cell]:
    return [
        Cell(number(values.get(key)), strong=key in best and values.get(key) == best[key]) for key in keys
    ]
