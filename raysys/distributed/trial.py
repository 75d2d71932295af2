"""A trial of a search as Ray Tune runs it: the ordinary training, one epoch a step.

The training runs in a thread of the trial's process, which waits at the end of an epoch until Tune has
decided what becomes of the trial. A group of workers is ended by its own trainer before the process of the
trial ends: Ray 2.60 leaves the placement group of a trainer behind whose process was killed, and its CPUs or
GPUs with it.
"""

import queue
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray import tune

from raysys.distributed.checkpoints import ResumeFolder, State
from raysys.distributed.relay import StopWish
from raysys.distributed.searcher import NUMBER
from raysys.distributed.tables import validate_table
from raysys.distributed.trainer import GRACE_S, TrainingStopped, train
from raysys.errors import RaysysError
from raysys.manifest import find_manifest
from raysys.storage import Folder
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import FILE, Trial, place

FINISHED = "finished"
"""Key of a result: whether the training came to its own end."""
FAILED = "failed"
"""Key of a result: why the training cannot go on."""


@dataclass(frozen=True)
class Search:
    """What all trials share; small enough to send.

    Attributes:
        space: what is searched.
        folder: `tune/`.
        features: by digest, all that trials can need.
        threads: of a training in the trial's own process.
        stop_flag: an actor, a `StopFlag`: Tune tells a trial nothing before its epoch has ended.
    """

    space: SearchSpace
    folder: Folder
    features: dict[str, Folder]
    threads: int
    stop_flag: Any


class TrialTraining(tune.Trainable):
    """Trains the run of one trial; see `raysys.distributed.tuner`."""

    def setup(self, config: dict[str, Any], search: Search) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # `with_parameters` gives the second
        """Read what the trial is; epochs that are on disk already are reported first."""
        self.search = search
        torch.set_num_threads(search.threads)
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        search = self.search
        self.out = place(search.folder, config[NUMBER])
        trial = Trial(**self.out.read_json(FILE))
        self.run = search.space.run(trial.values, trial.seed)
        if search.space.counts:  # in this process
            self.run = replace(self.run, cluster=replace(self.run.cluster, workers=0))
        self.features = search.features[self.run.features_digest]
        self.results: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self.go_on, self.stopped = threading.Semaphore(0), threading.Event()
        self.wish = StopWish(search.stop_flag)
        self.thread: threading.Thread | None = None
        self.last: dict[str, Any] = {}
        state = self._state()
        for entry in state.curve:
            self.results.put(dict(entry))
        self.replayed = len(state.curve)

    def _state(self) -> State:
        """Return where the training stands."""
        checkpoint = self.out / "checkpoint"
        if self.search.space.counts:
            return State()
        if find_manifest(checkpoint, "checkpoint"):
            return State(**checkpoint.read_json("state.json"))
        return ResumeFolder(self.out).load()

    def step(self) -> dict[str, Any]:
        """Return the metrics of the next epoch, or of the last one again when the training has ended."""
        if self.replayed:
            self.replayed -= 1
        elif self.thread is None:
            self.thread = threading.Thread(target=self._train, daemon=True)
            self.thread.start()
        else:
            self.go_on.release()
        found = self.results.get()
        if isinstance(found, BaseException):
            raise found
        self.last = {**self.last, **found}
        return dict(self.last)

    def _train(self) -> None:
        try:
            checkpoint = train(self.run, self.out, self.features, self)
            if self.search.space.counts:
                metrics = validate_table(self.run, checkpoint, self.features)
                self.report({**metrics, "epoch": 1}, checkpoint.uri)
            self.results.put({FINISHED: True, "done": True})
        except TrainingStopped:
            self.results.put({FINISHED: False, "done": True})
        except RaysysError as error:  # would come again
            self.results.put({FINISHED: False, "done": True, FAILED: str(error)})
        except BaseException as error:
            self.results.put(error)

    def report(self, metrics: dict[str, float], path: str) -> None:
        """Hand on an epoch and wait for Tune's decision; see `trainer.Watcher`."""
        self.results.put(metrics)
        self.go_on.acquire()
        if self.stopped.is_set() and threading.current_thread() is self.thread:
            raise TrainingStopped  # reports of other workers come on a thread of theirs, which goes on

    def stopping(self) -> bool:
        """See `trainer.Watcher`."""
        return self.stopped.is_set() or self.wish()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, which saves the start of a process."""
        self.cleanup()
        if self.thread and self.thread.is_alive():
            return False
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """End the training and its workers, and wait until they are gone; then a trial that was ended early
        needs no checkpoint."""
        self.stopped.set()
        self.go_on.release()
        if self.thread:
            self.thread.join(GRACE_S)
        ended = not (self.thread and self.thread.is_alive())
        if ended and self.out.read_json(FILE)["status"] == "stopped":
            ResumeFolder(self.out).folder.delete()
