"""The job `prepare` on a local cluster: real data, what is skipped, what a failure leaves, Ray or no Ray."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import prepare
from raysys.distributed import datasets
from raysys.storage import Folder
from tests.reference.line import Outcome, prepare_here, run_of

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "jobs" / "runs"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def job(*arguments):
    return prepare.main([*map(str, arguments), "--address", "local"])


def manifest(out):
    return json.loads((Path(out) / "features" / "manifest.json").read_text())


def write_log(folder, users=30, events=8, seed=0):
    """Write a log of several files with ties, an order column, baskets and a duplicate."""
    random = np.random.default_rng(seed)
    size = users * events
    table = pa.table(
        {
            "user": [f"u{n}" for n in random.integers(0, users, size)],
            "item": [f"i{n}" for n in random.zipf(1.5, size) % 40],
            "time": 1_600_000_000 + random.integers(0, 5000, size) * 60,
            "order": np.arange(size),
            "session": [f"s{n}" for n in random.integers(0, 4, size)],
        }
    )
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, size, 50)):
        pq.write_table(table.slice(start, 50), folder / f"{number}.parquet", row_group_size=20)
    return str(folder)


SMALL = """
[data]
events = "log/*.parquet"
partitions = {partitions}
[data.columns]
user = "user"
item = "item"
time = "time"
order = "order"
session = "session"
[model]
name = "mind"
[cluster]
object_store_mb = 150
"""


@pytest.fixture
def small(tmp_path):
    write_log(tmp_path / "log")
    path = tmp_path / "run.toml"
    path.write_text(SMALL.format(partitions=4))
    return path


@pytest.fixture(scope="module")
def complete_journey(ray_cluster, tmp_path_factory):
    """The run of the data set in the repository, prepared once."""
    out = tmp_path_factory.mktemp("completejourney")
    assert job("--run", RUNS / "mind_completejourney_q1.toml", "--out", out) == 0
    return out


def test_the_embedded_data_set_gives_the_published_counts(complete_journey):
    made = manifest(complete_journey)
    info = made["info"]
    assert info["rows"] == 199_884
    assert info["rejected"] == {}
    assert (info["items"], info["users"]) == (9_530, 788)
    assert info["queries"]["test"] == 777
    assert info["events"] + info["dropped"]["outside_core"] == 199_884
    for name, size in made["files"].items():
        assert (complete_journey / "features" / name).stat().st_size == size
    assert sorted(os.listdir(complete_journey)) == ["features"]


def test_nothing_of_a_held_out_basket_is_in_its_history(complete_journey):
    outcome = Outcome(Folder(complete_journey / "features"), manifest(complete_journey)["info"])
    events = outcome.sequences.events
    offsets = outcome.sequences.offsets
    for row in range(outcome.sequences.num_users):
        own = slice(offsets[row], offsets[row + 1])
        at, cut, role = events["at"][own], events["cut"][own], events["role"][own]
        has_past = cut > 0
        assert (at[cut[has_past] - 1] < at[has_past]).all()  # a basket's lines share one second
        for held_out in (1, 2):
            places = np.flatnonzero(role == held_out)
            assert len(set(cut[places])) <= 1  # one unit
    histories = {user: history for user, (history, _, _) in outcome.queries("test").items()}
    assert min(map(len, histories.values())) >= 1


def test_unchanged_inputs_and_config_are_skipped(complete_journey, capsys):
    path = complete_journey / "features" / "manifest.json"
    before = path.stat().st_mtime_ns
    assert job("--run", RUNS / "mind_completejourney_q1.toml", "--out", complete_journey) == 0
    assert path.stat().st_mtime_ns == before
    told = capsys.readouterr().out
    assert "features=unchanged" in told
    assert "rows read         199,884" in told
    assert "Likely mistakes: none found" in told


def test_training_keys_do_not_rebuild_features_and_data_keys_do(small, tmp_path):
    out = tmp_path / "out"
    assert job("--run", small, "--out", out) == 0
    before = (out / "features" / "manifest.json").stat().st_mtime_ns
    assert job("--run", small, "--out", out, "--set", "training.epochs=3", "--set", "data.partitions=9") == 0
    assert (out / "features" / "manifest.json").stat().st_mtime_ns == before
    assert job("--run", small, "--out", out, "--set", "session.gap_s=60") == 0
    assert (out / "features" / "manifest.json").stat().st_mtime_ns != before
    assert manifest(out)["info"]["session"]["gap_s"] == 60


def test_the_summary_counts_the_events_that_are_no_targets(small, tmp_path, capsys):
    """The oracle is the events of the other types, counted in the log."""
    targets = ("--set", "data.columns.event=session", "--set", 'split.target_events=["s0", "s1"]')
    assert job("--run", small, "--out", tmp_path / "out", *targets) == 0
    rows = [row for path in (tmp_path / "log").iterdir() for row in pq.read_table(path).to_pylist()]
    others = sum(row["session"] not in ("s0", "s1") for row in rows)
    assert f"history only      {others}  events that are nobody's target" in capsys.readouterr().out


def test_a_touched_log_rebuilds_features(small, tmp_path):
    out = tmp_path / "out"
    assert job("--run", small, "--out", out) == 0
    before = manifest(out)["parents"]
    os.utime(tmp_path / "log" / "0.parquet", ns=(1, 1))
    assert job("--run", small, "--out", out) == 0
    assert manifest(out)["parents"] != before


def test_a_failing_run_leaves_the_old_features_untouched(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert job("--run", small, "--out", out) == 0
    content = {path: path.read_bytes() for path in (out / "features").rglob("*") if path.is_file()}
    assert job("--run", small, "--out", out, "--set", "data.min_item_events=999999") == 2
    assert {path: path.read_bytes() for path in (out / "features").rglob("*") if path.is_file()} == content
    assert os.listdir(out) == ["features"]
    assert "no event is left" in capsys.readouterr().err


def test_partial_folders_of_a_killed_run_are_cleared(small, tmp_path):
    out = tmp_path / "out"
    (out / ".features.partial-dead" / "events").mkdir(parents=True)
    assert job("--run", small, "--out", out) == 0
    assert os.listdir(out) == ["features"]


@pytest.mark.parametrize(
    "sections",
    [
        {"split": {"unit": "session"}},
        {
            "session": {"by_column": True, "max_items": 3},
            "split": {"kind": "time", "valid_from": "2020-09-15", "test_from": "2020-09-16"},
        },
        {
            "split": {"kind": "user", "valid_fraction": 0.3, "test_fraction": 0.3},
            "data": {"min_item_events": 3},
        },
    ],
    ids=["sessions", "time", "users"],
)
def test_ray_gives_what_one_process_gives(tmp_path, sections):
    log = write_log(tmp_path / "log")
    columns = {"order": "order", "session": "session"}
    data = sections.pop("data", {})
    contents = []
    for number, partitions in enumerate((1, 5)):
        run = run_of(log, columns, data={**data, "partitions": partitions}, **sections)
        out = Folder(tmp_path / f"ray-{number}")
        features = datasets.prepare(run, out)
        contents.append(Outcome(features, features.read_json("manifest.json")["info"]).content())
    contents.append(Outcome(*prepare_here(run, tmp_path / "here")).content())
    assert contents[0] == contents[1] == contents[2]
