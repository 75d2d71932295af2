"""Files of a log: which there are, their pieces and rows, and what an unreadable one says."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data import files
from raysys.data.files import fingerprint, list_sources, pieces_of, read_piece, schema_of
from raysys.data.formats import Piece, TextFormat, file_kind
from raysys.errors import DataError


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def source_of(path):
    return list_sources(str(path), "data.events")[0]


def rows_of(path, columns=None):
    return [row for piece in pieces_of(source_of(path)) for block in read_piece(piece, columns)
            for row in block.table.to_pylist()]  # fmt: skip


CSV = 'user,item,title\n007,01,"a, b"\n8,2,"say ""hi"""\n'


def test_formats_are_told_by_the_ending():
    names = {
        "a.parquet": "parquet",
        "a.CSV": "csv",
        "a.csv.gz": "csv",
        "a.jsonl": "json",
        "a.ndjson.gz": "json",
    }
    assert {name: file_kind(name, TextFormat()) for name in names} == names
    for name in ("a.txt", "a", "a.csv.zip", "a.json"):
        with pytest.raises(DataError, match=rf"{name}: unknown format; expected a name ending in \.parquet"):
            file_kind(name, TextFormat())


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_values_are_text_so_leading_zeros_and_quoted_separators_survive(tmp_path, ending, newline):
    content = CSV.replace("\n", newline).encode()
    path = write(tmp_path, f"log.{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    assert rows_of(path) == [
        {"user": "007", "item": "01", "title": "a, b"},
        {"user": "8", "item": "2", "title": 'say "hi"'},
    ]
    assert rows_of(path, ["item"]) == [{"item": "01"}, {"item": "2"}]
    assert schema_of(source_of(path)).names == ["user", "item", "title"]


def test_csv_details(tmp_path):
    assert rows_of(write(tmp_path, "bom.csv", b"\xef\xbb\xbfa,b\n1,2\n")) == [{"a": "1", "b": "2"}]
    assert rows_of(write(tmp_path, "null.csv", 'a,b\n,""\n')) == [{"a": None, "b": ""}]
    assert rows_of(write(tmp_path, "old.csv", "a,b\r1,2\r3,4\r")) == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]
    assert rows_of(write(tmp_path, "one.csv", "\n\na\n1\n\n2\n")) == [{"a": "1"}, {"a": "2"}]
    assert rows_of(write(tmp_path, "tail.csv", "a,b\n1,2")) == [{"a": "1", "b": "2"}]
    for content in ("a,b\n", "a,b"):
        path = write(tmp_path, "header.csv", content)
        assert rows_of(path) == []
        assert schema_of(source_of(path)).names == ["a", "b"]  # a quiet hour has a header and no rows


def test_a_csv_file_larger_than_a_block_is_read_whole_and_in_order(tmp_path):
    lines = [f"{number:06d},{'x' * 20}\n" for number in range(100_000)]
    path = write(tmp_path, "big.csv", "user,item\n" + "".join(lines))
    tables = [block.table for block in read_piece(pieces_of(source_of(path))[0])]
    assert len(tables) > 1
    assert pa.concat_tables(tables).column("user").to_pylist() == [f"{n:06d}" for n in range(100_000)]


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "jsonl.gz"])
def test_json_lines_may_lack_keys(tmp_path, ending):
    content = b'{"user": "007", "item": 1}\n{"user": "8", "extra": [1]}\n'
    path = write(tmp_path, f"log.{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    assert rows_of(path) == [
        {"user": "007", "item": 1, "extra": None},
        {"user": "8", "item": None, "extra": [1]},
    ]
    assert rows_of(path, ["user"]) == [{"user": "007"}, {"user": "8"}]


def test_parquet_is_read_in_pieces_of_row_groups_that_know_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROWS_PER_PIECE", 25)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": list(range(100)), "item": ["x"] * 100}), path, row_group_size=10)
    pieces = pieces_of(source_of(path))
    assert [(piece.start, piece.stop, piece.first_row) for piece in pieces] == [
        (0, 3, 0),
        (3, 6, 30),
        (6, 9, 60),
        (9, 10, 90),
    ]
    assert [row["user"] for row in rows_of(path, ["user"])] == list(range(100))
    assert rows_of(path, ["user"])[0] == {"user": 0}
    whole = pa.concat_tables(block.table for block in read_piece(Piece(source_of(path))))
    assert whole.num_rows == 100


def test_parquet_without_row_groups_has_no_pieces(tmp_path):
    path = tmp_path / "log.parquet"
    pq.ParquetWriter(path, pa.schema([("user", pa.string())])).close()
    assert pieces_of(source_of(path)) == []
    assert schema_of(source_of(path)).names == ["user"]


def test_globs_folders_lists_and_repeats(tmp_path):
    for name in ("b.csv", "a.csv", "c.parquet", "_SUCCESS", ".hidden.csv", "_delta_log/0.json"):
        write(tmp_path, f"log/{name}", CSV)
    log = tmp_path / "log"

    def names(paths):
        sources = list_sources(paths, "data.events")
        assert [source.number for source in sources] == list(range(len(sources)))
        return [source.name for source in sources]

    assert names(str(log)) == names(f"{log}/") == names(f"file://{log}") == ["a.csv", "b.csv", "c.parquet"]
    assert names(f"{log}/*.csv") == [".hidden.csv", "a.csv", "b.csv"]
    assert names(f"{log}/[ab].csv") == names(f"{log}/?.csv") == ["a.csv", "b.csv"]
    assert names([f"{log}/b.csv", f"{log}/a.csv", f"{log}/*a.csv"]) == ["a.csv", "b.csv"]
    assert names((f"{log}/b.csv",)) == ["b.csv"]


@pytest.mark.parametrize("path", ["nothing.csv", "*.csv", "empty", "nowhere/x.csv", "s.parquet/*.csv"])
def test_no_file_is_an_error_that_names_the_key(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file found; data\.items\.path names it"):
        list_sources(f"{tmp_path}/{path}", "data.items.path")


def test_a_folder_with_a_file_of_unknown_format_is_refused(tmp_path):
    write(tmp_path, "log/a.csv", CSV)
    write(tmp_path, "log/notes.txt", "hello")
    with pytest.raises(DataError, match=r"notes\.txt: unknown format"):
        list_sources(str(tmp_path / "log"), "data.events")


def damaged_gzip():
    content = bytearray(gzip.compress(CSV.encode() * 50))
    content[30] ^= 0xFF
    return bytes(content)


UNREADABLE = {
    "binary.csv": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), r"byte 0 \(0x89\) is not utf-8"),
    "latin.csv": ("a,b\n1,2\n1,é\n".encode("latin-1"), r"byte 10 \(0xe9\) is not utf-8; .*encodings = \["),
    "cut.csv.gz": (gzip.compress(CSV.encode())[:-12], "truncated or damaged.*end-of-stream"),
    "damaged.csv.gz": (damaged_gzip(), "truncated or damaged.*decompressing"),
    "plain.csv.gz": (CSV, "truncated or damaged.*Not a gzipped file"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n' * 99)[:-12], "truncated or damaged.*end-of-stream"),
    "latin.jsonl": ('{"a": "é"}\n'.encode("latin-1"), r"byte 7 \(0xe9\) is not utf-8"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_text_file_is_named_in_one_line(tmp_path, name):
    content, words = UNREADABLE[name]
    with pytest.raises(DataError, match=rf"{name}: cannot be read as (csv|json).*{words}") as caught:
        rows_of(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_an_unreadable_parquet_file_is_named(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"a": list(range(10_000))}), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for read in (schema_of, pieces_of):
        with pytest.raises(DataError, match=r"log\.parquet: not a readable Parquet file \(truncated\?\)"):
            read(source_of(path))
    path.write_bytes(content[:500] + bytes(3000) + content[3500:])  # the footer is whole, a page is not
    with pytest.raises(DataError, match=r"log\.parquet: cannot be read as parquet"):
        rows_of(path)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_named(tmp_path, name, content):
    with pytest.raises(DataError, match="the file is empty; expected a header or rows"):
        schema_of(source_of(write(tmp_path, name, content)))


def test_fingerprints_change_with_names_sizes_and_times(tmp_path):
    import os

    path = write(tmp_path, "a.csv", CSV)
    first = fingerprint(list_sources(path, "k"))
    assert fingerprint(list_sources(path, "k")) == first
    os.utime(path, ns=(1, 1))
    touched = fingerprint(list_sources(path, "k"))
    write(tmp_path, "a.csv", CSV + "1,2,3\n")
    longer = fingerprint(list_sources(path, "k"))
    other = fingerprint(list_sources(write(tmp_path, "b.csv", CSV), "k"))
    assert len({first, touched, longer, other}) == 4


def test_only_an_empty_field_of_a_csv_is_null(tmp_path):
    (tmp_path / "log.csv").write_text("item,user\nNA,1\nnull,2\n,3\nnan,4\n")
    piece = pieces_of(list_sources(str(tmp_path / "log.csv"), "data.events")[0])[0]
    items = [item for block in read_piece(piece) for item in block.table.column("item").to_pylist()]
    assert items == ["NA", "null", None, "nan"]
