"""Trials on disk: what each was given, how it went, and who is best. A search resumes from these files alone.

tune/search.json          digest of the space, name of the metric
tune/population.json      under pbt: the moves at the end of every generation
tune/trials/0007/         trial.json, logs/, checkpoint/ or what a training under way keeps
"""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from raysys.errors import ConfigError
from raysys.storage import Folder
from raysys.training_config import goal
from raysys.tuning.space import SearchSpace, Values, of_literals

FOLDER, SEARCH_FILE, FILE = "tune", "search.json", "trial.json"
POPULATION_FILE = "population.json"
AT_S = "at_s"
UNTUNED = 0
"""Number of the trial that is the base run."""


@dataclass
class Trial:
    """One training of a search.

    Attributes:
        number: of its folder.
        kind: `search`, or `repeat` of a trial under another seed.
        literals: the searched keys that are active, values as TOML writes them.
        seed: `training.seed`.
        status: `running` is also one that was interrupted and goes on; `stopped` was ended early.
        curve: metrics by epoch, in order, and in `at_s` the seconds of the search at its end.
        seconds: from the start to the last report, over all its processes.
        of: the trial that a repeat repeats, else its own number.
        error: why it failed.
    """

    number: int
    kind: Literal["search", "repeat"]
    literals: dict[str, str]
    seed: int
    status: Literal["running", "finished", "stopped", "failed"] = "running"
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    seconds: float = 0.0
    of: int = -1
    error: str = ""

    @property
    def values(self) -> Values:
        return of_literals(self.literals)

    @property
    def epochs(self) -> int:
        return len(self.curve)

    def best(self, metric: str) -> float | None:
        """Return the best value over the epochs, which is what the checkpoint has; None before the first."""
        better = min if goal(metric) == "min" else max
        return better((entry[metric] for entry in self.curve), default=None)

    def save(self, folder: Folder) -> None:
        place(folder, self.number).write_json(FILE, dataclasses.asdict(self))


def place(folder: Folder, number: int) -> Folder:
    """Return where a trial keeps its outputs."""
    return folder / "trials" / f"{number:04d}"


def read_trials(folder: Folder) -> list[Trial]:
    """Return the trials of a search in the order of their numbers."""
    found: list[Trial] = []
    for name in folder.names("trials"):
        if folder.exists(f"trials/{name}/{FILE}"):
            found.append(Trial(**folder.read_json(f"trials/{name}/{FILE}")))
    return sorted(found, key=lambda trial: trial.number)


def read_generations(folder: Folder) -> list[dict[str, Any]]:
    """Return the generations of a population in order: `epoch`, `moves`, and whether they are made; none of
    another search."""
    return folder.read_json(POPULATION_FILE)["generations"] if folder.exists(POPULATION_FILE) else []


def open_search(space: SearchSpace, out: Folder, resume: bool) -> list[Trial]:
    """Return the trials of earlier calls, and write down what is searched.

    Args:
        space: what is searched.
        out: the folder that `tune/` is in.
        resume: whether a search that is there may go on.
    Raises:
        ConfigError: a search is there that is not to be resumed, or is one of another space.
    """
    folder = out / FOLDER
    identity = {"space": space.digest, "metric": space.search.metric}
    trials = read_trials(folder)
    if not trials:
        folder.write_json(SEARCH_FILE, identity | {"elapsed_s": 0.0})
        return []
    if not resume:
        raise ConfigError(
            f"{folder.uri}: holds a search of {len(trials)} trials; --resume goes on with it, another --out "
            "starts a new one"
        )
    found = folder.read_json(SEARCH_FILE)
    if {key: found.get(key) for key in identity} != identity:
        raise ConfigError(
            f"{folder.uri}: holds a search of another space or base run; give the same --space, --run and "
            "--set, or another --out"
        )
    return trials


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Return the searched trials that have a value, best first; of equal ones the earlier first."""
    scored = [trial for trial in trials if trial.kind == "search" and trial.best(metric) is not None]
    return sorted(scored, key=lambda trial: (-_gain(metric, trial.best(metric)), trial.number))


def _gain(metric: str, value: float | None) -> float:
    """Return a value such that a larger one is better."""
    return -(value or 0.0) if goal(metric) == "min" else value or 0.0


@dataclass(frozen=True)
class Spread:
    """A trial under several seeds: its values of the metric, mean and standard deviation (0 of one)."""

    of: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def spreads(trials: Iterable[Trial], metric: str) -> list[Spread]:
    """Return the repeated trials, best mean first."""
    found: dict[int, list[float]] = {}
    for trial in trials:
        best = trial.best(metric)
        if trial.kind == "repeat" and trial.status == "finished" and best is not None:
            found.setdefault(trial.of, []).append(best)
    every = [Spread(of, tuple(scores)) for of, scores in sorted(found.items())]
    return sorted(every, key=lambda spread: -_gain(metric, spread.mean))


def to_table(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> pa.Table:
    """Return one row per trial: `trial`, `kind`, `of`, `status`, `seed`, `epochs`, `best_epoch`, the metric,
    `seconds`, `error`, and a column of text per searched key, null where it is not active."""
    best = [trial.best(metric) for trial in trials]
    best_epochs = [
        next((i + 1 for i, entry in enumerate(trial.curve) if entry[metric] == value), None)
        for trial, value in zip(trials, best, strict=True)
    ]
    columns: dict[str, pa.Array] = {
        "trial": pa.array([trial.number for trial in trials], pa.int32()),
        "kind": pa.array([trial.kind for trial in trials], pa.string()),
        "of": pa.array([trial.of for trial in trials], pa.int32()),
        "status": pa.array([trial.status for trial in trials], pa.string()),
        "seed": pa.array([trial.seed for trial in trials], pa.int64()),
        "epochs": pa.array([trial.epochs for trial in trials], pa.int32()),
        "best_epoch": pa.array(best_epochs, pa.int32()),
        metric: pa.array(best, pa.float64()),
        "seconds": pa.array([trial.seconds for trial in trials], pa.float64()),
        "error": pa.array([trial.error for trial in trials], pa.string()),
    }
    for key in keys:
        columns[key] = _column([trial.values.get(key) for trial in trials])
    return pa.table(columns)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return numbers or flags as such, anything else as text."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    if known and all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.int64())
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
