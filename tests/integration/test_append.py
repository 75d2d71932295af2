"""A log that grows by a day: features appended to are, byte for byte, features built from scratch.

The oracle is a build of the whole log in another folder, by the same job. Days repeat rows of earlier days,
hold rows that are rejected, and bring users and items that no one has seen.
"""

import gzip
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.log_config import DataConfig
from raysys.distributed.datasets import prepare
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.line import run_of

pytestmark = pytest.mark.usefixtures("ray_cluster")

DAY_S = 86_400
RUN = """
[data]
events = "log/*"
max_reject_fraction = 0.2
keep_events = ["view", "buy"]
min_item_events = 2
[data.columns]
user = "user"
item = "item"
time = "time"
event = "event"
shop = "shop"
[data.event_weights]
buy = 3.0
[split]
target_events = ["buy"]
[model]
name = "mind"
"""


def day_of(day, users=40, rows=300):
    """Return one day of a log; its last rows are the first of the day before once more."""
    random = np.random.default_rng(day)
    user = [f"u{n}" for n in random.integers(0, users + day, rows)]  # a user more every day
    user[7] = ""
    table = pa.table(
        {
            "user": user,
            "item": [f"i{n}" for n in random.zipf(1.4, rows) % (30 + day)],
            "time": pa.array(1_600_000_000 + day * DAY_S + random.integers(0, 2000, rows) * 40, pa.int64()),
            "event": random.choice(["view", "buy", "scroll"], rows),
            "shop": random.choice(["a", "b", "c"], rows),
        }
    )
    return pa.concat_tables([table, day_of(day - 1, users, rows).slice(0, 5)]) if day else table


def write_day(folder, day, kind, table=None):
    table = day_of(day) if table is None else table
    if kind == "parquet":
        pq.write_table(table, folder / f"day-{day:02d}.parquet", row_group_size=100)
        return
    lines = [",".join(table.schema.names), *(",".join(map(str, row.values())) for row in table.to_pylist())]
    lines.insert(11, "u1,i1")  # two fields of five
    (folder / f"day-{day:02d}.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


@pytest.fixture
def grow(tmp_path, caplog):
    """Return a function that writes days of a log and prepares it; it says which lines were logged."""
    log = tmp_path / "log"
    log.mkdir()
    (tmp_path / "run.toml").write_text(RUN)

    def prepared(out, days=(), kind="parquet"):
        for day in days:
            write_day(log, day, kind)
        caplog.clear()
        prepare(load_run(str(tmp_path / "run.toml")), Folder(tmp_path / out))
        return caplog.text

    return prepared


def content(out):
    """Return path -> bytes of every file of the features, the manifest with them."""
    features = Path(out) / "features"
    return {
        str(path.relative_to(features)): path.read_bytes() for path in features.rglob("*") if path.is_file()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.parametrize("kind", ["parquet", "csv.gz"])
def test_a_new_day_gives_what_a_build_from_scratch_gives(grow, tmp_path, kind):
    assert "new_files" not in grow("out", range(4), kind)
    before = content(tmp_path / "out")
    assert "new_files=1 " in grow("out", [4], kind)
    assert "new_files" not in grow("scratch")
    made = content(tmp_path / "scratch")
    assert_same(content(tmp_path / "out"), made)
    assert made["manifest.json"] != before["manifest.json"]
    info = Folder(tmp_path / "scratch" / "features").read_json("manifest.json")["info"]
    wrong_width = {} if kind == "parquet" else {"wrong_width": 5}
    twice = info["rejected"].pop("duplicate")
    assert info["rejected"] == {"null_user": 5} | wrong_width
    assert info["rows"] == 5 * 300 + 4 * 5 + 5 * bool(wrong_width)
    assert twice >= 4  # some of the repeated rows are scrolls, which are dropped before


def test_several_days_between_the_ones_that_are_there(grow, tmp_path):
    grow("out", [1, 4])
    assert "new_files=3 " in grow("out", [0, 2, 3])
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_day_after_day_is_as_good_as_all_at_once(grow, tmp_path):
    grow("out", [0])
    for day in (1, 2, 3):
        assert "new_files=1 " in grow("out", [day])
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_a_day_of_few_users_leaves_the_partitions_of_the_others_as_they_are(grow, tmp_path):
    grow("out", range(3))
    events = tmp_path / "out" / "features" / "events"
    before = {path.name: path.stat().st_ino for path in events.iterdir()}
    one = pa.table({"user": ["u1"], "item": ["i1"], "time": [1_600_900_000], "event": ["buy"], "shop": ["a"]})
    write_day(tmp_path / "log", 9, "parquet", one)
    assert f"parts_rewritten=1 parts_kept={len(before) - 1}" in grow("out")
    after = {path.name: path.stat().st_ino for path in events.iterdir()}
    assert sum(after[name] != inode for name, inode in before.items()) == 1
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


@pytest.mark.parametrize("change", ["touched", "removed", "another config"])
def test_a_log_whose_past_changes_is_built_anew(grow, tmp_path, change):
    grow("out", range(3))
    if change == "touched":
        write_day(tmp_path / "log", 1, "parquet", day_of(1).slice(10))
    elif change == "removed":
        (tmp_path / "log" / "day-01.parquet").unlink()
    else:
        text = (tmp_path / "run.toml").read_text()
        (tmp_path / "run.toml").write_text(text.replace("buy = 3.0", "buy = 2.0"))
    assert "new_files" not in grow("out", [3])
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_features_that_do_not_say_what_log_they_are_of_are_built_anew(grow, tmp_path):
    grow("out", range(3))
    features = Folder(tmp_path / "out" / "features")
    old = features.read_json("manifest.json")
    del old["info"]["log"]
    features.write_json("manifest.json", old)
    assert "new_files" not in grow("out", [3])
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_other_sessions_and_splits_need_no_new_reading_of_the_log(grow, tmp_path):
    grow("out", range(3))
    text = (tmp_path / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(text.replace("[split]", "[session]\ngap_s = 60\n[split]"))
    assert "new_files=0 " in grow("out")
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_numbers_that_become_text_on_a_later_day_are_read_again_as_text(grow, tmp_path):
    def with_users(table, users):
        return table.set_column(0, "user", users)

    for day in range(3):
        numbers = pa.array(np.random.default_rng(day).integers(0, 40, day_of(day).num_rows))
        write_day(tmp_path / "log", day, "parquet", with_users(day_of(day), numbers))
    grow("out")
    text = pa.array([f"0{n % 40}" for n in range(day_of(3).num_rows)])
    write_day(tmp_path / "log", 3, "parquet", with_users(day_of(3), text))
    assert "new_files" not in grow("out")
    grow("scratch")
    assert_same(content(tmp_path / "out"), content(tmp_path / "scratch"))


def test_every_key_that_decides_about_rows_decides_whether_a_log_can_be_appended_to():
    """The oracle is the list of keys that act after the events; a key that is new must be on one side."""
    later = {
        "partitions": 9,
        "items": {"path": "items.parquet", "id": "id"},
        "users": {"path": "users.parquet", "id": "id"},
        "min_item_events": 5,
        "min_user_events": 5,
    }
    deciding = {
        "columns": {"user": "user", "item": "sku", "time": "time", "event": "type", "rating": "stars"},
        "format": {"kind": "csv"},
        "time_unit": "ms",
        "time_format": "%Y",
        "time_zone": "Europe/Berlin",
        "known_events": ["a"],
        "keep_events": ["a"],
        "event_weights": {"a": 2.0},
        "min_rating": 1.0,
        "reject_negative": ["q"],
        "max_reject_fraction": 0.5,
        "keep_duplicates": True,
    }
    others = {"events", "source", "time_year"}  # where it is; what the other keys say; needs time_format
    assert {field.name for field in fields(DataConfig)} == others | set(later) | set(deciding)
    columns = {"event": "type", "rating": "stars"}
    plain = run_of("log", columns).events_digest
    for key, value in later.items():
        assert run_of("log", columns, data={key: value}).events_digest == plain, key
    for key, value in deciding.items():
        assert run_of("log", columns, data={key: value}).events_digest != plain, key
