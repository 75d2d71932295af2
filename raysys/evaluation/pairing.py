"""Two runs over the same users: by how much their metrics differ, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.errors import DataError
from raysys.evaluation.findings import LEVEL, Cell, Table, number, plural
from raysys.evaluation.resampling import paired_difference, paired_p_value
from raysys.evaluation.sections import Run

VALUES = "values.parquet"
SURE = 0.05
"""A difference whose p-value is below this is called sure."""
_SEED = 0  # the same runs give the same bytes


@dataclass(frozen=True)
class Pair:
    """One metric of two runs, user by user: the mean difference, its interval and its p-value."""

    key: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    users: int


OF_THE_MODEL = ("history_length",)
"""Recorded with the protocol, but a choice of the model: queries, targets and candidates are the same for
every value (docs/decisions/0011)."""


def terms(run: Run) -> dict[str, Any]:
    """Return what must be equal for two runs to be compared."""
    kept = {key: value for key, value in run.measured.protocol.items() if key not in OF_THE_MODEL}
    return {"part": run.measured.part, **kept}


def difference(run: Run, first: Run) -> str:
    """Return the terms in which a run differs from the first one, empty where it does not."""
    here, there = terms(run), terms(first)
    keys = [key for key in dict.fromkeys([*there, *here]) if here.get(key) != there.get(key)]
    return "; ".join(f"{key} is {number(here.get(key))}, not {number(there.get(key))}" for key in keys)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each protocol together, in the order of the first run of each."""
    found: list[list[Run]] = []
    for run in runs:
        group = next((group for group in found if terms(group[0]) == terms(run)), None)
        if group is None:
            found.append([run])
        else:
            group.append(run)
    return found


def can_pair(run: Run) -> bool:
    """Return whether the run kept the values of every user."""
    return run.evaluation is not None and run.evaluation.exists(VALUES)


def pair(run: Run, other: Run) -> list[Pair]:
    """Return `run` less `other` for every metric that both have a value of per user, in the order of `run`.

    Users are matched by id; one that a metric leaves out in either run is left out of it. The values of both
    runs are held in memory, 8 bytes per metric and user.

    Raises:
        DataError: runs of different protocols, without values of every user, or of different users.
    """
    apart = difference(run, other)
    if apart:
        raise DataError(
            f"{run.name} and {other.name} cannot be compared, because the protocol differs: {apart}; measure "
            "both under one protocol"
        )
    mine, theirs = _values(run), _values(other)
    place = pc.index_in(mine.column("user_id"), value_set=theirs.column("user_id").combine_chunks())
    if place.null_count or len(mine) != len(theirs):
        raise DataError(
            f"{run.name} and {other.name} cannot be paired: {plural(len(mine), 'user')} and {len(theirs):,}, "
            f"{place.null_count:,} of the former not among the latter; measure both on one set of users"
        )
    theirs = theirs.take(place)
    found: list[Pair] = []
    for key in (key for key in mine.column_names if key != "user_id" and key in theirs.column_names):
        a, b = (_floats(table.column(key)) for table in (mine, theirs))
        both = int((~np.isnan(a - b)).sum())
        if both:
            mean, low, high = paired_difference(a, b, _SEED)
            found.append(Pair(key, mean, (low, high), paired_p_value(a, b, _SEED), both))
    return found


def _values(run: Run) -> pa.Table:
    if run.evaluation is None or not run.evaluation.exists(VALUES):
        raise DataError(f"{run.name}: no evaluation/{VALUES}; run jobs/evaluate.py for this run again")
    with run.evaluation.open_input(VALUES) as file:
        return pq.read_table(file)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy()).astype(np.float64)


def paired_table(first: Run, pairs: Sequence[tuple[Run, Sequence[Pair]]]) -> Table:
    """Return one row per other run and metric."""
    rows = [
        [
            Cell(other.name),
            Cell(found.key),
            Cell(f"{found.difference:+.4f}", strong=found.p_value < SURE),
            Cell(f"{found.interval[0]:+.4f} to {found.interval[1]:+.4f}"),
            Cell(f"{found.p_value:.4f}"),
            Cell(number(found.users)),
        ]
        for other, several in pairs
        for found in several
    ]
    head = ["run", "metric", "difference", f"{LEVEL} interval", "p", "users"]
    return Table(f"{first.name} less each other run, user by user", head, rows, 2)
