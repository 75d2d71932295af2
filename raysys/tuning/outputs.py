"""What a search leaves: the table of its trials, the best run file, and the leaderboard."""

import io
from collections.abc import Sequence

import pyarrow.parquet as pq

from raysys.errors import TrainingError
from raysys.evaluation.findings import Cell, Table, aligned
from raysys.run import RunConfig
from raysys.storage import Folder
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import UNTUNED, Trial, ranked, spreads, to_table
from raysys.tuning.words import name_of, short

SHOWN = 10


def best_of(trials: Sequence[Trial], metric: str) -> Trial:
    """Return the trial with the best mean over seeds where trials were repeated, else with the best value.

    Raises:
        TrainingError: no trial has a value.
    """
    by_number = {trial.number: trial for trial in trials}
    repeated = spreads(trials, metric)
    if repeated:
        return by_number[repeated[0].of]
    scored = ranked(trials, metric)
    if not scored:
        reasons = sorted({trial.error for trial in trials if trial.error})
        raise TrainingError(f"no trial has a value of {metric}: {'; '.join(reasons) or 'none was trained'}")
    return scored[0]


def best_run(space: SearchSpace, best: Trial) -> RunConfig:
    """Return the run of a trial as others run it: under the base run's own seed."""
    return space.run(best.values, space.base.training.seed)


def write_outputs(space: SearchSpace, folder: Folder, trials: Sequence[Trial]) -> None:
    """Write `trials.parquet` and `best.toml` into `tune/`."""
    metric = space.search.metric
    best = best_of(trials, metric)
    buffer = io.BytesIO()
    pq.write_table(to_table(trials, list(space.parameters), metric), buffer)
    folder.write_bytes("trials.parquet", buffer.getvalue())
    found = f"{_score(trials, best, metric)} on the validation part"
    header = f"# Trial {best.number} of the search {space.name} for {metric}: {found}.\n\n"
    folder.write_bytes("best.toml", (header + best_run(space, best).to_toml()).encode())


def _score(trials: Sequence[Trial], trial: Trial, metric: str) -> str:
    found = next((spread for spread in spreads(trials, metric) if spread.of == trial.number), None)
    if found is None:
        return f"{trial.best(metric):.4f}"
    return f"{found.mean:.4f} ± {found.deviation:.4f} over {len(found.scores)} seeds"


def leaderboard(space: SearchSpace, trials: Sequence[Trial]) -> list[Table]:
    """Return the best trials with their values, and how the repeated ones spread over seeds."""
    metric = space.search.metric
    keys = [key for key in space.parameters if any(key in trial.literals for trial in trials)]
    scored = ranked(trials, metric)
    shown = scored[:SHOWN] + [trial for trial in scored[SHOWN:] if trial.number == UNTUNED]
    rows = [
        [
            Cell(name_of(trial.number)),
            Cell(trial.status),
            Cell(str(trial.epochs)),
            Cell(f"{trial.best(metric):.4f}"),
            *(Cell(short(trial.literals.get(key, "–"))) for key in keys),
        ]
        for trial in shown
    ]
    head = ["trial", "status", "epochs", metric, *(key.partition(".")[2] for key in keys)]
    tables = [Table(f"The best of {len(scored)} trials", head, rows, text_columns=2)]
    repeated = spreads(trials, metric)
    if repeated:
        rows = [
            [
                Cell(name_of(spread.of)),
                Cell(f"{spread.mean:.4f}"),
                Cell(f"{spread.deviation:.4f}"),
                Cell(str(len(spread.scores))),
            ]
            for spread in repeated
        ]
        head = ["trial", f"mean {metric}", "standard deviation", "seeds"]
        tables.append(Table("The best again, under other seeds", head, rows, text_columns=1))
    return tables


def every_trial(space: SearchSpace, trials: Sequence[Trial]) -> Table:
    """Return all trials in the order of their numbers."""
    metric = space.search.metric
    rows = [
        [
            Cell(name_of(trial.number)),
            Cell(f"repeats {trial.of}" if trial.kind == "repeat" else "search"),
            Cell(trial.status),
            Cell(str(trial.seed)),
            Cell(str(trial.epochs)),
            Cell("–" if (best := trial.best(metric)) is None else f"{best:.4f}"),
            Cell(f"{trial.seconds:,.0f}"),
        ]
        for trial in trials
    ]
    head = ["trial", "kind", "status", "seed", "epochs", metric, "seconds"]
    return Table("Every training", head, rows, text_columns=3)


def summary(space: SearchSpace, trials: Sequence[Trial]) -> str:
    """Return the leaderboard as text."""
    return "\n\n".join(f"{table.title}\n\n{aligned(table)}" for table in leaderboard(space, trials))
