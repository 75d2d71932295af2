"""Whole public data sets through the job `prepare`: what their publishers say of them is what is found.

The figures are those of the publishers, recounted when the data were fetched; what an item's least number of
events leaves is counted here by another, slower way.
"""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import prepare
from raysys.data.vocabulary import Vocabulary
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "jobs" / "runs"
DATA = ROOT.parent / "shared" / "data"
TWEETINGS = """
[data]
events = "{folder}/interactions.parquet"
min_item_events = 5
[data.columns]
user = "user_id"
item = "item_id"
time = "timestamp"
rating = "rating"
[data.items]
path = "{folder}/items.parquet"
id = "item_id"
title = ["title"]
[data.items.features]
genres = {{ kind = "multi_valued" }}
[model]
name = "mind"
"""
WHOLE = ("data.min_item_events=1", "data.min_user_events=1", "session.max_items=100000")

pytestmark = pytest.mark.usefixtures("ray_cluster")


def where(name):
    """Return the folder of a data set, or skip."""
    if not (DATA / name).is_dir():
        pytest.skip(f"needs {name} as Parquet beside the repository, in ../shared/data")
    return DATA / name


def settings_of(folder):
    files = {"events": "interactions", "items.path": "items", "users.path": "users"}
    return [f"data.{key}={folder / name}.parquet" for key, name in files.items()]


def prepared(run, out, *settings):
    """Run the job; return the manifest's info and the profile."""
    flags = [word for setting in settings for word in ("--set", setting)]
    assert prepare.main(["--run", str(run), "--out", str(out), "--address", "local", *flags]) == 0
    features = Folder(Path(out) / "features")
    info = features.read_json("manifest.json")["info"]
    profile = features.read_json("profile.json")
    assert_sane(info, profile)
    return info, profile


def assert_sane(info, profile):
    """The parts of a profile add up to the counts of the manifest, and shares are shares."""
    events = info["events"]
    assert info["rejected"] == {}
    assert events + sum(info["dropped"].values()) == info["rows"]
    assert profile["counts"] == {name: info[name] for name in profile["counts"]}
    for name in ("events", "hour_of_day", "weekday"):
        assert sum(profile["time"][name]) == events
    held_out = 0
    for part, queries in info["queries"].items():
        cold = profile["cold"][part]
        assert cold["queries"] == queries <= cold["targets"]
        assert 0 <= cold["cold_targets"] <= cold["targets"]
        held_out += cold["targets"]
    assert info["train_events"] + held_out == events
    for name in ("events_per_user", "items_per_user", "sessions_per_user", "events_per_item"):
        figures = profile[name]
        assert 1 <= figures["min"] <= figures["median"] <= figures["p90"] <= figures["max"]
    shares = [profile["tied_share"], profile["repeat_share"], *profile["concentration"].values()]
    assert all(0 <= share <= 1 for share in shares)
    assert "NaN" not in json.dumps(profile)


def spans(profile, first, last):
    found = [datetime.fromisoformat(profile["time"][name]) for name in ("first", "last")]
    return found == [datetime.fromisoformat(f"{text}Z") for text in (first, last)]


def core_of(folder, least_item, least_user):
    """Return (events, users, items) that are left when the rare ones are taken out again and again."""
    table = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    users, items = (
        table.column(name).combine_chunks().dictionary_encode().indices.to_numpy()
        for name in ("user_id", "item_id")
    )
    while True:
        kept = (np.bincount(items)[items] >= least_item) & (np.bincount(users)[users] >= least_user)
        if kept.all():
            return len(users), len(np.unique(users)), len(np.unique(items))
        users, items = users[kept], items[kept]


def counted(info):
    return info["events"], info["users"], info["items"]


def test_the_whole_of_complete_journey(tmp_path):
    folder = where("completejourney")
    settings = settings_of(folder)
    run = RUNS / "mind_completejourney.toml"
    info, profile = prepared(run, tmp_path, *settings)
    assert info["rows"] == 1_469_307
    assert info["items"] == 28_165
    assert counted(info) == core_of(folder, 5, 1)
    # households of a single basket have nothing before it that could be asked about
    baskets = profile["sessions_per_user"]
    assert baskets["min"] == 1
    assert info["queries"]["valid"] < info["queries"]["test"] < info["users"]

    info, profile = prepared(run, tmp_path, *settings, *WHOLE)
    assert (info["users"], info["items"], info["sessions"]) == (2_469, 68_509, 155_848)
    assert [profile["events_per_user"][name] for name in ("min", "median", "p90", "max")] == [
        1, 407, 1_379, 4_193
    ]  # fmt: skip
    assert profile["events_per_item"]["median"] == 3
    assert round(profile["tied_share"], 2) == 0.89
    assert spans(profile, "2017-01-01 11:53:26", "2018-01-01 04:01:20")
    made = pq.read_table(tmp_path / "features" / "items.parquet", columns=["item_id", "title"]).to_pylist()
    assert len(made) == 68_509 + NUM_RESERVED
    products = {row["item_id"]: row for row in pq.read_table(folder / "items.parquet").to_pylist()}
    blank = dict.fromkeys(("product_type", "package_size", "department"))
    sold = [products.get(row["item_id"], blank) for row in made[NUM_RESERVED:]]
    for row, product in zip(made[NUM_RESERVED:], sold, strict=True):
        words = [product[name] for name in ("product_type", "package_size") if product[name]]
        assert row["title"] == (" / ".join(words) or row["item_id"])
    sizes = {feature["name"]: feature["size"] for feature in info["schema"]}
    departments = {product["department"] for product in sold} - {None}
    assert sizes["department"] == len(departments) + NUM_RESERVED
    assert sizes["store"] == 457 + NUM_RESERVED


def test_movietweetings_needs_data_lines_only(tmp_path):
    folder = where("movietweetings-100k")
    run = tmp_path / "run.toml"
    run.write_text(TWEETINGS.format(folder=folder))
    info, _ = prepared(run, tmp_path)
    assert (info["rows"], info["items"]) == (100_000, 2_727)
    assert counted(info) == core_of(folder, 5, 1)
    info, _ = prepared(run, tmp_path, "data.min_item_events=1", "data.min_user_events=5")
    assert info["users"] == 4_692
    assert counted(info) == core_of(folder, 1, 5)
    info, profile = prepared(run, tmp_path, *WHOLE)
    assert counted(info) == (100_000, 16_554, 10_506)
    assert profile["events_per_user"]["median"] == 2
    assert spans(profile, "2013-02-28 14:38:27", "2013-09-01 20:27:45")
    ids = Vocabulary.load(Folder(tmp_path / "features" / "vocabularies"), "item").ids.to_pylist()
    assert sum(item.startswith("0") for item in ids) > 1000  # leading zeros are part of an id
    assert {len(item) for item in ids} == {7}
    assert "short_sessions" in [mistake["code"] for mistake in profile["likely_mistakes"]]


def test_movielens_100k(tmp_path):
    settings = settings_of(where("ml-100k"))
    info, profile = prepared(RUNS / "mind_ml100k.toml", tmp_path, *settings)
    assert (info["rows"], info["users"], info["items"]) == (100_000, 943, 1_349)
    assert counted(info) == core_of(DATA / "ml-100k", 5, 5)
    assert info["queries"] == {"valid": 943, "test": 943}
    assert "ties_without_order" in [mistake["code"] for mistake in profile["likely_mistakes"]]
    info, profile = prepared(RUNS / "mind_ml100k.toml", tmp_path, *settings, *WHOLE)
    assert counted(info) == (100_000, 943, 1_682)
    assert [profile["events_per_user"][name] for name in ("min", "median", "max")] == [20, 65, 737]
    assert round(profile["tied_share"], 1) == 0.5
    assert spans(profile, "1997-09-20 03:05:10", "1998-04-22 23:10:38")


def test_movielens_1m(tmp_path):
    settings = settings_of(where("ml-1m"))
    info, _ = prepared(RUNS / "mind_ml1m.toml", tmp_path, *settings)
    assert (info["users"], info["items"], info["samples"]) == (6_040, 3_416, 981_491)
    assert counted(info) == core_of(DATA / "ml-1m", 5, 5)
    assert info["queries"] == {"valid": 6_040, "test": 6_040}
    info, profile = prepared(RUNS / "mind_ml1m.toml", tmp_path, *settings, *WHOLE)
    assert counted(info) == (1_000_209, 6_040, 3_706)
    assert [profile["events_per_user"][name] for name in ("min", "median", "max")] == [20, 96, 2_314]
    assert spans(profile, "2000-04-25 23:05:32", "2003-02-28 17:49:50")
