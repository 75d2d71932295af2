"""A log that grows: features that were appended to are, byte for byte, those built from scratch."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raysys.data import files, text_files
from raysys.distributed import shuffle
from raysys.errors import DataError
from raysys.storage import Folder
from tests.reference import data as slow
from tests.reference.line import prepare_here, run_of

T = 1_600_000_000
COLUMNS = {"event": "kind", "store": "shop"}
NAMES = ("user", "item", "time", "kind", "shop")
some = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", "4", "77", ""]),  # user; nobody is a rejected row
        st.sampled_from(["8", "9", "10", "11"]),  # item
        st.sampled_from([T, T + 5, T + 60, T + 61, T + 900, 7]),  # time; the last one is out of range
        st.sampled_from(["buy", "buy", "view", ""]),
        st.sampled_from(["north", "south", ""]),
    ),
    min_size=1,
    max_size=25,
)


def write(path, log, kind):
    """Write rows as CSV, or as Parquet with ids as text or whole numbers."""
    if kind == "csv":
        lines = [",".join(NAMES), *(",".join(map(str, row)) for row in log)]
        path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
        return
    table = pa.table(
        {name: pa.array([row[at] or None for row in log]) for at, name in enumerate(NAMES)}
        | {"time": pa.array([row[2] for row in log], pa.int64())}
    )
    for name in ("user", "item", "kind", "shop"):
        whole = kind == "int" and name in ("user", "item")
        column = pa.array([row[NAMES.index(name)] or None for row in log], pa.string())
        table = table.set_column(NAMES.index(name), name, column.cast(pa.int64()) if whole else column)
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=2)


def run_on(folder, session=None, split=None, **data):
    data = {"partitions": 3, "max_reject_fraction": 1.0, **data}
    return run_of(f"{folder}/log/*", COLUMNS, data=data, session=session, split=split)


def content(features):
    """Return every file of a features folder; `manifest.json` as the table that it is."""
    found = {name: features.read_bytes(name) for name in features.files() if name != "manifest.json"}
    return {**found, "manifest.json": features.read_json("manifest.json")}


def equal(one, other):
    """Assert file by file, for a message that names the file that differs."""
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name] == other[name], name


@given(
    st.lists(rows, min_size=2, max_size=4),
    st.sampled_from(["csv", "text", "int"]),
    st.randoms(use_true_random=False),
    st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3)]),
    st.booleans(),
    st.sampled_from([[], ["buy"]]),
)
@some
def test_appending_files_in_any_order_equals_building_from_scratch(
    logs, kind, random, core, keep_duplicates, target_events
):
    stages = list(range(len(logs)))
    random.shuffle(stages)  # a new file may sort before, between or after the old ones
    data = {
        "min_item_events": core[0],
        "min_user_events": core[1],
        "keep_duplicates": keep_duplicates,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(files, "BYTES_PER_PIECE", 90),
        mock.patch.object(files, "ROWS_PER_PIECE", 3),
        mock.patch.object(text_files, "BLOCK_BYTES", 70),
    ):
        log = Path(folder) / "log"
        log.mkdir()
        run = run_on(folder, split={"target_events": target_events}, **data)
        features, known = Folder(f"{folder}/out/features"), 0
        for count, number in enumerate(stages, 1):
            write(log / str(number), logs[number], kind)
            if count < len(stages) and random.random() < 0.3:
                continue  # several files arrive at once
            asked = []
            try:
                prepare_here(run, f"{folder}/out", asked)
            except DataError as error:
                if "part is empty" in str(error) or "no event is left" in str(error):
                    continue  # the features of the stage before stay
                raise
            assert [len(names) for names in asked] == [count - known]
            known = count
        assume(known == len(stages))
        scratch, _ = prepare_here(run, f"{folder}/scratch")
        equal(content(features), content(scratch))


# --- what is read, what is written


def visits(users, day, items="uvwxy"):
    return [(user, item, T + 86_400 * day + n, "buy", "") for user in users for n, item in enumerate(items)]


def by_partition(number, num_partitions=3):
    """Return users of one partition."""
    return [f"u{n}" for n in range(40) if slow.hash_text(f"u{n}") % num_partitions == number][:3]


@pytest.fixture
def grown(tmp_path):
    """A log of one day of users of two partitions, prepared at `out`."""
    (tmp_path / "log").mkdir()
    write(tmp_path / "log/b", visits([*by_partition(0), *by_partition(2)], 0), "csv")
    prepare_here(run_on(tmp_path), tmp_path / "out")
    return tmp_path


def scratch(folder, run=None):
    Folder(folder / "scratch").delete()
    return content(prepare_here(run or run_on(folder), folder / "scratch")[0])


def inode(folder, number):
    return os.stat(folder / f"out/features/events/part-{number:05d}.parquet").st_ino


def test_only_new_files_are_shuffled_and_only_partitions_of_their_users_written(grown):
    before = [inode(grown, number) for number in (0, 2)]
    write(grown / "log/c", visits([*by_partition(1), *by_partition(2)], 1, "xyz"), "csv")
    asked = []
    features, info = prepare_here(run_on(grown), grown / "out", asked)
    assert asked == [["c.csv"]]
    after = [inode(grown, number) for number in (0, 2)]
    assert after[0] == before[0]  # the same file under both names
    assert after[1] != before[1]
    assert features.names("events") == [f"part-{number:05d}.parquet" for number in range(3)]
    assert info["rows"] == 30 + 18
    equal(content(features), scratch(grown))


def test_a_new_file_that_sorts_first_moves_the_places_of_the_others(grown):
    before = inode(grown, 0)
    write(grown / "log/a", visits(by_partition(1), 1), "csv")
    asked = []
    features, _ = prepare_here(run_on(grown), grown / "out", asked)
    assert asked == [["a.csv"]]
    assert inode(grown, 0) != before
    equal(content(features), scratch(grown))


def test_the_first_copy_stays_where_a_new_file_holds_an_earlier_one(grown):
    day = visits(by_partition(0), 0)
    write(grown / "log/a", [*day[:2], *day[:1]], "csv")
    features, info = prepare_here(run_on(grown), grown / "out")
    assert info["rejected"] == {"duplicate": 3}
    twice = pq.read_table(f"{features.path}/rejected/duplicate-00000.parquet").to_pylist()
    assert [(Path(row["file"]).name, row["row"]) for row in twice] == [
        ("a.csv", 2),
        ("b.csv", 0),
        ("b.csv", 1),
    ]
    equal(content(features), scratch(grown))


@pytest.mark.parametrize(
    "sections",
    [
        {"session": {"gap_s": 5}},
        {"split": {"unit": "event", "kind": "random_target", "valid_fraction": 0.4, "test_fraction": 0.5}},
        {"min_item_events": 2},
    ],
)
def test_another_session_split_or_core_reads_no_file_of_the_log(grown, sections):
    before = [inode(grown, number) for number in (0, 2)]
    run, asked = run_on(grown, **sections), []
    with mock.patch.object(shuffle, "pieces_of", side_effect=AssertionError("a file was read")):
        features, _ = prepare_here(run, grown / "out", asked)
    assert asked == [[]]
    assert [inode(grown, number) for number in (0, 2)] == before
    equal(content(features), scratch(grown, run))


def change(folder):
    write(folder / "log/b", visits(by_partition(0), 3), "csv")


def touch(folder):
    os.utime(folder / "log/b.csv", ns=(1, 1))


def remove(folder):
    (folder / "log/b.csv").unlink()


def damage(folder):
    (folder / "out/features/events/part-00000.parquet").unlink()


@pytest.mark.parametrize("happens", [change, touch, remove, damage])
def test_an_old_file_that_is_not_as_it_was_means_from_scratch(grown, happens):
    write(grown / "log/c", visits(by_partition(0), 1), "csv")
    happens(grown)
    asked = []
    features, _ = prepare_here(run_on(grown), grown / "out", asked)
    assert asked == [sorted(path.name for path in (grown / "log").iterdir())]
    equal(content(features), scratch(grown))


@pytest.mark.parametrize(
    "data", [{"keep_duplicates": True}, {"known_events": ["buy"]}, {"event_weights": {"buy": 2.0}}]
)
def test_another_meaning_of_the_rows_means_from_scratch(grown, data):
    write(grown / "log/c", visits(by_partition(0), 1), "csv")
    run, asked = run_on(grown, **data), []
    features, _ = prepare_here(run, grown / "out", asked)
    assert asked == [["b.csv", "c.csv"]]
    equal(content(features), scratch(grown, run))


def test_ids_that_are_no_longer_whole_numbers_mean_from_scratch(tmp_path):
    (tmp_path / "log").mkdir()
    log = [(user, item, T + n, "buy", "") for user in "123" for n, item in enumerate("5678")]
    write(tmp_path / "log/a", log, "int")
    prepare_here(run_on(tmp_path), tmp_path / "out")
    write(tmp_path / "log/b", [(user, item, at + 9, *rest) for user, item, at, *rest in log], "text")
    asked = []
    features, _ = prepare_here(run_on(tmp_path), tmp_path / "out", asked)
    assert asked == [["a.parquet", "b.parquet"]]
    equal(content(features), scratch(tmp_path))


def test_columns_named_in_another_order_are_stored_in_that_order(tmp_path):
    (tmp_path / "log").mkdir()
    write(tmp_path / "log/a", visits(by_partition(0), 0), "csv")
    prepare_here(run_on(tmp_path), tmp_path / "out")
    write(tmp_path / "log/b", visits(by_partition(0), 1), "csv")
    for extra in ({"basket": "item", "store": "shop"}, {"store": "shop", "basket": "item"}):
        data = {"partitions": 3, "max_reject_fraction": 1.0}
        run = run_of(f"{tmp_path}/log/*", {"event": "kind", **extra}, data=data)
        features, _ = prepare_here(run, tmp_path / "out")
        equal(content(features), scratch(tmp_path, run))
        write(tmp_path / "log/c", visits(by_partition(0), 2), "csv")


def test_a_log_that_outgrew_its_partitions_is_built_anew_with_more_of_them(grown):
    write(grown / "log/c", visits(by_partition(0), 1), "csv")
    for partitions, files_ in ((12, ["c.csv"]), (13, ["b.csv", "c.csv"])):
        asked = []
        out = grown / str(partitions)
        os.rename(grown / "log/c.csv", grown / "c.csv")
        prepare_here(run_on(grown), out)
        os.rename(grown / "c.csv", grown / "log/c.csv")
        features, info = prepare_here(run_on(grown, partitions=partitions), out, asked)
        assert asked == [files_]
        assert info["log"]["num_partitions"] == (3 if partitions == 12 else 13)
        assert info["users"] == 6
        assert len(features.names("events")) <= partitions


def test_an_object_store_keeps_the_old_features_aside_until_the_new_ones_are_written(grown, monkeypatch):
    # a local disk plays the store, where the old features are deleted before the new ones are written
    write(grown / "log/c", visits(by_partition(0), 1), "csv")
    monkeypatch.setattr(Folder, "is_local", False)
    asked = []
    features, _ = prepare_here(run_on(grown), grown / "out", asked)
    assert asked == [["c.csv"]]
    equal(content(features), scratch(grown))
    assert not (grown / "out/.features.base").exists()


def test_a_failed_append_leaves_the_old_features_whole(grown):
    before = content(Folder(grown / "out/features"))
    (grown / "log/c.csv").write_text("user,item,time,kind,shop\nu1,x,noon,buy,\n" * 50)
    with pytest.raises(DataError, match="rows rejected"):
        prepare_here(run_on(grown, max_reject_fraction=0.5), grown / "out")
    equal(content(Folder(grown / "out/features")), before)
