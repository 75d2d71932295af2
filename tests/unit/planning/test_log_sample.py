"""A log looked at before it is prepared; the oracles are sets of Python and the data stage itself."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.hashing import Coded
from raysys.data.shapes import SampleShape
from raysys.errors import DataError, SchemaError
from raysys.manifest import read_manifest
from raysys.planning.log_sample import DistinctIds, WholeUsers, sample_log
from raysys.planning.sizes import sizes_of
from raysys.planning.trial_features import estimated_sizes, write_trial_features
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.line import prepare_here
from tests.reference.logs import planted_log, run_file


def coded(values):
    return Coded.of(pa.array([str(value) for value in values]))


def test_few_ids_are_counted_exactly():
    ids, drawn = DistinctIds(), np.random.default_rng(0).integers(0, 50, 1000)
    for block in np.split(drawn, 4):
        ids.add(coded(block))
    values, counts = np.unique(drawn, return_counts=True)
    assert dict(zip(ids.ids.to_pylist(), ids.counts.tolist(), strict=True)) == {
        str(value): count for value, count in zip(values, counts.tolist(), strict=True)
    }
    assert (ids.number, ids.share) == (len(values), 1.0)


def test_many_ids_are_a_fair_sample_with_exact_counts():
    ids, drawn = DistinctIds(most=2000), np.random.default_rng(0).integers(0, 30_000, 90_000)
    for block in np.split(drawn, 6):
        ids.add(coded(block))
    exact = np.bincount(drawn)
    assert len(ids.ids) <= 2000
    assert all(exact[int(i)] == count for i, count in zip(ids.ids.to_pylist(), ids.counts, strict=True))
    # the number of ids below a bound is binomial: five standard deviations of a share of 1/16 to 1/32
    assert ids.number == pytest.approx((exact > 0).sum(), rel=5 / np.sqrt(len(ids.ids)))


def test_users_are_kept_whole_and_few():
    kept, drawn = WholeUsers(most=500), np.random.default_rng(0).integers(0, 400, 6000)
    for block in np.split(drawn, 5):
        users = coded(block)
        kept.add(pa.table({"user_id": [str(value) for value in block]}), users)
    found = np.array([int(user) for user in kept.table().column("user_id").to_pylist()])
    assert 100 < len(found) <= 500
    counts = np.bincount(drawn)
    assert all(counts[user] == (found == user).sum() for user in set(found.tolist()))


def test_a_user_with_very_many_events_does_not_leave_nothing():
    kept = WholeUsers(most=10)
    kept.add(pa.table({"user_id": ["a"] * 100}), coded(["a"] * 100))
    assert kept.table().num_rows == 100


@pytest.fixture
def run(tmp_path):
    return load_run(str(run_file(planted_log(tmp_path, users=300))), ["data.min_item_events=3"])


def test_sizes_of_a_log_that_is_read_whole_are_those_of_its_features(run, tmp_path):
    features, _ = prepare_here(run, tmp_path / "out")
    exact = sizes_of(features, read_manifest(features, "features", "prepare"), SampleShape(), 0)
    sample, small = sample_log(run.data), Folder(tmp_path / "small")
    assert sample.share == 1.0
    manifest = write_trial_features(run, sample, small)
    found = estimated_sizes(run, sample, small, manifest, SampleShape())
    for name in ("rows", "events", "users", "items", "train_events", "samples", "queries", "parts"):
        assert getattr(found, name) == getattr(exact, name), name
    # the real ones lie in four files, whose headers weigh as much as so few rows
    assert found.feature_bytes < exact.feature_bytes
    assert exact.is_exact
    assert not found.is_exact


def test_a_part_of_the_log_gives_estimates(run, tmp_path):
    table = pq.read_table(tmp_path / "events.parquet").sort_by("timestamp")
    (tmp_path / "log").mkdir()
    for number in range(20):
        pq.write_table(table.slice(number * 180, 180), tmp_path / "log" / f"{number:02d}.parquet")
    load = load_run(str(tmp_path / "run.toml"), [f"data.events={tmp_path / 'log'}"])
    sample = sample_log(load.data, max_rows=1800)
    assert (sample.rows, sample.read) == (3600, 1800)
    assert sample.growth[0] >= 1.0
    manifest = write_trial_features(load, sample, Folder(tmp_path / "small"))
    found = estimated_sizes(load, sample, Folder(tmp_path / "small"), manifest, SampleShape())
    assert found.events == pytest.approx(3600, rel=0.01)
    # users and items of half the log, extended by the law of their growth
    assert found.users == pytest.approx(300, rel=0.25)
    assert found.items == pytest.approx(60, rel=0.25)
    assert "50% of its rows" in found.source


def test_mistakes_are_those_of_the_data_stage(run, tmp_path):
    wrong = load_run(str(tmp_path / "run.toml"), ["data.min_item_events=1000"])
    sample = sample_log(wrong.data)
    with pytest.raises(DataError, match="leave no event"):
        write_trial_features(wrong, sample, Folder(tmp_path / "small"))
    with pytest.raises(SchemaError, match="no column 'buyer'"):
        sample_log(load_run(str(tmp_path / "run.toml"), ["data.columns.user=buyer"]).data)
    with pytest.raises(DataError, match="no file found"):
        sample_log(load_run(str(tmp_path / "run.toml"), ["data.events=none.parquet"]).data)
