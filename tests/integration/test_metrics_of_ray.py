"""What Prometheus scrapes from a cluster that trains, and the Grafana dashboard that shows it."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from raysys.distributed.gauges import NAMES, PREFIX, VALID_NAME
from raysys.distributed.pipeline import prepare
from raysys.distributed.trainer import train
from raysys.evaluation.health import of_curve
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"
WAIT_S = 60
"""Ray hands on metrics every ten seconds."""


def scraped():
    """Return the samples of all nodes as {(series, labels): value}."""
    found = {}
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_cluster):
    """A training on the cluster, and what was scraped when its last value had arrived."""
    folder = tmp_path_factory.mktemp("metrics")
    path = run_file(planted_log(folder))
    run, out = load_run(str(path)), Folder(folder / "out")
    prepare(run, out)
    train(run, out)
    curve = out.read_json("checkpoint/state.json")["curve"]
    deadline = time.monotonic() + WAIT_S
    while True:
        found = own(scraped(), out)
        last = found.get(("valid_metric", "ndcg@10"))
        if last == pytest.approx(curve[-1]["valid/ndcg@10"]) or time.monotonic() > deadline:
            return found, curve
        time.sleep(1)


def own(samples, out):
    """Return our series of one run by name and, of the validation part, metric."""
    found = {}
    for (name, labels), value in samples.items():
        tags = dict(labels)
        if name.startswith(f"ray_{PREFIX}") and tags.get("run") == out.uri:
            assert tags["model"] == "mind"
            found[name.removeprefix(f"ray_{PREFIX}"), tags.get("metric", "")] = value
    return found


def test_the_series_hold_the_values_of_the_last_epoch(trained):
    found, curve = trained
    last = curve[-1]
    assert found["valid_metric", "ndcg@10"] == pytest.approx(last["valid/ndcg@10"])
    assert found["valid_metric", "hit_rate@10"] == pytest.approx(last["valid/hit_rate@10"])
    assert found["train_loss", ""] == pytest.approx(last["train/loss"])
    assert found["train_samples_per_second", ""] > 0
    health = of_curve(last)
    assert found["interests_active", ""] == pytest.approx(health["active_mean"])
    assert found["interests_pairwise_cosine", ""] == pytest.approx(health["pairwise_cosine_mean"])


def test_the_dashboard_asks_only_for_series_that_exist(trained):
    found, _ = trained
    series = {name for name, _ in found}
    assert series == {name for name, _ in [*NAMES.values(), VALID_NAME]}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [entry["query"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked
    assert asked <= {f"ray_{PREFIX}{name}" for name in series}
    labels = {"run", "model", "metric", "__name__"}
    for query in queries:
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert {name.strip() for name in group.split(",")} <= labels


def test_every_panel_has_a_title_and_a_place_of_its_own():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels) == len(NAMES) + 1
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
