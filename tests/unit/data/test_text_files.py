"""Text files of every format: separators, headers, encodings, quotes, pieces, and rows that are none."""

import gzip
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.config import read
from raysys.data import files, text_files
from raysys.data.files import list_sources, number_rows, pieces_of, read_piece, schema_of
from raysys.data.formats import Piece, TextFormat
from raysys.errors import ConfigError, DataError


def source_of(path, **format):
    return list_sources(str(path), "data.events", read(TextFormat, format, "data.format"))[0]


def write(folder, name, content, encoding="utf-8"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def read_all(path, wanted=None, **format):
    """Return rows with their positions, and reason -> positions of unreadable rows."""
    rows, unreadable = [], {}
    for piece in pieces_of(source_of(path, **format)):
        for block in read_piece(piece, wanted):
            assert block.positions.dtype == np.int64
            rows += zip(block.positions.tolist(), block.table.to_pylist(), strict=True)
            for reason, positions in block.unreadable.items():
                unreadable.setdefault(reason, []).extend(positions.tolist())
    return rows, unreadable


def values_of(path, **format):
    return [tuple(row.values()) for _, row in read_all(path, **format)[0]]


# --- formats


def test_tabs_by_the_name_and_any_separator_by_the_config(tmp_path):
    assert values_of(write(tmp_path, "a.tsv", "u\ti\n1\ta,b\n")) == [("1", "a,b")]
    assert values_of(write(tmp_path, "b.csv", "u;i\n1;a,b\n"), separator=";") == [("1", "a,b")]
    assert values_of(write(tmp_path, "c.log", "u|i\n1|x\n"), kind="csv", separator="|") == [("1", "x")]
    zipped = write(tmp_path, "d.tsv.gz", gzip.compress(b"u\ti\n1\tx\n"))
    assert values_of(zipped) == [("1", "x")]
    hive = write(tmp_path, "e.txt", "1\x01x\n")
    assert values_of(hive, kind="csv", separator="\x01", header=False, columns=["u", "i"]) == [("1", "x")]


@pytest.mark.parametrize("separator", ["::", "||", "¦", " | "])
def test_separators_of_several_characters(tmp_path, separator):
    lines = [["u", "i", "t"], ["1", "a:b", ""], ["2", "x"], ["3", "\x1fy", "z"]]
    path = write(tmp_path, "log.dat", "".join(separator.join(line) + "\n" for line in lines))
    rows, unreadable = read_all(path, kind="csv", separator=separator, quote="")
    assert [row for row, _ in rows] == [0, 2]
    assert [tuple(row.values()) for _, row in rows] == [("1", "a:b", None), ("3", "\x1fy", "z")]
    assert unreadable == {"wrong_width": [1]}


def test_a_quoted_field_may_hold_a_separator_of_several_characters(tmp_path):
    path = write(tmp_path, "log.dat", 'u::i\n1::"a::b"\n2::c\n')
    assert values_of(path, kind="csv", separator="::") == [("1", "a::b"), ("2", "c")]


def test_columns_name_files_without_a_header_and_rename_those_with_one(tmp_path):
    path = write(tmp_path, "log.csv", "1,x\n2,y\n")
    assert values_of(path, header=False, columns=["u", "i"]) == [("1", "x"), ("2", "y")]
    assert schema_of(source_of(path, header=False, columns=["u", "i"])).names == ["u", "i"]
    assert read_all(path, ["i"], columns=["u", "i"])[0] == [(0, {"i": "y"})]
    empty = write(tmp_path, "part.csv", "")  # a task that had nothing to write
    assert values_of(empty, header=False, columns=["u", "i"]) == []


def test_quotes_can_be_text(tmp_path):
    path = write(tmp_path, "log.csv", 'u,i\n1,"5 inch\n2,a "b"\n')
    assert values_of(path, quote="") == [("1", '"5 inch'), ("2", 'a "b"')]
    single = write(tmp_path, "single.csv", "u,i\n1,'a,b'\n")
    assert values_of(single, quote="'") == [("1", "a,b")]


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ({"header": False}, "data.format.columns: needed where header = false"),
        ({"columns": ["a", "b", "a"]}, "data.format.columns: 'a' is there twice"),
        ({"quote": "''"}, "data.format.quote: found \"''\", expected one ASCII character"),
        ({"separator": "a\n"}, "data.format.separator: found 'a\\n', which holds a line break"),
        ({"separator": "::", "multiline": True}, "data.format.multiline: needs a separator of one ASCII"),
        ({"encodings": ["utf-7000"]}, "data.format.encodings: unknown 'utf-7000'"),
        ({"encodings": ["base64"]}, "data.format.encodings: unknown 'base64'"),
        ({"encodings": []}, "data.format.encodings: found none"),
        ({"kind": "xml"}, "data.format.kind: found 'xml', expected one of , parquet, csv, json"),
        ({"seperator": ";"}, "data.format.seperator: unknown key; did you mean data.format.separator?"),
    ],
)
def test_a_format_that_cannot_be_is_refused_by_its_key(format, words):
    with pytest.raises(ConfigError) as caught:
        read(TextFormat, format, "data.format")
    assert words in str(caught.value)


def test_an_unknown_ending_names_the_key_that_settles_it(tmp_path):
    path = write(tmp_path, "log.dat", "x")
    with pytest.raises(DataError, match=r"log\.dat: unknown format; .* or set data\.items\.format\.kind"):
        list_sources(str(path), "data.items.path")


# --- encodings


def test_the_first_encoding_that_fits_the_whole_file_is_taken(tmp_path):
    both = ["utf-8", "latin-1"]
    assert values_of(write(tmp_path, "a.csv", "u,i\n1,é\n", "latin-1"), encodings=both) == [("1", "é")]
    assert values_of(write(tmp_path, "b.csv", "u,i\n1,é\n"), encodings=both) == [("1", "é")]
    assert values_of(write(tmp_path, "c.csv", "größe,i\n1,日\n", "gb18030"), encodings=["gb18030"]) == [
        ("1", "日")
    ]
    late = "u,i\n" + "1,a\n" * 50_000 + "2,é\n"
    with mock.patch.object(text_files, "BLOCK_BYTES", 1000):
        rows = values_of(write(tmp_path, "d.csv", late, "latin-1"), encodings=both)
    assert rows[-1] == ("2", "é")
    assert len(rows) == 50_001
    path = write(tmp_path, "e.csv", "größe\n1\n", "cp1252")
    assert schema_of(source_of(path, encodings=["utf-8", "cp1252"])).names == ["größe"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    assert values_of(write(tmp_path, "a.csv", "u,i\n1,é日\n2,x\n", encoding)) == [("1", "é日"), ("2", "x")]
    line = '{"u": "é"}\n'
    assert values_of(write(tmp_path, "a.jsonl", line, encoding)) == [("é",)]


def test_an_encoding_that_does_not_fit_is_named_with_its_byte(tmp_path):
    text = "u,i\n" + "1,a\n" * 500 + "1,é\n"
    path = write(tmp_path, "log.csv", text, "latin-1")
    with (
        mock.patch.object(text_files, "BLOCK_BYTES", 100),
        mock.patch.object(files, "BYTES_PER_PIECE", 300),
        pytest.raises(DataError, match=r"log\.csv: .* byte 2006 \(0xe9\) is not utf-8; .*data\.format\.enc"),
    ):
        values_of(path)
    half = write(tmp_path, "half.csv", "u\nx\n".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"half\.csv: .* byte 8 \(0x0a\) is not utf-16"):
        values_of(half)


# --- rows that are none


def test_rows_of_another_width_are_set_aside_and_the_others_keep_their_numbers(tmp_path):
    path = write(tmp_path, "log.csv", "u,i\n1,a\n2\n\n3,b\n4,c,d\n5,e\n6\n")
    rows, unreadable = read_all(path)
    assert rows == [(0, {"u": "1", "i": "a"}), (2, {"u": "3", "i": "b"}), (4, {"u": "5", "i": "e"})]
    assert unreadable == {"wrong_width": [1, 3, 5]}
    with mock.patch.object(text_files, "BLOCK_BYTES", 7):
        assert read_all(path) == (rows, unreadable)
    assert read_all(path, multiline=True) == (rows, unreadable)


def test_line_breaks_in_quotes_need_multiline(tmp_path):
    content = 'u,i\n1,"a\nb"\n2\n3,"c\n\n"\n4,d\n5\n'
    path = write(tmp_path, "log.csv", content)
    assert read_all(path, multiline=True) == (
        [(0, {"u": "1", "i": "a\nb"}), (2, {"u": "3", "i": "c\n\n"}), (3, {"u": "4", "i": "d"})],
        {"wrong_width": [1, 4]},
    )
    for text in (content, 'u,i\n1,"a\n', 'u,i\n1,"a', 'u,i\n1,b\n2,"a\r\n'):
        with pytest.raises(
            DataError, match=r"log\.csv: a quoted field .*set data\.format\.multiline = true, or"
        ):
            values_of(write(tmp_path, "log.csv", text))


def test_multiline_numbers_rows_over_many_blocks(tmp_path):
    rows = [f'{n},"a\n{"x" * 50}"\n' if n % 7 else f"{n}\n" for n in range(60_000)]
    found, unreadable = read_all(write(tmp_path, "log.csv", "u,i\n" + "".join(rows)), ["u"], multiline=True)
    assert all(int(row["u"]) == position for position, row in found)
    assert unreadable == {"wrong_width": list(range(0, 60_000, 7))}


def test_json_lines_that_are_no_objects_are_set_aside(tmp_path):
    lines = ['{"u": 1}', "hello", "", '{"u": 2}', "[3]", '{"u": 4', '{"u": 5}{"u": 6}', '{"u": 7}']
    path = write(tmp_path, "log.jsonl", "\n".join([*lines, ""]))
    assert read_all(path) == (
        [(0, {"u": "1"}), (2, {"u": "2"}), (6, {"u": "7"})],
        {"unparsable_row": [1, 3, 4, 5]},
    )
    good = write(tmp_path, "good.jsonl", '{"u": 1}\n\n{"u": 2}\n')
    assert read_all(good)[0] == [(0, {"u": 1}), (1, {"u": 2})]
    pretty = write(tmp_path, "pretty.jsonl", '{\n "u": 1\n}\n')
    assert read_all(pretty)[1] == {"unparsable_row": [0, 1, 2]}


def test_a_file_without_line_ends_is_refused_before_memory_is_gone(tmp_path):
    path = write(tmp_path, "log.csv", "u,i\n" + "x" * 5000)
    with (
        mock.patch.multiple(text_files, BLOCK_BYTES=100, MAX_LINE_BYTES=1000),
        pytest.raises(DataError, match=r"log\.csv: .* no line ends .* after byte 4; is it text\?"),
    ):
        values_of(path)


# --- nested fields and values of several types


NESTED = '{"who": {"id": 7}, "a.b": 1, "a": {"b": 2, "c": {"d": "x"}}}\n{"who": null, "a": {"b": 3}}\n'


def test_dotted_names_reach_into_objects_and_a_column_so_named_comes_first(tmp_path):
    path = write(tmp_path, "log.jsonl", NESTED)
    columns = ["who.id", "a.b", "a.c.d", "a.none"]
    assert [row for _, row in read_all(path, columns)[0]] == [
        {"who.id": 7, "a.b": 1, "a.c.d": "x", "a.none": None},
        {"who.id": None, "a.b": None, "a.c.d": None, "a.none": None},
    ]
    by_line = write(tmp_path, "mixed.jsonl", NESTED + '{"who": {"id": "x"}, "a.b": null}\nnothing\n')
    assert [tuple(row.values()) for _, row in read_all(by_line, columns)[0]] == [
        ("7", "1", "x", None), (None, "3", None, None), ("x", None, None, None)
    ]  # fmt: skip


def test_dotted_names_reach_into_parquet_structs(tmp_path):
    table = pa.table({"p": [{"item": {"id": 5}, "q": 1}, None], "x.y": ["a", "b"], "x": [{"y": "no"}] * 2})
    pq.write_table(table, tmp_path / "log.parquet")
    rows, _ = read_all(tmp_path / "log.parquet", ["p.item.id", "x.y", "gone"])
    assert rows == [(0, {"p.item.id": 5, "x.y": "a"}), (1, {"p.item.id": None, "x.y": "b"})]


def test_the_same_id_as_number_and_as_text_is_the_same_text(tmp_path):
    path = write(tmp_path, "log.jsonl", '{"u": "7", "r": 1.50, "l": [1]}\n{"u": 7, "r": true, "l": "x"}\n')
    assert [row for _, row in read_all(path, ["u", "r", "l"])[0]] == [
        {"u": "7", "r": "1.50", "l": ["1"]},
        {"u": "7", "r": "true", "l": ["x"]},
    ]
    with mock.patch.object(text_files, "BLOCK_BYTES", 40):  # a block each: text, then a number
        tables = [block.table for block in read_piece(Piece(source_of(path)), ["u"])]
    assert [table.column("u").cast(pa.string()).to_pylist() for table in tables] == [["7"], ["7"]]


def test_text_that_looks_like_a_time_stays_text_in_every_block(tmp_path):
    lines = [
        '{"t": "2020-01-02", "p": {"t": "2020-01-02 10:00:00"}}\n',
        '{"t": "x", "p": {"t": "y", "n": 1}}\n',
        '{"t": 5}\n',
    ]
    path = write(tmp_path, "log.jsonl", "".join(lines))
    with mock.patch.object(text_files, "BLOCK_BYTES", 60):
        rows = [row for _, row in read_all(path, ["t", "p.t"])[0]]
    assert rows == [
        {"t": "2020-01-02", "p.t": "2020-01-02 10:00:00"},
        {"t": "x", "p.t": "y"},
        {"t": "5", "p.t": None},
    ]


def test_the_columns_of_json_lines_are_looked_for_beyond_the_first_block(tmp_path):
    path = write(tmp_path, "log.jsonl", '{"u": 1, "p": {"a": null}}\n' * 9 + '{"p": {"b": 2}, "r": 3}\n')
    with mock.patch.object(text_files, "BLOCK_BYTES", 30):
        assert schema_of(source_of(path)).names == ["u", "p"]
        found = schema_of(source_of(path), ["p.b", "r"])
    assert found.names == ["u", "p", "r"]
    assert {field.name for field in found.field("p").type} == {"a", "b"}


# --- pieces


@pytest.mark.parametrize("size", [10, 33, 64, 100, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_pieces_hold_every_row_once_and_positions_rise(tmp_path, size, newline):
    lines = [f"{n},{'x' * (n * 7 % 40)}" for n in range(100)]
    for wrong in (13, 14, 99):
        lines[wrong] = f"{wrong}"
    path = write(tmp_path, "log.csv", newline.join(["u,i", *lines]) + newline)
    with mock.patch.multiple(files, BYTES_PER_PIECE=size), mock.patch.object(text_files, "BLOCK_BYTES", 17):
        source = source_of(path)
        pieces = pieces_of(source)
        rows, unreadable = read_all(path, ["u"])
        cuts = [(one.first_position, sum(block.num_rows for block in read_piece(one))) for one in pieces]
    assert (pieces[0].start, pieces[-1].stop) == (0, path.stat().st_size)
    assert len(pieces) == -(-path.stat().st_size // size)
    assert [int(row["u"]) for _, row in rows] == [n for n in range(100) if n not in (13, 14, 99)]
    positions = sorted([*(position for position, _ in rows), *unreadable["wrong_width"]])
    assert len(set(positions)) == 100
    everything = [
        *((p, int(row["u"])) for p, row in rows),
        *zip(unreadable["wrong_width"], (13, 14, 99), strict=True),
    ]
    assert [number for _, number in sorted(everything)] == list(range(100))
    table = pa.table({"file": [source.uri] * 100, "row": pa.array(positions, pa.int64())})
    assert number_rows(table, {source.uri: cuts}).column("row").to_pylist() == list(range(100))


def test_json_lines_are_cut_too(tmp_path):
    path = write(tmp_path, "log.jsonl", "".join(f'{{"u": {n}}}\n' for n in range(100)))
    with mock.patch.multiple(files, BYTES_PER_PIECE=150):
        assert len(pieces_of(source_of(path))) == 7
        assert values_of(path) == [(n,) for n in range(100)]


def test_what_cannot_be_cut_is_one_piece(tmp_path):
    text = "u,i\n" + "1,é\n" * 100
    with mock.patch.multiple(files, BYTES_PER_PIECE=50):
        for name, content, format in (
            ("a.csv.gz", gzip.compress(text.encode()), {}),
            ("b.csv", text, {"multiline": True}),
            ("c.csv", text.encode("utf-16"), {}),
            ("d.csv", text.encode("utf-16-le"), {"encodings": ["utf-16-le"]}),
        ):
            path = write(tmp_path, name, content)
            assert len(pieces_of(source_of(path, **format))) == 1
            assert values_of(path, **format) == [("1", "é")] * 100


def test_row_numbers_come_from_the_counts_of_earlier_pieces(tmp_path):
    a, b = (write(tmp_path, name, "u\n" + "1\n" * 30) for name in ("a.csv", "b.csv"))
    sources = list_sources([str(a), str(b)], "data.events")
    uris = [source.uri for source in sources]
    table = pa.table(
        {"file": [uris[0], uris[1], uris[0], uris[0]], "row": pa.array([3, 25, 20, 40], pa.int64())}
    )
    fixed = number_rows(table, {uris[0]: [(0, 9), (20, 21)]})
    assert fixed.column("row").to_pylist() == [3, 25, 9, 29]
    assert number_rows(table, {}).equals(table)
    assert number_rows(table.slice(0, 0), {uris[0]: [(0, 9), (20, 21)]}).num_rows == 0


# --- globs


def test_globs_may_hold_folders(tmp_path):
    for name in (
        "log/a/part-1.csv",
        "log/b/part-2.csv",
        "log/b/c/part-3.csv",
        "log/b/other.csv",
        "log/part-0.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path, name, "u\n1\n")

    def found(pattern):
        sources = list_sources(f"{tmp_path}/{pattern}", "data.events")
        assert [source.number for source in sources] == list(range(len(sources)))
        for source in sources:
            assert schema_of(source).names == ["u"]
        return [source.uri.removeprefix(f"{tmp_path}/log/") for source in sources]

    assert found("log/*/part-*.csv") == ["a/part-1.csv", "b/part-2.csv"]
    assert found("log/**/part-*.csv") == ["a/part-1.csv", "b/c/part-3.csv", "b/part-2.csv", "part-0.csv"]
    assert found("l?g/[!a]/*") == ["b/other.csv", "b/part-2.csv"]
    assert found("log/**/c/*.csv") == ["b/c/part-3.csv"]
    uri = f"file://{tmp_path}/log"
    assert [source.uri for source in list_sources(f"{uri}/*/part-*.csv", "data.events")] == [
        f"{uri}/a/part-1.csv", f"{uri}/b/part-2.csv"
    ]  # fmt: skip
    assert found("log/[ab]/part-[0-9].csv") == ["a/part-1.csv", "b/part-2.csv"]
    with pytest.raises(DataError, match="no file found"):
        list_sources(f"{tmp_path}/log/*/*/*/x.csv", "data.events")


def test_a_file_too_large_to_be_numbered_is_refused(tmp_path):
    write(tmp_path, "log.csv", "u\n1\n")
    with (
        mock.patch.object(files, "MAX_FILE_BYTES", 3),
        pytest.raises(DataError, match=r"log\.csv: 4 bytes in one of 1 files; expected files below 1 TB"),
    ):
        list_sources(f"{tmp_path}/log.csv", "data.events")
