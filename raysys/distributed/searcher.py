"""Where the values of the next trial come from: Optuna behind the interface of Ray Tune.

Ray's own Optuna searcher resumes from a pickle. This one is made anew from the trials on disk, which may come
from anywhere and are only JSON, and draws trial n with a generator of its own, so that a search that was
interrupted draws what it would have drawn.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raysys.config import digest, to_literal
from raysys.errors import ConfigError
from raysys.seeds import derive_seed
from raysys.storage import Folder
from raysys.tuning.importance import DIRECTIONS, distribution
from raysys.tuning.space import SearchSpace, Values, of_literals, to_literals
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import UNTUNED, Trial

NUMBER = "trial"
"""Key of Ray's config of a trial: its number; everything else is in its file."""
TRIES = 200
"""Draws in a row that may be impossible or known already before the search says so."""


class SpaceSearcher(Searcher):
    """Gives interrupted trials first, then new ones: the untuned first of all, then what Optuna suggests.

    Every trial is written down before it is given.

    Attributes:
        trials: by number, those of earlier calls and those given out.
        closed: whether it gives no more.
    """

    def __init__(self, space: SearchSpace, folder: Folder, earlier: Sequence[Trial]) -> None:
        super().__init__(metric=space.search.metric, mode=space.search.goal)
        self.space, self.folder = space, folder
        self.trials = {trial.number: trial for trial in earlier}
        self.waiting = [trial.number for trial in earlier if trial.status == "running"]
        self.study = optuna.create_study(direction=DIRECTIONS[space.search.goal], sampler=self._sampler(0))
        self.asked: dict[int, optuna.trial.Trial] = {}
        self.numbers: dict[str, int] = {}
        self.exhausted = self.closed = False
        for trial in earlier:
            if trial.status != "running":
                self._add(trial)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        search = self.space.search
        seed = derive_seed(search.seed, "draw", number) % 2**32
        if search.algorithm == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():  # constant_liar, which keeps parallel trials apart, is "experimental"
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=search.startup_trials, constant_liar=True
            )

    def _add(self, trial: Trial) -> None:
        """Tell Optuna of a trial of an earlier call."""
        score = trial.best(self.space.search.metric)
        state = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}.get(
            trial.status, TrialState.FAIL
        )
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state if score is not None else TrialState.FAIL,
                value=score if score is not None and state != TrialState.FAIL else None,
                params={key: self._known(key, value) for key, value in trial.values.items()},
                distributions={key: distribution(self.space.parameters[key]) for key in trial.literals},
                intermediate_values=self._intermediate(trial),
            )
        )

    def _known(self, key: str, value: Any) -> Any:
        """Return a value as Optuna holds it: a choice is text."""
        return to_literal(value) if self.space.parameters[key].type == "choice" else value

    def _intermediate(self, trial: Trial) -> dict[int, float]:
        metric = self.space.search.metric
        return {epoch + 1: entry[metric] for epoch, entry in enumerate(trial.curve)}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, or `FINISHED`."""
        if self.closed:
            return Searcher.FINISHED
        if self.waiting:
            number = self.waiting.pop(0)
            self._ask(number, self.trials[number].values)
        elif self._spent():
            return Searcher.FINISHED
        else:
            number = len(self.trials)
            values = self._ask(number, self.space.untuned()) if number == UNTUNED else self._draw(number)
            if values is None:
                return Searcher.FINISHED
            self.trials[number] = Trial(
                number=number,
                kind="search",
                literals=to_literals(values),
                seed=self.space.seed_of(values),
                of=number,
            )
        self.numbers[trial_id] = number
        self.trials[number].save(self.folder)
        return {NUMBER: number}

    def _spent(self) -> bool:
        search = self.space.search
        epochs = sum(trial.epochs for trial in self.trials.values())
        return (
            self.exhausted
            or len(self.trials) >= search.trials
            or bool(search.total_epochs and epochs >= search.total_epochs)
        )

    def _ask(self, number: int, values: Values) -> Values:
        """Take given values as if Optuna had suggested them."""
        self.study.enqueue_trial({key: self._known(key, value) for key, value in values.items()})
        asked = self.study.ask()
        drawn = self.space.draw(lambda key, parameter: _suggest(asked, key, parameter))
        self.asked[number] = asked
        return drawn

    def _draw(self, number: int) -> Values | None:
        """Return new values that go together, or None where the space seems to hold no others.

        Raises:
            ConfigError: no values were found that go together.
        """
        seen = {digest(trial.literals) for trial in self.trials.values()}
        self.study.sampler = self._sampler(number)
        reason = ""
        for _ in range(TRIES):
            asked = self.study.ask()
            values = self.space.draw(lambda key, parameter, asked=asked: _suggest(asked, key, parameter))
            try:
                self.space.run(values, 0)
            except ConfigError as error:
                reason = str(error)
            else:
                if digest(to_literals(values)) not in seen:
                    self.asked[number] = asked
                    return values
            self.study.tell(asked, state=TrialState.FAIL)
        if reason and len(self.trials) <= 1:
            raise ConfigError(f"[space]: of {TRIES} draws none can be trained; the last one: {reason}")
        self.exhausted = True
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna of an epoch."""
        epoch = int(result.get("epoch", 0))
        asked = self.asked[self.numbers[trial_id]]
        if epoch and epoch not in self.study.get_trials(deepcopy=False)[asked.number].intermediate_values:
            asked.report(float(result[self.space.search.metric]), epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended; one that was ended early counts with its best so far."""
        trial = self.trials[self.numbers[trial_id]]
        score = trial.best(self.space.search.metric)
        asked = self.asked.pop(trial.number)
        if error or score is None:
            self.study.tell(asked, state=TrialState.FAIL)
        elif trial.status == "finished":
            self.study.tell(asked, score)
        else:
            self.study.tell(asked, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the trials on disk hold everything."""
        with open(checkpoint_path, "wb"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        """Not used: a search resumes from its trials."""
        raise NotImplementedError


def _suggest(asked: optuna.trial.Trial, key: str, parameter: Parameter) -> Any:
    if parameter.type == "choice":
        text = asked.suggest_categorical(key, [to_literal(value) for value in parameter.values])
        return of_literals({key: str(text)})[key]
    log = parameter.scale == "log"
    if parameter.type == "int":
        return asked.suggest_int(key, parameter.min, parameter.max, log=log)
    return asked.suggest_float(key, parameter.min, parameter.max, log=log)
