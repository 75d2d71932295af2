"""What a training shows to Prometheus, through the metrics of the Ray cluster that it runs on.

Ray exports them at the metrics port of each node under these names with `ray_` before them; see
docs/grafana.json for a dashboard.
"""

import sys
from collections.abc import Mapping
from typing import Any

PREFIX = "raysys_"
TAGS = ("run", "model")
NAMES = {
    "train/samples_per_s": ("train_samples_per_second", "Samples per second over all workers"),
    "train/loss": ("train_loss", "Mean loss of the epoch so far"),
    "health/active": ("interests_active", "Mean number of active interests of a user"),
    "health/pairwise_cosine": ("interests_pairwise_cosine", "Mean cosine of two interests of a user"),
    "health/routing_entropy": ("interests_routing_entropy", "Mean entropy of the routing, as a share"),
}
"""Name of a value in TensorBoard -> name and description of its gauge."""
VALID = "valid/"
VALID_NAME = ("valid_metric", "Metric of the validation part, after the last epoch")


class Gauges:
    """Gauges of one training; where the process has no Ray they do nothing."""

    def __init__(self, run: str, model: str) -> None:
        ray = sys.modules.get("ray")  # a process that has not imported it is on no cluster
        self.on, self.tags = ray is not None and ray.is_initialized(), {"run": run, "model": model}
        self.gauges: dict[str, Any] = {}

    def write(self, values: Mapping[str, float]) -> None:
        """Show the values that have a gauge, by their names in TensorBoard."""
        for name, value in values.items() if self.on else ():
            if name in NAMES:
                self._set(*NAMES[name], value)
            elif name.startswith(VALID):
                self._set(*VALID_NAME, value, metric=name.removeprefix(VALID))

    def _set(self, name: str, description: str, value: float, **more: str) -> None:
        from ray.util.metrics import Gauge

        if name not in self.gauges:
            self.gauges[name] = Gauge(PREFIX + name, description, tag_keys=(*TAGS, *more))
        self.gauges[name].set(float(value), tags={**self.tags, **more})
