"""Who ends the trials of a search early: Ray Tune's ASHA, told of the trials of earlier calls."""

from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from raysys.distributed.searcher import NUMBER
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import UNTUNED, Trial


class Asha(AsyncHyperBandScheduler):
    """ASHA that lets the untuned trial run to its end: the gain of a search is measured against it."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on; what the untuned one reached counts at its rungs."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config[NUMBER] == UNTUNED else decision


def scheduler_of(space: SearchSpace, trials: Sequence[Trial]) -> TrialScheduler:
    """Return who ends trials early, knowing of the trials of earlier calls."""
    search = space.search
    if search.scheduler == "none" or space.counts:
        return FIFOScheduler()
    scheduler = Asha(
        time_attr="epoch",
        max_t=space.epochs,
        grace_period=min(search.grace_epochs, space.epochs),
        reduction_factor=search.reduction_factor,
        stop_last_trials=False,  # a trial ends by itself
    )
    scheduler.set_search_properties(search.metric, search.goal)
    for trial in trials:
        if trial.status != "running" and trial.curve:
            _tell(scheduler, trial, search.metric)
    return scheduler


class _Known:
    """As much of Ray's trial as a scheduler asks for."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"earlier-{number}", {NUMBER: number}


def _tell(scheduler: AsyncHyperBandScheduler, trial: Trial, metric: str) -> None:
    known: Any = _Known(trial.number)
    controller: Any = None
    scheduler.on_trial_add(controller, known)
    for epoch, entry in enumerate(trial.curve):
        scheduler.on_trial_result(controller, known, {"epoch": epoch + 1, metric: entry[metric]})
    scheduler.on_trial_remove(controller, known)
