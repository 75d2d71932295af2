"""Bad input through the jobs: exit code 2, one line that names place and remedy, nothing left behind."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import export, prepare, train
from raysys.manifest import Manifest
from raysys.storage import Folder

pytestmark = pytest.mark.usefixtures("ray_cluster")

T = 1_600_000_000
LOG = {
    "user": [f"u{n // 6}" for n in range(60)],
    "item": [f"i{n % 7}" for n in range(60)],
    "time": [T + 60 * n for n in range(60)],
    "session": [f"s{n // 2}" for n in range(60)],
}
RUN = """
[data]
events = "log.parquet"
partitions = 2
[data.columns]
user = "user"
item = "item"
time = "time"
[model]
name = "mind"
embedding_dim = 8
hidden_dims = [8]
[training]
batch_size = 8
[cluster]
workers = 0
object_store_mb = 150
"""


class Case:
    """A folder with a good log and a good run file, and jobs that run there."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.out = folder / "out"
        self.log()
        self.run(RUN)

    def log(self, name="log.parquet", **changes):
        columns = {key: values for key, values in {**LOG, **changes}.items() if values is not None}
        pq.write_table(pa.table(columns), self.folder / name)

    def write(self, name, content):
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def run(self, text):
        self.write("run.toml", text)

    def job(self, job, *settings):
        """Run a job; return its exit code, its lines on stdout and its lines on stderr."""
        flags = [word for setting in settings for word in ("--set", setting)]
        arguments = ["--run", f"{self.folder}/run.toml", "--out", str(self.out), "--address", "local", *flags]
        code = job.main(arguments)
        out, err = self.capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    def refused(self, *settings, job=prepare):
        """Run a job that must refuse; return its line."""
        code, out, err = self.job(job, *settings)
        assert code == 2, (out, err)
        assert len(err) == 1, err
        assert err[0].startswith("error: ")
        assert not any(words in err[0] for words in ("ray::", "Failed to apply UDF"))
        assert "Traceback" not in "".join(out)
        if job is prepare:
            assert not (self.out / "features").exists()
        left = [name for name in os.listdir(self.out) if ".partial-" in name] if self.out.exists() else []
        assert left == []
        return err[0]


@pytest.fixture
def case(tmp_path, capsys):
    return Case(tmp_path, capsys)


def assert_says(line, *words):
    for word in words:
        assert word in line, f"{word!r} is not in {line!r}"


def test_the_good_log_is_accepted(case):
    code, _, err = case.job(prepare)
    assert (code, err) == (0, [])
    assert os.listdir(case.out) == ["features"]


# --- the log


def test_a_missing_column(case):
    case.log(item=None, itm=LOG["item"])
    line = case.refused()
    assert_says(line, "log.parquet", "no column 'item'", "data.columns.item", "did you mean itm?")


def test_a_column_missing_in_one_of_several_files(case):
    case.log("log2.parquet", user=None)
    line = case.refused(f'data.events=["{case.folder}/log.parquet", "{case.folder}/log2.parquet"]')
    assert_says(line, "log2.parquet", "no column 'user'", "data.columns.user")


def test_a_column_of_ids_that_are_numbers_with_a_point(case):
    case.log(user=[float(n) for n in range(60)])
    assert_says(
        case.refused(), "log.parquet", "column 'user'", "data.columns.user", "double", "expected text or int"
    )


def test_a_time_column_of_another_type(case):
    case.log(time=[[1]] * 60)
    assert_says(case.refused(), "log.parquet", "column 'time'", "list", "expected numbers")


def test_numbers_where_iso8601_is_configured(case):
    line = case.refused("data.time_unit=iso8601")
    assert_says(
        line, "log.parquet", "column 'time'", "int64", "expected ISO 8601 text", "check data.time_unit"
    )


def test_text_that_is_no_time(case):
    case.log(time=["noon"] * 60)
    line = case.refused()
    assert_says(
        line, "60 of 60 rows rejected", "60 unparsable_time", "log.parquet row 0", "'noon'", "data.time_unit"
    )


def test_null_ids_above_the_limit(case):
    case.log(user=[None, "", *LOG["user"][2:]])
    line = case.refused()
    assert_says(
        line, "2 of 60 rows rejected (2 null_user)", "data.max_reject_fraction = 0.01", "log.parquet row 0"
    )


def test_null_ids_below_the_limit_are_kept_aside_with_file_and_row(case):
    case.log(user=[*LOG["user"][:-1], None], item=["", *LOG["item"][1:]])
    code, _, err = case.job(prepare, "data.max_reject_fraction=0.05")
    assert (code, err) == (0, [])
    features = case.out / "features"
    info = json.loads((features / "manifest.json").read_text())["info"]
    assert info["rejected"] == {"null_item": 1, "null_user": 1}
    assert info["events"] == 58
    rows = [row for path in (features / "rejected").iterdir() for row in pq.read_table(path).to_pylist()]
    found = sorted((row["row"], row["reason"], Path(row["file"]).name) for row in rows)
    assert found == [(0, "null_item", "log.parquet"), (59, "null_user", "log.parquet")]


def test_mixed_units_of_time(case):
    case.log(time=[at * (1000 if n % 2 else 1) for n, at in enumerate(LOG["time"])])
    line = case.refused()
    assert_says(
        line, "30 time_out_of_range", "log.parquet row 1", "not between 1980 and 2100 in s", "mixes units"
    )


def test_duplicate_rows_above_the_limit(case):
    case.log(**{name: values + values[:5] for name, values in LOG.items()})
    line = case.refused()
    assert_says(
        line, "5 of 65 rows rejected (5 duplicate)", "log.parquet row 6", "data.keep_duplicates = true"
    )
    code, _, err = case.job(prepare, "data.keep_duplicates=true")
    assert (code, err) == (0, [])


def test_a_truncated_parquet_file(case):
    content = (case.folder / "log.parquet").read_bytes()
    case.write("log.parquet", content[:-20])
    assert_says(case.refused(), "log.parquet", "not a readable Parquet file (truncated?)")


def test_a_parquet_file_damaged_inside_surfaces_from_its_task_as_one_line(case):
    content = bytearray((case.folder / "log.parquet").read_bytes())
    content[4:400] = bytes(396)
    case.write("log.parquet", bytes(content))
    assert_says(case.refused(), "log.parquet", "cannot be read as parquet (truncated or damaged?)")


def test_a_csv_file_that_is_none(case):
    case.write("log.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    line = case.refused(f"data.events={case.folder}/log.csv")
    assert_says(
        line, "log.csv", "cannot be read as csv", "byte 0 (0x89) is not utf-8", "data.format.encodings"
    )


def test_rows_of_another_width_above_the_limit(case):
    rows = "".join(f"u{n % 9},i{n % 7},{T + n}\n" for n in range(60))
    case.write("log.csv", f"user,item,time\n{rows}u1,i1\n")
    line = case.refused(f"data.events={case.folder}/log.csv")
    assert_says(line, "1 of 61 rows rejected (1 wrong_width)", "log.csv row 60", "data.format.separator")


def test_rows_of_another_width_in_a_file_of_many_pieces_are_kept_aside_with_their_row(case):
    rows = [f"u{n % 9},i{n % 7},{T + n},{'x' * 450}" for n in range(150_000)]
    for wrong in (0, 70_000, 149_999):
        rows[wrong] = f"u,i,{T}"
    rows[140_000] = f",i1,{T},x"
    rows[140_001] = rows[140_000 - 1]
    case.write("log.csv", "user,item,time,note\n" + "\n".join(rows) + "\n")
    code, _, err = case.job(prepare, f"data.events={case.folder}/log.csv")
    assert (code, err) == (0, [])
    rejected = [row for path in (case.out / "features" / "rejected").iterdir()
                for row in pq.read_table(path).to_pylist()]  # fmt: skip
    assert sorted((row["row"], row["reason"]) for row in rejected) == [
        (0, "wrong_width"),
        (70_000, "wrong_width"),
        (140_000, "null_user"),
        (140_001, "duplicate"),
        (149_999, "wrong_width"),
    ]
    info = json.loads((case.out / "features" / "manifest.json").read_text())["info"]
    assert (info["rows"], info["events"]) == (150_000, 149_995)


def test_a_line_break_in_quotes(case):
    case.write("log.csv", f'user,item,time\nu1,"a\nb",{T}\n')
    line = case.refused(f"data.events={case.folder}/log.csv")
    assert_says(line, "log.csv", "a quoted field", "data.format.multiline = true", "data.format.quote")


def test_a_gzip_file_cut_short(case):
    import gzip

    rows = "".join(f"u{n % 9},i{n % 7},{T + n}\n" for n in range(90_000))
    case.write("log.csv.gz", gzip.compress(f"user,item,time\n{rows}".encode())[:-100])
    assert_says(case.refused(f"data.events={case.folder}/log.csv.gz"), "log.csv.gz", "cannot be read as csv")


def test_json_lines_that_are_none(case):
    case.write("log.jsonl", '{"user": "a", "item": "b", "time": 1600000000}\n{"user": \n')
    line = case.refused(f"data.events={case.folder}/log.jsonl")
    assert_says(line, "1 of 2 rows rejected (1 unparsable_row)", "log.jsonl row 1", "not one JSON object")


def test_a_missing_nested_column(case):
    case.write("log.jsonl", '{"user": "a", "payload": {"item": {"id": "b"}}, "time": 1600000000}\n')
    line = case.refused(f"data.events={case.folder}/log.jsonl", "data.columns.item=payload.itm.id")
    assert_says(
        line, "log.jsonl: no column 'payload.itm.id'", "data.columns.item", "did you mean payload.item.id?"
    )


def test_event_types_that_are_not_known(case):
    line = case.refused("data.columns.event=session", 'data.known_events=["s1", "s2"]')
    assert_says(line, "56 unknown_event", "log.parquet row 0", "none of s1, s2", "data.known_events")


def test_negative_quantities(case):
    case.log(quantity=[-1] * 30 + [1] * 30)
    line = case.refused('data.reject_negative=["quantity"]')
    assert_says(line, "30 of 60 rows rejected (30 negative_quantity)", "row 0", "data.reject_negative")


def test_a_time_format_that_does_not_fit(case):
    case.log(time=["13.09.2020"] * 60)
    line = case.refused("data.time_format=%Y-%m-%d")
    assert_says(
        line, "60 unparsable_time", "'13.09.2020' is not of the format '%Y-%m-%d'", "data.time_format"
    )


def test_a_time_zone_that_does_not_exist(case):
    line = case.refused("data.time_zone=Europe/Berln")
    assert_says(line, "data.time_zone: unknown zone 'Europe/Berln'", "did you mean", "Europe/Berlin?")


def test_a_source_that_does_not_exist(case):
    assert_says(case.refused("data.source=taobo"), "data.source: unknown data set 'taobo'", "taobao?")


def test_an_encoding_that_does_not_exist(case):
    line = case.refused('data.format.encodings=["utf-88"]')
    assert_says(line, "data.format.encodings: unknown 'utf-88'", "latin-1")


def test_an_unknown_ending(case):
    case.write("log.xlsx", "x")
    line = case.refused(f"data.events={case.folder}/log.xlsx")
    assert_says(
        line, "log.xlsx: unknown format", "expected a name ending in .parquet", "or set data.format.kind"
    )


def test_no_such_file(case):
    line = case.refused(f"data.events={case.folder}/nothing/*.parquet")
    assert_says(line, "nothing/*.parquet: no file found", "data.events names it", "jobs/download.py")


def test_an_unknown_scheme(case):
    assert_says(case.refused("data.events=nosuch://bucket/log.csv"), "nosuch://", "not a path or URI")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_an_empty_file(case, name):
    case.write(name, "")
    assert_says(
        case.refused(f"data.events={case.folder}/{name}"), name, "the file is empty", "expected a header or"
    )


def test_a_log_of_no_rows(case):
    case.log(**{name: pa.array([], pa.string()) for name in LOG})
    assert_says(case.refused(), "log.parquet", "the log holds no rows", "data.events")
    case.write("log.csv", "user,item,time\n")
    assert_says(case.refused(f"data.events={case.folder}/log.csv"), "log.csv", "the log holds no rows")
    pq.ParquetWriter(case.folder / "log.parquet", pa.schema([(name, pa.string()) for name in LOG])).close()
    assert_says(case.refused(), "log.parquet", "the log holds no rows")


def test_everything_removed_by_the_core(case):
    line = case.refused("data.min_item_events=50")
    assert_says(line, "no event is left of 60", "data.min_item_events = 50", "lower them")


def test_everything_dropped_by_the_kind_of_event(case):
    line = case.refused("data.columns.event=session", 'data.keep_events=["buy"]', "data.min_item_events=2")
    assert_says(line, "no event is left of 60 rows: 0 rejected, 60 dropped", "check data.keep_events")


def test_an_empty_part(case):
    times = ("split.kind=time", "split.valid_from=2030-01-01", "split.test_from=2031-01-01")
    assert_says(
        case.refused(*times), "[split]: the valid part is empty under kind = 'time'", "check the cut-offs"
    )


# --- side tables


def side(case, text, name="items.csv"):
    case.write(name, text)
    features = {"items": "genre", "users": "genre"}
    kind = name.partition(".")[0]
    case.run(
        RUN + f'[data.{kind}]\npath = "{name}"\nid = "id"\n[data.{kind}.features]\n{features[kind]} = {{}}\n'
    )


def test_a_side_table_with_an_id_twice(case):
    side(case, "id,genre\ni1,a\ni2,b\ni1,c\n")
    assert_says(
        case.refused(), "items.csv", "1 rows repeat an id in column 'id'", "'i1'", "keep one row per id"
    )


def test_a_side_table_without_the_column_of_ids(case):
    side(case, "user,genre\nu1,a\n", "users.csv")
    assert_says(case.refused(), "users.csv", "no column 'id'", "data.users", "known: genre, user")


def test_a_side_table_that_is_not_there(case):
    side(case, "id,genre\n")
    (case.folder / "items.csv").unlink()
    assert_says(case.refused(), "items.csv: no file found", "data.items.path names it")


def test_a_feature_with_a_name_that_is_taken(case):
    case.write("items.csv", "id,count\ni1,3\n")
    case.run(RUN + '[data.items]\npath = "items.csv"\nid = "id"\n[data.items.features]\ncount = {}\n')
    assert_says(case.refused(), "data.items.features.count", "this name is taken", "set its `column`")


# --- the run file


def test_a_key_that_does_not_exist(case):
    assert_says(
        case.refused("data.min_item_event=5"), "data.min_item_event: unknown", "did you mean data.min_item_ev"
    )


def test_a_section_that_does_not_exist(case):
    assert_says(case.refused("trainig.epochs=5"), "trainig: unknown section", "did you mean training?")


def test_a_value_of_another_type(case):
    assert_says(
        case.refused("training.epochs=many"), "training.epochs: found text 'many', expected an integer"
    )


def test_no_interests(case):
    assert_says(case.refused("model.num_interests=0"), "model.num_interests: found 0, expected >= 1")


def test_an_unknown_model(case):
    assert_says(case.refused("model.name=mnd"), "model.name", "mind")


def test_a_batch_that_workers_cannot_share(case):
    line = case.refused("training.batch_size=7", "cluster.workers=2")
    assert_says(line, "training.batch_size: found 7, expected a multiple of cluster.workers (2)")


def test_a_missing_section(case):
    case.run(RUN.partition("[model]")[0])
    assert_says(case.refused(), "[model]: missing section")


def test_a_file_that_is_no_toml(case):
    case.run("[data\n")
    assert_says(case.refused(), "run.toml: not valid TOML", "line 1")


def test_a_run_file_that_is_not_there(case):
    (case.folder / "run.toml").unlink()
    assert_says(case.refused(), "run.toml: no such file", "jobs/runs/")


def test_sessions_by_a_column_that_is_not_named(case):
    assert_says(case.refused("session.by_column=true"), "session.by_column: needs data.columns.session")


def test_an_override_without_a_value(case):
    assert_says(case.refused("training.epochs"), "--set training.epochs: expected dotted.key=value")


# --- folders of earlier stages


def test_training_without_features(case):
    line = case.refused(job=train)
    assert_says(line, "out/features: no finished features here", "run jobs/prepare.py first")


def test_training_on_features_that_were_not_finished(case):
    assert case.job(prepare)[0] == 0
    (case.out / "features" / "manifest.json").unlink()
    assert_says(
        case.refused(job=train), "out/features: no finished features here", "run jobs/prepare.py first"
    )


def test_training_on_features_with_a_damaged_file(case):
    assert case.job(prepare)[0] == 0
    with open(case.out / "features" / "items.parquet", "ab") as file:
        file.write(b"x")
    line = case.refused(job=train)
    assert_says(
        line, "features/items.parquet: found", "manifest.json says", "delete", "run jobs/prepare.py again"
    )


@pytest.mark.parametrize("text", ["{", '{"kind": "features", "format_version": 2}'])
def test_training_on_features_with_a_damaged_manifest(case, text):
    assert case.job(prepare)[0] == 0
    (case.out / "features" / "manifest.json").write_text(text)
    assert_says(case.refused(job=train), "features/manifest.json", "delete", "make it again")


def test_training_on_features_of_another_format(case):
    assert case.job(prepare)[0] == 0
    path = case.out / "features" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    assert_says(case.refused(job=train), "format version 99, this code reads 2", "run jobs/prepare.py again")


def test_a_batch_larger_than_the_training_samples(case):
    assert case.job(prepare)[0] == 0
    line = case.refused("training.batch_size=4096", job=train)
    assert_says(line, "training samples do not fill one batch of 4096", "lower training.batch_size")


def test_a_checkpoint_of_another_vocabulary(case):
    for name, info in (
        ("features", {"vocabularies": {"item": "aaaa"}}),
        ("checkpoint", {"vocabularies": {"item": "bbbb"}}),
    ):
        (case.out / name).mkdir(parents=True)
        Manifest(kind=name, config_digest="", parents={}, info=info).write(Folder(case.out / name))
    line = case.refused(job=export)
    assert_says(
        line, "out/checkpoint: trained with item vocabulary bbbb", "out/features has aaaa", "train again"
    )


def test_an_export_without_a_checkpoint(case):
    assert_says(
        case.refused(job=export), "out/checkpoint: no finished checkpoint here", "run jobs/train.py first"
    )
