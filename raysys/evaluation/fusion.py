"""What gated fusion takes from the session and from the long term, by the length of the session."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysys.evaluation import plots
from raysys.evaluation.findings import Cell, Table, number, plural

LENGTHS = (0, 1, 2, 3, 5, 10, 20, 50)
"""Where the buckets of session lengths begin, in items."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, eq=False)
class GateValues:
    """Values per user; those of blocks of users are put together in any order.

    Attributes:
        lengths: (Q,) int64, items in the session.
        gates: (Q,) float32, the mean share of the session in the user vector, in [0, 1].
    """

    lengths: NDArray[np.int64]
    gates: NDArray[np.float32]

    def merge(self, other: "GateValues") -> "GateValues":
        """Return the values of the users of both."""
        return GateValues(
            np.concatenate([self.lengths, other.lengths]), np.concatenate([self.gates, other.gates])
        )

    def result(self) -> dict[str, Any]:
        """Return `users`, `mean`, and per bucket of lengths with users `length`, `users`, `mean` and
        `quantiles` (those of `QUANTILES`)."""
        place = np.searchsorted(LENGTHS, self.lengths, side="right") - 1
        rows: list[dict[str, Any]] = []
        for bucket, start in enumerate(LENGTHS):
            mine = np.sort(self.gates[place == bucket].astype(np.float64))
            if len(mine):
                rows.append(
                    {
                        "length": _name(bucket, start),
                        "users": len(mine),
                        "mean": float(mine.mean()),
                        "quantiles": np.quantile(mine, QUANTILES).tolist(),
                    }
                )
        return {"users": len(self.gates), "mean": float(np.sort(self.gates).mean()), "by_length": rows}


def _name(bucket: int, start: int) -> str:
    stop = LENGTHS[bucket + 1] - 1 if bucket + 1 < len(LENGTHS) else None
    return f"{start}+" if stop is None else str(start) if stop == start else f"{start}-{stop}"


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
