"""What the report says of a fusion's gate: how much of the user vectors comes from the session."""

from collections.abc import Mapping
from typing import Any

from raysys.evaluation import plots
from raysys.evaluation.findings import Cell, Table, number, plural
from raysys.evaluation.gate import QUANTILES

Gate = Mapping[str, Any]


def lead(gate: Gate) -> str:
    """Return how much of the user vectors comes from the session, and where most and least."""
    told = (
        f"On average {gate['mean']:.0%} of a user's vector come from the session and {1 - gate['mean']:.0%} "
        "from the long term: the mean of the gate over its numbers."
    )
    rows = [row for row in gate["by_length"] if row["length"] != "0"]
    if len(rows) < 2:
        return told
    most, least = max(rows, key=lambda row: row["mean"]), min(rows, key=lambda row: row["mean"])
    return (
        f"{told} It is highest for sessions of {_items(most)} ({most['mean']:.0%}) and lowest for those of "
        f"{_items(least)} ({least['mean']:.0%})."
    )


def _items(row: Mapping[str, Any]) -> str:
    return f"{row['length']} item{'' if row['length'] == '1' else 's'}"


def figures(gate: Gate, anchor: str) -> list[str]:
    """Return the median of the gate with the middle four fifths, by length of the session."""
    rows = [
        plots.DotRow(
            _items(row),
            row["quantiles"][2],
            (row["quantiles"][0], row["quantiles"][-1]),
            {"mean": row["mean"]},
        )
        for row in gate["by_length"]
    ]
    told = "; ".join(f"{row.label}: {number(row.value)}" for row in rows)
    message = f"Share of the session in the user vector by length of the session, medians. {told}."
    return [plots.dot_plot(rows, "median, and the middle 80 %", f"{anchor}-gate", message)] if rows else []


def tables(gate: Gate) -> list[Table]:
    """Return the quantiles of the gate by length of the session."""
    names = [f"{quantile:.0%}" for quantile in QUANTILES]
    rows = [
        [
            Cell(row["length"]),
            Cell(number(row["users"])),
            Cell(number(row["mean"]), bar=row["mean"]),
            *(Cell(number(value)) for value in row["quantiles"]),
        ]
        for row in gate["by_length"]
    ]
    title = f"Gate by items in the session, {plural(gate['users'], 'user')}"
    return [Table(title, ["items", "users", "mean", *names], rows)]
