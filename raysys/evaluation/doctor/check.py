"""The result of a check, and of all of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raysys.errors import DataError

State = Literal["ok", "warning", "fault", "not checked"]
ORDER = (
    "stages_fit", "stored_order", "held_out_events", "future_items", "history_truncation", "short_long_apart",
    "training_matrix", "split_leakage", "reserved_items", "accidental_hits", "sampler_order",
    "logq_correction", "exported_vectors", "training_similarity", "index_order", "same_user_same_vectors",
    "chance_level", "vectors_find_targets", "untrained_self", "collapsed_interests", "saturated_gate",
    "learning_curve", "cold_start", "likely_mistakes",
)  # fmt: skip
"""The checks, the most important first: what makes every figure wrong, then what makes a model bad."""
STATES: tuple[State, ...] = ("ok", "warning", "fault", "not checked")


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: short and stable, for programs.
        state: a fault makes figures wrong or a model useless; a warning is worth a look.
        looked_at: what was examined, with counts; of "not checked" the reason.
        found: the figure, in words.
        remedy: what to do, with file, key or section; empty unless fault or warning.
        figures: the numbers behind `found`, finite.
    """

    name: str
    state: State
    looked_at: str
    found: str = ""
    remedy: str = ""
    figures: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def line(self) -> str:
        """The check as one line."""
        text = ": ".join(part for part in (self.looked_at, self.found) if part)
        return f"{self.state:<12} {self.name:<20} {text}" + (f"; {self.remedy}" if self.remedy else "")


def judged(
    name: str,
    looked_at: str,
    found: str,
    remedy: str,
    *,
    fault: bool = False,
    warning: bool = False,
    figures: Mapping[str, float],
) -> Check:
    """Return a check that was carried out; the remedy is kept where something was found, figures that are
    numbers."""
    state: State = "fault" if fault else "warning" if warning else "ok"
    finite = {key: value for key, value in figures.items() if math.isfinite(value)}
    return Check(name, state, looked_at, found, "" if state == "ok" else remedy, finite)


def not_checked(name: str, reason: str) -> Check:
    """Return a check that could not be carried out."""
    return Check(name, "not checked", reason)


@dataclass(frozen=True)
class Diagnosis:
    """All checks of a run, the most important first."""

    checks: Sequence[Check]

    @staticmethod
    def of(checks: Sequence[Check]) -> "Diagnosis":
        """Return the diagnosis of checks in any order."""
        return Diagnosis(sorted(checks, key=lambda check: ORDER.index(check.name)))

    @property
    def faults(self) -> list[Check]:
        """The checks that found a fault."""
        return [check for check in self.checks if check.state == "fault"]

    @property
    def summary(self) -> str:
        """How many checks came out how."""
        counts = Counter(check.state for check in self.checks)
        names = {"warning": "warnings", "fault": "faults"}
        parts = [
            f"{counts[state]} {state if counts[state] == 1 else names.get(state, state)}" for state in STATES
        ]
        return f"{len(self.checks)} checks: {', '.join(parts)}"

    @property
    def text(self) -> str:
        """One line per check, and a last one that sums up."""
        return "\n".join([*(check.line for check in self.checks), self.summary])

    def to_table(self) -> dict[str, Any]:
        """Return the content of doctor.json."""
        counts = Counter(check.state for check in self.checks)
        return {
            "summary": {state.replace(" ", "_"): counts[state] for state in STATES},
            "checks": [asdict(check) for check in self.checks],
        }

    def raise_faults(self) -> None:
        """Raise DataError with the first fault and the number of faults, where there are any."""
        if self.faults:
            first = self.faults[0]
            count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults, the first"
            raise DataError(f"{count}: {first.name}: {first.looked_at}: {first.found}; {first.remedy}")
