"""A log that no one here has seen: three formats, two encodings, local times, rows of every fault.

It is described by keys of `[data]` only. Every figure and every rejected row is stated by hand.
"""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import pipeline, prepare
from raysys.storage import Folder

pytestmark = pytest.mark.usefixtures("ray_cluster")

RUN = """
[data]
events = ["log/*.tsv.gz", "log/**/part-*.jsonl*"]
time_format = "%d/%m/%Y %H:%M:%S"
time_zone = "America/Sao_Paulo"
known_events = ["ver", "compra"]
reject_negative = ["carga.qtd"]
max_reject_fraction = 0.1
[data.format]
encodings = ["utf-8", "latin-1"]
[data.columns]
user = "cliente.id"
item = "carga.item.id"
time = ["quando.dia", "quando.hora"]
event = "ação"
[data.event_weights]
compra = 2.5
[model]
name = "mind"
"""
NAMES = ("quando.dia", "quando.hora", "cliente.id", "carga.item.id", "ação", "carga.qtd", "nota")
FEB_17, FEB_18 = "17/02/2018", "18/02/2018"
TIMES = [
    (FEB_17, "22:00:00", "2018-02-18T00:00:00"),  # summer time, UTC-2
    (FEB_17, "22:30:00", "2018-02-18T00:30:00"),
    (FEB_17, "23:30:00", "2018-02-18T01:30:00"),  # this hour came twice that night: the first of the two
    (FEB_18, "00:10:00", "2018-02-18T03:10:00"),  # UTC-3
    (FEB_18, "00:40:00", "2018-02-18T03:40:00"),
    (FEB_18, "01:20:00", "2018-02-18T04:20:00"),
]
USERS, ITEMS, EACH = 40, 12, len(TIMES)


def good(user, k, **changed):
    """Return one row: the k-th event of a user."""
    day, hour, _ = TIMES[k]
    values = (day, hour, f"joão-{user:02d}", item_of(user, k), "ver" if k < 4 else "compra", "1", 'a "b"\tc')
    return dict(zip(NAMES, values, strict=True)) | changed


def item_of(user, k):
    return f"maçã\t{(user + k) % ITEMS}"  # with the separator of the TSV inside


def tsv(rows, encoding):
    """Return rows as gzipped TSV; a row that is text is a line as it stands."""

    def field(value):
        quoted = value.replace('"', '""')
        return f'"{quoted}"' if "\t" in value or '"' in value else value

    lines = ["\t".join(NAMES)]
    lines += [row if isinstance(row, str) else "\t".join(map(field, row.values())) for row in rows]
    return gzip.compress(("\r\n".join(lines) + "\r\n").encode(encoding))


def jsonl(rows):
    """Return rows as JSON lines with nested objects; keys whose value is None are left out."""
    lines = []
    for row in rows:
        nested = {}
        for name, value in row.items() if isinstance(row, dict) else ():
            *path, last = name.split(".")
            inner = nested
            for step in path:
                inner = inner.setdefault(step, {})
            if value is not None:
                inner[last] = int(value) if name == "carga.qtd" and value.lstrip("-").isdigit() else value
        lines.append(row if isinstance(row, str) else json.dumps(nested, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()


def write_log(folder):
    """Write 240 good rows over four files, rows of user 7 and 8, and what is to be rejected.

    Returns (file, row, reason) of the rejected rows.
    """
    files = [[], [], [], []]
    for number in range(USERS * EACH):
        files[number % 4].append(good(number // EACH, number % EACH))  # 60 each
    latin, marked, lines, zipped = files
    seven = [good(0, k, **{"cliente.id": 7 if k % 2 else "7"}) for k in range(EACH)]
    lines += seven  # the same user, whether number or text

    latin[0:0] = ["17/02/2018\tsó dois"]  # row 0
    latin[10:10] = [good(1, 0, ação="xpto")]
    latin[20:20] = [good(1, 0, **{"carga.qtd": "-2"})]
    latin[30:30] = [good(1, 0, **{"cliente.id": ""}), good(1, 0, **{"cliente.id": "  "})]  # rows 30, 31
    latin[40:40] = [""]  # an empty line is no row
    marked[5:5] = [
        good(1, 0, **{"carga.item.id": ""}),  # 5
        good(1, 0, **{"quando.dia": "31/02/2018"}),
        good(1, 0, **{"quando.hora": ""}),
        good(0, 0),  # 8: it is also in the first file
    ]
    marked.append("1\t2\t3\t4\t5\t6\t7\t8\t9")  # 64
    lines[3:3] = ["{não é json", "[1, 2]"]  # 3, 4
    lines.append(good(1, 0, **{"carga.item.id": None}))  # 68
    lines.append(good(1, 0, **{"carga.qtd": "muito"}))  # 69
    lines.append(good(1, 0, **{"carga.qtd": "-1"}))  # 70
    lines.append(lines[0])  # 71
    zipped[0:0] = [good(1, 0, ação=None)]
    zipped.append(good(1, 0, **{"quando.dia": "17/02/1918"}))  # 61
    zipped.append(good(0, 0, nota="outra"))  # 62: the note is no column of the log, as far as the run says
    (folder / "2018" / "fev").mkdir(parents=True)
    (folder / "a.tsv.gz").write_bytes(tsv(latin, "latin-1"))
    (folder / "b.tsv.gz").write_bytes(tsv(marked, "utf-8-sig"))
    (folder / "2018" / "fev" / "part-0.jsonl").write_bytes(jsonl(lines))
    (folder / "2018" / "fev" / "part-1.jsonl.gz").write_bytes(gzip.compress(jsonl(zipped)))
    return {
        ("a.tsv.gz", 0, "wrong_width"),
        ("a.tsv.gz", 10, "unknown_event"),
        ("a.tsv.gz", 20, "negative_quantity"),
        ("a.tsv.gz", 30, "null_user"),
        ("a.tsv.gz", 31, "null_user"),
        ("b.tsv.gz", 5, "null_item"),
        ("b.tsv.gz", 6, "unparsable_time"),
        ("b.tsv.gz", 7, "null_time"),
        ("b.tsv.gz", 64, "wrong_width"),
        ("part-0.jsonl", 3, "unparsable_row"),
        ("part-0.jsonl", 4, "unparsable_row"),
        ("part-0.jsonl", 68, "null_item"),
        ("part-0.jsonl", 69, "bad_number"),
        ("part-0.jsonl", 70, "negative_quantity"),
        ("part-0.jsonl", 71, "duplicate"),
        ("part-1.jsonl.gz", 0, "unknown_event"),
        ("part-1.jsonl.gz", 61, "time_out_of_range"),
        # files come in the order of their names: 2018/fev/part-1.jsonl.gz is before a.tsv.gz
        ("b.tsv.gz", 8, "duplicate"),
        ("a.tsv.gz", 1, "duplicate"),
    }


REJECTED = {
    "bad_number": 1,
    "duplicate": 3,
    "negative_quantity": 2,
    "null_item": 2,
    "null_time": 1,
    "null_user": 2,
    "time_out_of_range": 1,
    "unknown_event": 2,
    "unparsable_row": 2,
    "unparsable_time": 1,
    "wrong_width": 2,
}
ROWS = USERS * EACH + EACH + sum(REJECTED.values())


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, ray_cluster):
    """Return a folder with the log, its run file, its features in `out`, and the rows to be rejected."""
    folder = tmp_path_factory.mktemp("foreign")
    rejected = write_log(folder / "log")
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    arguments = ["--run", str(folder / "run.toml"), "--out", str(folder / "out"), "--address", "local"]
    assert prepare.main(arguments) == 0
    return folder, rejected


def test_counts_by_reason_are_the_planted_ones(foreign):
    info = Folder(foreign[0] / "out" / "features").read_json("manifest.json")["info"]
    assert info["rejected"] == REJECTED
    assert (info["rows"], info["events"]) == (ROWS, USERS * EACH + EACH)
    assert (info["users"], info["items"]) == (USERS + 1, ITEMS)
    assert info["queries"] == {"valid": USERS + 1, "test": USERS + 1}


def test_rejected_rows_are_found_with_file_and_row(foreign):
    folder, expected = foreign
    tables = [pq.read_table(path) for path in (folder / "out" / "features" / "rejected").iterdir()]
    rows = [row for table in tables for row in table.to_pylist()]
    assert sorted((Path(row["file"]).name, row["row"], row["reason"]) for row in rows) == sorted(expected)
    by_place = {(Path(row["file"]).name, row["row"]): row for row in rows}
    assert by_place["b.tsv.gz", 6]["time"] == "31/02/2018 22:00:00"
    assert by_place["a.tsv.gz", 20]["user"] == "joão-01"
    assert by_place["a.tsv.gz", 1]["item"] == item_of(0, 0)


def test_what_looks_wrong_is_told_in_the_words_of_the_run_file(foreign):
    profile = Folder(foreign[0] / "out" / "features").read_json("profile.json")
    texts = {mistake["code"]: mistake["text"] for mistake in profile["likely_mistakes"]}
    assert texts["unparsable_time"] == (
        "1 row was rejected as unparsable_time: time '31/02/2018 22:00:00' is not of the format "
        "'%d/%m/%Y %H:%M:%S', or no date that there is."
    )
    assert texts["time_out_of_range"] == (
        "1 row was rejected as time_out_of_range: time '17/02/1918 22:00:00' is not between 1980 and 2100."
    )


def test_events_have_their_ids_their_utc_times_and_their_weights(foreign):
    parts = (foreign[0] / "out" / "features" / "events").iterdir()
    found = {}
    for row in (row for path in parts for row in pq.read_table(path).to_pylist()):
        at = datetime.fromtimestamp(row["time_ns"] // 10**9, UTC).replace(tzinfo=None).isoformat()
        found.setdefault(row["user_id"], []).append((at, row["item_id"], row["event"], row["weight"]))
    expected = {
        f"joão-{user:02d}": [
            (utc, item_of(user, k), *(("ver", 1.0) if k < 4 else ("compra", 2.5)))
            for k, (_, _, utc) in enumerate(TIMES)
        ]
        for user in range(USERS)
    }
    expected["7"] = expected["joão-00"]
    assert found == expected


def test_the_line_runs_on_it(foreign):
    folder, _ = foreign
    small = {
        "model.embedding_dim": 8,
        "model.hidden_dims": [8],
        "training.epochs": 1,
        "training.batch_size": 32,
        "training.learning_rate": 0.01,
        "cluster.workers": 0,
        "evaluation.ks": [5],
    }
    settings = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    out = str(folder / "out")
    arguments = ["--run", str(folder / "run.toml"), "--out", out, "--address", "local", *settings]
    assert pipeline.main(arguments) == 0
    measured = Folder(folder / "out" / "evaluation").read_json("metrics.json")
    assert measured["protocol"]["queries"] == USERS + 1
    assert 0 <= measured["metrics"]["hit_rate@5"] <= 1
    lists = pq.read_table(folder / "out" / "evaluation" / "recommendations.parquet")
    assert set(lists.column("item_id").to_pylist()) <= {item_of(0, k) for k in range(ITEMS)}
    assert "joão-39" in lists.column("user_id").to_pylist()
