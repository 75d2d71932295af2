"""The stages one by one, and small logs through all of them in one process."""

import json
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.core import Core, value_counts
from raysys.data.events import event_schema
from raysys.data.files import list_sources, pieces_of
from raysys.data.hashing import Coded
from raysys.data.parquet import read_table
from raysys.data.shards import from_shards, to_shards
from raysys.data.stages import counts_by_file, number_rejected, read_events, write_partition
from raysys.errors import DataError
from raysys.storage import Folder
from tests.reference import data as slow
from tests.reference.line import Outcome, prepare_here, run_of

T = 1_600_000_000


def write_csv(path, rows, header="user,item,time"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


LOG = [(user, item, T + 60 * place) for user in "abc" for place, item in enumerate("uvwxy")]


def test_reading_counts_rows_and_leaves_rejected_ones_with_file_and_row(tmp_path):
    path = write_csv(tmp_path / "log.csv", [("a", "x", T), ("", "x", T), ("b", "y", "noon"), ("c", "z", T)])
    run = run_of(path)
    sources = list_sources(path, "data.events")
    pieces = pieces_of(sources[0])
    staged = Folder(tmp_path / "staged")
    blocks = list(read_events(pa.table({"item": [0]}), pieces, run.data, event_schema(run.data), staged, 5))
    found = dict(from_shards(pa.concat_tables(blocks)))
    assert {number: table.column("user_id").to_pylist() for number, table in found.items()} == {
        slow.hash_text(user) % 5: [user] for user in "ac"
    }
    assert staged.read_json("stats/00000-000000000000.json") == {
        "rows": 4,
        "rejected": {"null_user": 1, "unparsable_time": 1},
        "dropped": {},
        "cuts": [[0, 4]],
    }
    by_file = counts_by_file(sources, staged)
    assert (by_file[path].rows, by_file[path].cuts) == (4, [])  # one piece: positions are row numbers
    number_rejected(staged, by_file)
    rejected = read_table(staged, "rejected/read-00000-000000000000.parquet").to_pylist()
    assert [(row["file"], row["row"], row["reason"]) for row in rejected] == [
        (path, 1, "null_user"),
        (path, 2, "unparsable_time"),
    ]


def test_duplicates_are_rejected_unless_the_run_keeps_them(tmp_path):
    rows = [*LOG, LOG[3], LOG[3]]
    for keep, events, twice in ((False, 15, {"duplicate": 2}), (True, 17, {})):
        run = run_of(
            write_csv(tmp_path / "log.csv", rows), data={"keep_duplicates": keep, "max_reject_fraction": 0.5}
        )
        features, info = prepare_here(run, tmp_path / f"out-{keep}")
        assert info["events"] == events
        assert info["rejected"] == twice
        assert info["rows"] == 17
        found = [name for name in features.names("rejected") if name.startswith("duplicate")]
        assert len(found) == (0 if keep else 1)
        if not keep:
            rejected = read_table(features, f"rejected/{found[0]}").to_pylist()
            assert [row["row"] for row in rejected] == [15, 16]  # the first stays


def test_a_partition_block_is_sorted_and_counted(tmp_path):
    table = pa.table(
        {
            "user_id": ["b", "a", "b"],
            "item_id": ["x", "y", "x"],
            "time_ns": pa.array([5, 7, 5], pa.int64()),
            "order": pa.array([0, 0, 0], pa.int64()),
            "place": pa.array([9, 1, 2], pa.int64()),
        }
    )
    a, b = (slow.hash_text(user) % 7 for user in "ab")
    assert a < b
    shards = pa.concat_tables([to_shards(table.slice(0, 2), 7), to_shards(table.slice(2), 7)])
    staged = Folder(tmp_path)
    out = write_partition(shards, staged, ["log"])
    assert out.to_pylist() == [
        {"partition": a, "duplicates": 0, "summary": b""},
        {"partition": b, "duplicates": 1, "summary": b""},
    ]
    assert read_table(staged, f"events/part-{b:05d}.parquet").column("place").to_pylist() == [2]
    assert read_table(staged, f"rejected/duplicate-{b:05d}.parquet").column("row").to_pylist() == [9]
    assert write_partition(shards, staged, ["log"], keep_duplicates=True).to_pylist()[1]["duplicates"] == 0
    assert read_table(staged, f"events/part-{b:05d}.parquet").column("place").to_pylist() == [2, 9]
    assert write_partition(shards.slice(0, 0), staged, ["log"]).num_rows == 0


def test_counts_of_values_leave_out_what_does_not_count():
    column = Coded.of(pa.chunked_array([["x", None, "y"], ["x"]]))
    ids, counts = value_counts(column, None)
    assert dict(zip(ids.to_pylist(), counts.tolist(), strict=True)) == {"x": 2, "y": 1}
    ids, counts = value_counts(column, np.array([True, True, False, False]))
    assert dict(zip(ids.to_pylist(), counts.tolist(), strict=True)) == {"x": 1, "y": 0}


def test_the_core_drops_items_then_users():
    table = pa.table({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"]})
    core = Core(pa.array(["x"]), 1)
    assert core.apply(table).to_pylist() == [
        {"user_id": "a", "item_id": "x"},
        {"user_id": "b", "item_id": "x"},
    ]
    assert Core(None, 2).apply(table).column("user_id").to_pylist() == ["a", "a"]
    assert Core(pa.array(["x"]), 2).apply(table).num_rows == 0
    assert Core(pa.array([], pa.string()), 2).apply(table).num_rows == 0


def test_events_are_ordered_by_time_not_by_their_place_in_the_file(tmp_path):
    backwards = [
        (user, item, T - place) for user, item, place in (("a", i, p) for p, i in enumerate("uvwxy"))
    ]
    outcome = Outcome(*prepare_here(run_of(write_csv(tmp_path / "log.csv", backwards)), tmp_path))
    assert [event[0] for event in outcome.lines()["a"]] == ["y", "x", "w", "v", "u"]
    assert outcome.queries("test")["a"] == (["y", "x", "w", "v"], {"u"}, {"u", "v", "w", "x", "y"} - {"u"})


def test_a_log_of_whole_numbers_gives_what_the_same_log_in_text_gives(tmp_path):
    users, items = [n % 13 for n in range(300)], [(n * n) % 17 for n in range(300)]
    rows = [(user, item, T + 60 * n, n % 3) for n, (user, item) in enumerate(zip(users, items, strict=True))]
    rows.append(rows[5])
    outcomes, parts = [], []
    for kind in ("int", "text"):
        ids = {"user": [row[0] for row in rows], "item": [row[1] for row in rows]}
        if kind == "text":
            ids = {name: [str(one) for one in values] for name, values in ids.items()}
        table = pa.table({**ids, "time": [row[2] for row in rows], "shop": [str(row[3]) for row in rows]})
        pq.write_table(table, tmp_path / f"{kind}.parquet")
        data = {"min_item_events": 10, "min_user_events": 5, "max_reject_fraction": 0.1, "partitions": 3}
        run = run_of(str(tmp_path / f"{kind}.parquet"), {"shop": "shop"}, data=data)
        features, info = prepare_here(run, tmp_path / kind)
        outcomes.append(Outcome(features, info).content())
        parts.append((sum(info["part_events"].values()), info["rejected"], info["dropped"]))
        stored = pq.read_table(f"{features.path}/events/part-00000.parquet").schema
        assert stored.field("user_id").type == (pa.int64() if kind == "int" else pa.string())
    assert outcomes[0] == outcomes[1]
    assert parts[0] == parts[1]


def test_a_text_log_in_many_pieces_gives_what_one_piece_gives(tmp_path):
    rows = [(f"u{n % 7}", f"i{n % 11}", T + 60 * n) for n in range(200)]
    lines = [",".join(map(str, row)) for row in rows]
    for wrong in (3, 60, 199):
        lines[wrong] = "u1,i1"
    lines[100] = lines[99]
    lines[150] = f",i1,{T}"
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *lines]) + "\n")
    found = []
    for size in (10**6, 300):
        with mock.patch("raysys.data.files.BYTES_PER_PIECE", size):
            run = run_of(str(tmp_path / "log.csv"), data={"max_reject_fraction": 0.1})
            features, info = prepare_here(run, tmp_path / str(size))
        rejected = [
            (row["row"], row["reason"])
            for name in features.names("rejected")
            for row in read_table(features, f"rejected/{name}").to_pylist()
        ]
        found.append((Outcome(features, info).content(), sorted(rejected), info["rejected"], info["rows"]))
    assert found[0] == found[1]
    assert found[0][1] == [(3, "wrong_width"), (60, "wrong_width"), (100, "duplicate"), (150, "null_user"),
                           (199, "wrong_width")]  # fmt: skip


def test_ties_in_time_are_settled_by_the_logs_order_then_by_place(tmp_path):
    rows = [("a", item, T, order) for item, order in (("u", 3), ("v", 1), ("w", 2), ("x", 1), ("y", 9))]
    path = write_csv(tmp_path / "log.csv", rows, "user,item,time,seq")
    with_order = Outcome(*prepare_here(run_of(path, {"order": "seq"}), tmp_path / "1"))
    assert [event[0] for event in with_order.lines()["a"]] == ["v", "x", "w", "u", "y"]
    without = Outcome(*prepare_here(run_of(path), tmp_path / "2"))
    assert [event[0] for event in without.lines()["a"]] == ["u", "v", "w", "x", "y"]


def test_popularity_counts_training_events_only(tmp_path):
    # "hit" is everybody's last item and "near" everybody's validation item, so training never sees either
    rows = [
        (user, item, T + place) for user in "abcd" for place, item in enumerate(["x", "y", "near", "hit"])
    ]
    outcome = Outcome(*prepare_here(run_of(write_csv(tmp_path / "log.csv", rows)), tmp_path))
    counts = dict(zip(outcome.items.ids.to_pylist(), outcome.items.counts.tolist(), strict=True))
    assert counts == {"x": 4, "y": 4, "hit": 0, "near": 0}
    table = pq.read_table(tmp_path / "features" / "items.parquet")
    assert table.column("item_id").to_pylist() == [
        None,
        None,
        "x",
        "y",
        "hit",
        "near",
    ]  # idx 0 and 1 are no items
    assert table.column("count").to_pylist() == [0, 0, 4, 4, 0, 0]


def test_item_numbers_are_popularity_ranks_so_a_log_uniform_sampler_may_use_them(tmp_path):
    rows = [(f"u{n}", item, T + place) for n in range(9) for place, item in enumerate("pqrst"[: 3 + n % 3])]
    outcome = Outcome(*prepare_here(run_of(write_csv(tmp_path / "log.csv", rows)), tmp_path))
    assert (np.diff(outcome.items.counts) <= 0).all()
    assert min(outcome.sequences.events["item_idx"]) >= 2  # neither padding nor unknown is ever an event


def test_the_manifest_tells_what_was_read_kept_and_dropped(tmp_path):
    rows = [*((*row, "buy", 5) for row in LOG), ("a", "z", T + 1, "view", 5), ("a", "u", T + 2, "buy", 1)]
    rows.append(("d", "rare", T, "buy", 5))
    path = write_csv(tmp_path / "log.csv", rows, "user,item,time,event,rating")
    run = run_of(
        path,
        {"event": "event", "rating": "rating"},
        data={"keep_events": ["buy"], "min_rating": 2, "min_item_events": 2, "min_user_events": 2},
    )
    features, info = prepare_here(run, tmp_path)
    assert info["rows"] == 18
    assert info["dropped"] == {"event_not_kept": 1, "below_min_rating": 1, "outside_core": 1}
    assert info["rejected"] == {}
    assert (info["events"], info["users"], info["items"]) == (15, 3, 5)
    assert info["train_events"] == 9
    assert info["samples"] == 6  # per user: three training events, the first has no history
    assert info["queries"] == {"valid": 3, "test": 3}
    assert sum(info["part_events"].values()) == 15
    assert sum(info["part_samples"].values()) == 6
    assert info["split"]["kind"] == "leave_one_out"
    stored = json.loads(features.read_bytes("manifest.json"))
    assert set(stored["files"]) == set(features.files()) - {"manifest.json"}
    assert "rating" in pq.read_table(f"{features.path}/sequences/{min(info['part_events'])}").schema.names


def test_sessions_are_counted_per_user(tmp_path):
    rows = [(user, item, T + place) for user in "abcdef" for place, item in enumerate("xyz")]
    rows += [("f", "x", T + 9000)]
    _, info = prepare_here(run_of(write_csv(tmp_path / "log.csv", rows), data={"partitions": 1}), tmp_path)
    assert info["sessions"] == 7


def test_event_features_and_side_tables_reach_the_sequences(tmp_path):
    rows = [(*row, "north" if row[1] in "uv" else "") for row in LOG]
    path = write_csv(tmp_path / "log.csv", rows, "user,item,time,shop")
    items = {
        "path": write_csv(tmp_path / "items.csv", [("u", "red"), ("v", "blue"), ("w", "red")], "id,colour"),
        "id": "id",
        "features": {"colour": {}},
    }
    users = {
        "path": write_csv(tmp_path / "users.csv", [("a", "x|y"), ("b", "")], "id,tags"),
        "id": "id",
        "features": {"tags": {"kind": "multi_valued"}},
    }
    run = run_of(path, {"store": "shop"}, data={"items": items, "users": users, "partitions": 1})
    features, info = prepare_here(run, tmp_path)
    sequences = pq.read_table(f"{features.path}/sequences/part-00000.parquet")
    assert sequences.column("event_store").to_pylist() == [[2, 2, 1, 1, 1]] * 3
    assert sequences.column("profile_tags").to_pylist() == [[2, 3], [1, 0], [1, 0]]
    colours = pq.read_table(f"{features.path}/items.parquet").to_pydict()
    assert dict(zip(colours["item_id"][2:], colours["colour"][2:], strict=True)) == {
        "u": 2, "v": 3, "w": 2, "x": 1, "y": 1
    }  # fmt: skip
    schema = {(entry["entity"], entry["name"]): entry["size"] for entry in info["schema"]}
    assert schema == {("event", "store"): 3, ("item", "colour"): 4, ("user", "tags"): 4}
    assert features.names("vocabularies") == [
        "event_store.parquet", "item.parquet", "item_colour.parquet", "user.parquet", "user_tags.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"min_item_events": 99}}, "no event is left of 15: data.min_item_events = 99"),
        (
            {"split": {"kind": "time", "valid_from": "2030-01-01", "test_from": "2031-01-01"}},
            "the valid part is empty",
        ),
        (
            {"split": {"kind": "time", "valid_from": "1990-01-01", "test_from": "1991-01-01"}},
            "the valid part is empty",
        ),
        ({"split": {"unit": "session"}}, "the valid part is empty"),
    ],
)
def test_a_run_that_leaves_nothing_says_which_setting_did_it(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        prepare_here(run_of(write_csv(tmp_path / "log.csv", LOG), **changes), tmp_path / "out")
    assert Folder(tmp_path / "out").names() == []


def test_a_log_that_is_dropped_whole_says_so(tmp_path):
    rows = [(*row, "view") for row in LOG]
    path = write_csv(tmp_path / "log.csv", rows, "user,item,time,event")
    for core in (1, 5):
        run = run_of(path, {"event": "event"}, data={"keep_events": ["buy"], "min_item_events": core})
        with pytest.raises(
            DataError, match=r"no event is left of 15 rows: 0 rejected, 15 dropped; check data\.keep"
        ):
            prepare_here(run, tmp_path / "out")
