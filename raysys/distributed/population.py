"""Population-based training on the trials of a search: generations of some epochs each, and between two of
them trials that lag take over the weights of better ones.

A generation ends for all trials before moves are made, so that a move depends on no order of events. Ray's
own scheduler keeps what it knows in a pickle and draws from a global generator; here the moves of every
generation are in `population.json`, written before a weight is copied, and copied again where the copying was
interrupted: nobody trains on before all moves of a generation are made.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

from raysys.distributed.checkpoints import ResumeFolder, catalog_of, identity_of
from raysys.distributed.searcher import SpaceSearcher
from raysys.errors import ConfigError
from raysys.logs import fields
from raysys.manifest import Manifest, read_manifest
from raysys.planning.parameters import model_size
from raysys.storage import Folder
from raysys.tuning.population import Move, ends, moves
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import POPULATION_FILE, Trial, place, read_generations
from raysys.tuning.words import short

logger = logging.getLogger(__name__)

Generation = Callable[[SpaceSearcher, float], None]
"""Trains what a searcher gives up to an epoch."""


def evolve(
    space: SearchSpace, folder: Folder, features: Folder, trials: Sequence[Trial], train: Generation
) -> list[Trial]:
    """Train a population to its end, or until the search is stopped, and return its trials.

    Args:
        space: what is searched.
        folder: `tune/`.
        features: what all trials train on.
        trials: those of earlier calls.
        train: trains a generation.
    Raises:
        ConfigError: a searched key makes another model, so that weights cannot be handed on.
    """
    manifest = read_manifest(features, "features", "prepare")
    check_shapes(space, features, manifest)
    found, epochs, each = list(trials), space.base.training.epochs, space.search.exploit_epochs
    for until in range(each, epochs + each, each):
        last = until >= epochs
        searcher = SpaceSearcher(space, folder, found)
        searcher.waiting = [number for number in searcher.waiting if searcher.trials[number].epochs < until]
        if searcher.waiting or len(found) < space.search.trials:
            train(searcher, math.inf if last else until)
        found = sorted(searcher.trials.values(), key=lambda trial: trial.number)
        members = [trial for trial in found if trial.kind == "search" and trial.status != "failed"]
        if last or any(trial.status == "running" and trial.epochs < until for trial in members):
            break
        exploit(space, folder, manifest, members, until)
    return found


def exploit(
    space: SearchSpace, folder: Folder, manifest: Manifest, members: Sequence[Trial], epoch: int
) -> None:
    """Make the moves at the end of an epoch, unless they are made; the trials are changed in place."""
    generations = read_generations(folder)
    if generations and generations[-1]["epoch"] >= epoch and generations[-1]["made"]:
        return
    if not generations or generations[-1]["epoch"] < epoch:
        chosen = [dataclasses.asdict(move) for move in moves(space, members, epoch)]
        generations.append({"epoch": epoch, "moves": chosen, "made": False})
        folder.write_json(POPULATION_FILE, {"generations": generations})
    by_number = {trial.number: trial for trial in members}
    for entry in generations[-1]["moves"]:
        move = Move(**entry)
        _make(space, folder, manifest, move, by_number[move.number], by_number[move.of])
    generations[-1]["made"] = True
    folder.write_json(POPULATION_FILE, {"generations": generations})


def _make(
    space: SearchSpace, folder: Folder, manifest: Manifest, move: Move, trial: Trial, better: Trial
) -> None:
    """Hand the weights of one trial, the state of its optimiser and its curve to another."""
    trial.literals, trial.curve = dict(move.literals), [dict(entry) for entry in better.curve]
    source = ResumeFolder(place(folder, better.number))
    run = space.run(trial.values, trial.seed)
    ResumeFolder(place(folder, trial.number)).take(source, identity_of(run, manifest))
    trial.save(folder)
    changed = {key: value for key, value in move.literals.items() if better.literals.get(key) != value}
    metric = space.search.metric
    logger.info(
        fields(
            trial=trial.number,
            takes_over=better.number,
            **{metric: move.score, "of_the_other": better.curve[-1][metric]},
            **{key.partition(".")[2]: short(value) for key, value in changed.items()},
        )
    )


def check_shapes(space: SearchSpace, features: Folder, manifest: Manifest) -> None:
    """Refuse keys under which the model has other parameters.

    Raises:
        ConfigError: naming the key.
    """
    catalog = catalog_of(features, manifest)
    untuned, base = space.untuned(), model_size(space.base, catalog, catalog.num_items)
    for key, parameter in space.parameters.items():
        for value in ends(parameter):
            try:
                run = space.run({**untuned, key: value}, 0)
            except ConfigError:
                continue  # does not go with the other values, and is never drawn with them
            if model_size(run, catalog, catalog.num_items) != base:
                raise ConfigError(
                    f'space.{key}: under another value the model has other parameters, and scheduler = "pbt" '
                    'hands them from trial to trial; leave the key out, or use scheduler = "asha"'
                )
