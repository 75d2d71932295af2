"""The tuning stage: a search space and its base run to trials on Ray Tune, and to the best run file.

Ray Tune schedules the trials and ends them early. What a search has found is in the trials' own files
(`raysys.tuning.trials`), written at every epoch, and a stopped search goes on from them.
"""

import logging
import math
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from raysys.distributed.asha import scheduler_of
from raysys.distributed.board import Board
from raysys.distributed.checkpoints import ResumeFolder
from raysys.distributed.datasets import prepare
from raysys.distributed.packing import Node, Packing, pack
from raysys.distributed.placement_groups import free_group
from raysys.distributed.population import evolve
from raysys.distributed.relay import StopFlag, beside_driver, in_thread
from raysys.distributed.searcher import NUMBER, SpaceSearcher
from raysys.distributed.tracking import SearchTracking
from raysys.distributed.trial import FAILED, FINISHED, Search, TrialTraining
from raysys.logs import fields
from raysys.storage import Folder
from raysys.tuning.outputs import write_outputs
from raysys.tuning.page import search_page
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import AT_S, FOLDER, SEARCH_FILE, UNTUNED, Trial, place, ranked, read_generations
from raysys.tuning.words import short

logger = logging.getLogger(__name__)

GRACE_S = 90
"""How long the trials of a stopped search may take to write their checkpoints."""
TUNE_GRACE_S = 20
"""Of it, what Tune takes at most to end processes: 5 s for all, then 10 s more for each."""
RETRIES = 2
"""How often a trial whose process died is started again, from its last checkpoint."""
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials' own TensorBoard files say more
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # pickles that nobody reads
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails at once has no metric
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_run(space: SearchSpace, out: Folder, trials: Sequence[Trial]) -> list[Trial]:
    """Search a space, write `trials.parquet`, `best.toml` and `report.html` into `tune/`, and return all
    trials; see `search` for arguments and errors."""
    begin = time.monotonic()
    trials = search(space, out, trials)
    folder = out / FOLDER
    write_outputs(space, folder, trials)
    folder.write_bytes("report.html", search_page(space, trials, read_generations(folder)).encode())
    logger.info(fields(best=f"{folder.uri}/best.toml", seconds=time.monotonic() - begin))
    return trials


def search(space: SearchSpace, out: Folder, trials: Sequence[Trial]) -> list[Trial]:
    """Run the trials that are missing and return all of them.

    Args:
        space: what is searched.
        out: where `features/` and `tune/` are or will be.
        trials: those of earlier calls, from `open_search`.
    Raises:
        ConfigError: the cluster has no room for a trial, or no values go together.
    """
    folder = out / FOLDER
    features = _features(space, out)
    packing = pack(space.base, _nodes(), space.search.trials_at_once)
    logger.info(
        fields(
            search=space.name,
            trials=space.search.trials,
            done=sum(trial.status != "running" for trial in trials),
            at_once=packing.at_once,
            workers_each=max(space.base.cluster.workers, 1),
            epochs_at_most=space.epochs,
            metric=space.search.metric,
        )
    )
    shared = Search(space, folder, features, packing.threads, beside_driver(StopFlag))
    if space.search.scheduler == "pbt":
        found = evolve(
            space,
            folder,
            features[space.base.features_digest],
            trials,
            lambda searcher, until: _run(shared, packing, searcher, FIFOScheduler(), until),
        )
    else:
        searcher = SpaceSearcher(space, folder, trials)
        _run(shared, packing, searcher, scheduler_of(space, trials))
        found = [*searcher.trials.values()]
    repeats = _repeats(space, found)
    if repeats:
        again = FixedSearcher(space, folder, [*found, *repeats])
        _run(shared, packing, again, FIFOScheduler())
        found = [*again.trials.values()]
    return sorted(found, key=lambda trial: trial.number)


def _nodes() -> list[Node]:
    return [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def _features(space: SearchSpace, out: Folder) -> dict[str, Folder]:
    """Prepare every set of features that trials can need, and return them by digest."""
    found: dict[str, Folder] = {}
    for digest, run in space.feature_runs().items():
        at = out if digest == space.base.features_digest else out / FOLDER / "prepared" / digest
        found[digest] = prepare(run, at)
    return found


class FixedSearcher(SpaceSearcher):
    """Gives the trials that are not finished, and no others."""

    def _spent(self) -> bool:
        return True


def _repeats(space: SearchSpace, trials: Sequence[Trial]) -> list[Trial]:
    """Return trials of the best values and of the untuned ones under other seeds that are not there yet; none
    of a model without seeds."""
    search = space.search
    if not search.repeat_best or space.counts or any(trial.status == "running" for trial in trials):
        return []
    best = [trial.number for trial in ranked(trials, search.metric)[: search.repeat_best]]
    known = {(trial.of, trial.seed) for trial in trials if trial.kind == "repeat"}
    by_number = {trial.number: trial for trial in trials}
    wanted = [
        (of, space.repeat_seed(number))
        for number in range(search.repeat_seeds)
        for of in dict.fromkeys([*best, UNTUNED])
        if of in by_number
    ]
    missing = [pair for pair in wanted if pair not in known]
    return [
        Trial(number=len(trials) + i, kind="repeat", literals=by_number[of].literals, seed=seed, of=of)
        for i, (of, seed) in enumerate(missing)
    ]


class _Stop(tune.Stopper):
    """Ends all trials when time is up or somebody asks for it; time of earlier calls counts. Ends each one
    after so many epochs.

    Trials are first asked to end at the step they are at, with a checkpoint. Tune waits some seconds only for
    those that it ends.
    """

    def __init__(self, search: Search, searcher: SpaceSearcher, until: float) -> None:
        self.search, self.searcher, self.until = search, searcher, until
        self.limit_s = search.space.search.max_minutes * 60 or math.inf
        self.begin = time.monotonic() - search.folder.read_json(SEARCH_FILE)["elapsed_s"]
        self.running: set[int] = set()
        self.asked_at: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return result.get("epoch", 0) >= self.until

    @property
    def elapsed_s(self) -> float:
        """Seconds of the search so far, without the time between two calls."""
        return time.monotonic() - self.begin

    @property
    def over(self) -> bool:
        """Whether trials that end now are interrupted."""
        return self.asked_at is not None or self.elapsed_s > self.limit_s

    def ask(self) -> None:
        """Ask the trials to end."""
        if self.asked_at is None:
            if self.running:
                logger.info(fields(stopping="waiting for the checkpoints of the trials", at_most_s=GRACE_S))
            self.asked_at = time.monotonic()
            self.searcher.closed = True
            self.search.stop_flag.stop.remote()

    def stop_all(self) -> bool:
        """Return whether Tune shall end what still runs: nothing, what cannot stop, or what took too long."""
        if not self.over:
            return False
        self.ask()
        assert self.asked_at is not None
        late = time.monotonic() - self.asked_at > GRACE_S - TUNE_GRACE_S
        return late or not self.running or self.search.space.counts

    def save(self) -> None:
        """Write down how long the search has taken."""
        table = self.search.folder.read_json(SEARCH_FILE)
        self.search.folder.write_json(SEARCH_FILE, table | {"elapsed_s": self.elapsed_s})


class _Record(tune.Callback):
    """Writes down and shows how trials go."""

    def __init__(self, space: SearchSpace, folder: Folder, searcher: SpaceSearcher, stop: _Stop) -> None:
        self.space, self.folder, self.searcher, self.stop = space, folder, searcher, stop
        self.tracking = SearchTracking(space, folder)

    def _of(self, trial: Any) -> Trial:
        return self.searcher.trials[trial.config[NUMBER]]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Know that it may have something to write when it ends."""
        self.stop.running.add(self._of(trial).number)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the metrics of an epoch, unless it was kept before the search was interrupted."""
        own = self._of(trial)
        own.seconds += result["time_this_iter_s"]
        if FINISHED in result or result["epoch"] <= own.epochs:
            return
        kept = {key: float(value) for key, value in result.items() if "/" in key or key == "epoch"}
        own.curve.append(kept | {AT_S: self.stop.elapsed_s})
        own.save(self.folder)
        self.stop.save()
        self.tracking.epoch(own)
        metric = self.space.search.metric
        line = {"trial": own.number, "epoch": f"{own.epochs}/{self.space.epochs}"}
        leader = ranked(self.searcher.trials.values(), metric)[0]
        score = {metric: own.curve[-1][metric], "best": leader.best(metric), "of": leader.number}
        logger.info(fields(**line, **score, **self._told(own)))

    def _told(self, trial: Trial) -> dict[str, str]:
        if trial.kind == "repeat":
            return {"repeats": str(trial.of), "seed": str(trial.seed)}
        return {key.partition(".")[2]: short(value) for key, value in trial.literals.items()}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write down how a trial ended; one that was interrupted stays to go on."""
        own, last = self._of(trial), trial.last_result
        self.stop.running.discard(own.number)
        if last.get(FAILED):
            self._failed(own, last[FAILED])
            return
        if not last.get(FINISHED) and (self.stop.over or own.epochs >= self.stop.until):
            own.save(self.folder)
            return
        own.status = "finished" if last.get(FINISHED) else "stopped"
        own.save(self.folder)
        self.tracking.end(own)
        self._board(own)
        if own.status == "stopped":
            logger.info(fields(trial=own.number, ended="behind the others", epochs=own.epochs))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write down that the process of a trial died, more often than it is started again."""
        self.stop.running.discard(trial.config[NUMBER])
        free_group(place(self.folder, trial.config[NUMBER]) / ".checkpoint.resume")
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        self._failed(self._of(trial), lines[-1])

    def _board(self, own: Trial) -> None:
        """Make the trial a row of TensorBoard's HParams page."""
        best = own.best(self.space.search.metric)
        if best is None:
            return
        board = Board(place(self.folder, own.number) / "logs", 0)
        settings = {**own.values, "kind": own.kind, "of": own.of, "seed": own.seed}
        board.write_settings(settings, {f"hparam/{self.space.search.metric}": best})
        board.close()

    def _failed(self, own: Trial, reason: str) -> None:
        own.status, own.error = "failed", reason
        own.save(self.folder)
        self.tracking.end(own)
        logger.warning(fields(trial=own.number, failed=reason))


def _run(
    search: Search,
    packing: Packing,
    searcher: SpaceSearcher,
    scheduler: TrialScheduler,
    until: float = math.inf,
) -> None:
    """Run what the searcher gives until it has no more, time is up, or a signal comes; each trial up to an
    epoch."""
    space, folder = search.space, search.folder
    os.environ.update(TUNE_SETTINGS)
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)  # misses files that are switched off
    stop = _Stop(search, searcher, until)
    record = _Record(space, folder, searcher, stop)
    storage = folder / ".ray"
    objective: dict[str, Any] = {"metric": space.search.metric, "mode": space.search.goal}
    labels = [packing.labels] if packing.labels else None
    trainable: Any = tune.with_resources(
        tune.with_parameters(TrialTraining, search=search),
        tune.PlacementGroupFactory([packing.trial], bundle_label_selector=labels),
    )
    trainable.__qualname__ = TrialTraining.__qualname__  # which the Ray dashboard shows, not Tune's wrapper
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=10**6,
            max_concurrent_trials=packing.at_once,
            reuse_actors=packing.alone,
            trial_name_creator=lambda trial: f"trial-{trial.config[NUMBER]:04d}",
            trial_dirname_creator=lambda trial: f"{trial.config[NUMBER]:04d}",
            **({} if isinstance(scheduler, AsyncHyperBandScheduler) else objective),
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex,
            storage_path=storage.path,
            storage_filesystem=None if storage.is_local else storage.filesystem,
            stop=stop,
            callbacks=[record],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )

    try:
        in_thread(tuner.fit, lambda: None, stop.ask, GRACE_S)
    finally:
        record.tracking.close(searcher.trials.values())
        storage.delete()
        for trial in searcher.trials.values():  # what processes that were killed could not delete
            if trial.status == "stopped":
                ResumeFolder(place(folder, trial.number)).folder.delete()
