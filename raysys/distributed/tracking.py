"""MLflow runs of trainings and searches: parameters, metrics by epoch, and the metrics of the test part.

Everything is sent from a thread of the process that called the training, one request after the other, so a
server that is slow or down holds nothing up: after the first failure one warning is written and no more is
sent. A folder's `mlflow.json` names its MLflow run, in which a training that is resumed goes on.
"""

import importlib.util
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from raysys import config
from raysys.errors import ConfigError
from raysys.logs import fields
from raysys.run import RunConfig, TrackingConfig
from raysys.storage import Folder, public_uri
from raysys.tuning.space import SearchSpace
from raysys.tuning.trials import Trial, place, ranked

logger = logging.getLogger(__name__)

FILE = "mlflow.json"
VALID = "valid/"
"""What every epoch has metrics of."""
CLOSE_S = 30.0
"""How long the end of a stage waits for what is still to be sent."""
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request to make a run, sent again, makes a second one
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Of the client, where the environment says nothing else: seconds, and tries after the first."""
MAX_PARAMS, MAX_TEXT = 100, 500
"""What MLflow takes in one request, and as one value."""


def require_package(tracking: TrackingConfig) -> None:
    """Raise ConfigError where a run is to be tracked and the package is missing."""
    if tracking.mlflow and importlib.util.find_spec("mlflow") is None:
        raise ConfigError("tracking.mlflow: needs the package mlflow; pip install raysys[mlflow]")


def params_of(run: RunConfig) -> dict[str, str]:
    """Return the run as dotted key -> text, without what may hold credentials and without `[tracking]`."""
    tables = config.parse_toml(run.to_toml(), "run")
    tables.pop("tracking", None)
    return {key: str(value)[:MAX_TEXT] for key, value in _flat(tables, "").items()}


def _flat(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


class Tracker:
    """Sends to the server that a run names; without one it does nothing."""

    def __init__(self, tracking: TrackingConfig) -> None:
        self.tracking, self.client = tracking, None
        self.failed = False
        self.requests: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[type["Tracker"], tuple[TrackingConfig]]:
        return Tracker, (TrackingConfig(),)  # Tune writes its callbacks down: a copy sends nothing

    def start(
        self,
        folder: Folder,
        name: str,
        params: Mapping[str, str],
        identity: str,
        parent: Folder | None = None,
        curve: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Go on with the MLflow run of a folder, or make one.

        Args:
            folder: what `mlflow.json` is written into.
            name: of a new run.
            params: its parameters.
            identity: another one than that in the file makes a new run.
            parent: folder of the run that a new one is nested in.
            curve: epochs of a resumed training; those that were not sent are.
        """

        def send() -> None:
            known: dict[str, Any] = self._known(folder)
            same = known.get("identity") == [identity, *self._place]
            if same and self._again(known["run"]):
                folder.write_json(FILE, known | {"epochs": self._sent(known["run"])})
            else:
                tags = {"raysys.out": folder.uri, "raysys.model": params.get("model.name", "")}
                if parent is not None:
                    tags["mlflow.parentRunId"] = self._known(parent)["run"]
                experiment = self._experiment()
                run = self._client().create_run(experiment, run_name=name, tags=tags)
                identified = {"run": run.info.run_id, "identity": [identity, *self._place], "epochs": 0}
                folder.write_json(FILE, identified)
                self._params(run.info.run_id, params)
            for entry in curve:
                self._epoch(folder, entry)

        self._put(send)

    def epoch(self, folder: Folder, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, which they hold as `epoch`; one that was logged is not again."""
        self._put(lambda: self._epoch(folder, dict(metrics)))

    def results(self, folder: Folder, metrics: Mapping[str, float]) -> None:
        """Log final metrics in the run of a folder; one that was never tracked gets none."""

        def send() -> None:
            if known := self._known(folder):
                self._metrics(known["run"], metrics, known["epochs"])

        self._put(send)

    def end(self, folder: Folder, status: str = "FINISHED") -> None:
        """Mark the run of a folder as FINISHED, KILLED or FAILED."""
        self._put(lambda: self._client().set_terminated(self._known(folder)["run"], status))

    def close(self) -> None:
        """Wait a while until everything is sent, and say so if it is not."""
        if self.thread is None:
            return
        self.requests.put(None)
        self.thread.join(CLOSE_S)
        if self.thread.is_alive():
            self._warn(f"no answer within {CLOSE_S:g} s")
        self.thread = None

    def _put(self, send: Callable[[], None]) -> None:
        if not self.tracking.mlflow or self.failed:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._send, daemon=True)
            self.thread.start()
        self.requests.put(send)

    def _send(self) -> None:
        while (send := self.requests.get()) is not None:
            if self.failed:
                continue
            try:
                send()
            except Exception as error:  # whatever the client raises: a run is worth more than its record
                self._warn(str(error))

    def _warn(self, reason: str) -> None:
        if self.failed:
            return
        self.failed = True
        shown = public_uri(self.tracking.mlflow)
        reason = reason.replace(self.tracking.mlflow, shown)
        for secret in self._secrets():
            reason = reason.replace(secret, "…")
        logger.warning(
            fields(mlflow=shown, not_tracked=" ".join(reason.split())[:300], training="goes on without it")
        )

    def _secrets(self) -> list[str]:
        credentials = self.tracking.mlflow.partition("://")[2].partition("/")[0].rpartition("@")[0]
        return [text for text in (credentials, *credentials.split(":")) if text]

    @property
    def _place(self) -> list[str]:
        return [public_uri(self.tracking.mlflow), self.tracking.experiment]

    def _client(self) -> Any:
        if self.client is None:
            for key, value in SETTINGS.items():
                os.environ.setdefault(key, value)
            logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings of every try name the URI
            from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports] # optional

            self.client = MlflowClient(self.tracking.mlflow)
        return self.client

    def _experiment(self) -> str:
        found = self._client().get_experiment_by_name(self.tracking.experiment)
        return found.experiment_id if found else self._client().create_experiment(self.tracking.experiment)

    def _again(self, run: str) -> bool:
        """Mark a run as running again; False where the server has it no longer."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports] # optional

        try:
            self._client().update_run(run, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return False
        return True

    def _sent(self, run: str) -> int:
        """Return the last epoch that the server has; who was killed may have sent one more than he wrote."""
        client = self._client()
        logged = [key for key in client.get_run(run).data.metrics if key.startswith(VALID)][:1]
        steps = (entry.step for key in logged for entry in client.get_metric_history(run, key))
        return max(steps, default=0)

    def _params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports] # optional

        entities = [Param(key, value) for key, value in params.items()]
        for first in range(0, len(entities), MAX_PARAMS):
            self._client().log_batch(run, params=entities[first : first + MAX_PARAMS])

    def _epoch(self, folder: Folder, metrics: Mapping[str, float]) -> None:
        known = self._known(folder)
        epoch = int(metrics["epoch"])
        if epoch > known["epochs"]:
            self._metrics(known["run"], metrics, epoch)
            folder.write_json(FILE, known | {"epochs": epoch})

    def _metrics(self, run: str, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports] # optional

        now = int(time.time() * 1000)
        entities = [
            Metric(key.replace("@", "_at_"), float(value), now, step)  # MLflow has no @ in names
            for key, value in metrics.items()
            if key != "epoch" and math.isfinite(value)
        ]
        self._client().log_batch(run, metrics=entities)

    def _known(self, folder: Folder) -> dict[str, Any]:
        return folder.read_json(FILE) if folder.exists(FILE) else {}


def record_results(run: RunConfig, out: Folder, metrics: Mapping[str, float]) -> None:
    """Log final metrics in the MLflow run of a training's folder, if it has one."""
    tracker = Tracker(run.tracking)
    tracker.results(out, metrics)
    tracker.close()


class SearchTracking:
    """A search as an MLflow run, and its trials as runs nested in it."""

    def __init__(self, space: SearchSpace, folder: Folder) -> None:
        self.space, self.folder, self.tracker = space, folder, Tracker(space.base.tracking)
        name = folder.uri.rpartition("/")[0].rpartition("/")[2]
        self.tracker.start(folder, name, params_of(space.base), space.digest)
        self.begun: set[int] = set()

    def epoch(self, trial: Trial) -> None:
        """Log the last epoch of a trial."""
        self._begin(trial)
        self.tracker.epoch(place(self.folder, trial.number), trial.curve[-1])

    def end(self, trial: Trial) -> None:
        """Mark a trial that has ended: one that was stopped early is KILLED."""
        self._begin(trial)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[trial.status]
        self.tracker.end(place(self.folder, trial.number), status)

    def close(self, trials: Collection[Trial]) -> None:
        """Log the best value and mark the search: KILLED while trials are left to go on."""
        metric = self.space.search.metric
        if best := ranked(trials, metric):
            self.tracker.results(self.folder, {metric: best[0].best(metric) or 0.0})
        left = any(trial.status == "running" for trial in trials)
        self.tracker.end(self.folder, "KILLED" if left else "FINISHED")
        self.tracker.close()

    def _begin(self, trial: Trial) -> None:
        if trial.number in self.begun or not self.space.base.tracking.mlflow:
            return
        self.begun.add(trial.number)
        params = params_of(self.space.run(trial.values, trial.seed))
        self.tracker.start(
            place(self.folder, trial.number),
            f"trial-{trial.number:04d}",
            params | {"trial.kind": trial.kind, "trial.of": str(trial.of)},
            f"{self.space.digest} {trial.number}",
            parent=self.folder,
            curve=trial.curve,
        )
