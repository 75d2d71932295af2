"""Side tables: every kind of feature, what is missing, and ids that are not what they should be."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.config import read
from raysys.data.log_config import SideTable
from raysys.data.tables import encode_side_table, read_side_table, titles
from raysys.data.vocabulary import Vocabulary
from raysys.errors import DataError, SchemaError

IDS = Vocabulary.build(
    pa.array(["b", "a", "z", "c"]), np.array([4, 3, 2, 1])
)  # z has no row in the side table


def side_of(tmp_path, columns, features, title=()):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table(columns), path)
    return read(SideTable, {"path": str(path), "id": "id", "title": title, "features": features})


def encoded(side):
    table = read_side_table(side, "data.items")
    out = {}
    for feature, values, vocabulary in encode_side_table(side, table, IDS, "item"):
        words = vocabulary.ids.to_pylist() if vocabulary else None
        out[feature.name] = (feature, values.to_pylist(), words)
    return out


def test_categorical_values_are_numbered_by_frequency_and_missing_ones_are_unknown(tmp_path):
    columns = {"id": ["c", "a", "b", "unused"], "brand": ["x", "y", "x", "q"], "empty": [None, "", " ", "v"]}
    out = encoded(side_of(tmp_path, columns, {"brand": {}, "empty": {}}))
    feature, values, words = out["brand"]
    assert (feature.kind, feature.size, feature.length) == ("id", 4, 1)
    assert words == ["x", "y"]  # values of ids that nobody used are not in it
    assert values == [0, 1, 2, 3, 1, 2]  # padding, unknown, b, a, z (no row), c
    assert out["empty"][1] == [0, 1, 1, 1, 1, 1]
    assert out["empty"][0].size == 2


def test_integers_are_categories_too(tmp_path):
    out = encoded(side_of(tmp_path, {"id": ["a", "b"], "n": [10, None]}, {"brand": {"column": "n"}}))
    assert out["brand"][1] == [0, 1, 1, 2, 1, 1]
    assert out["brand"][2] == ["10"]


@pytest.mark.parametrize("stored", ["text", "list", "large_list"])
def test_multi_valued_by_separator_and_by_list_column(tmp_path, stored):
    lists = [["s", "t", "u"], ["s"], ["", " s "], None]
    if stored == "text":
        column = pa.array([None if one is None else "|".join(one) for one in lists])
    else:
        column = pa.array(lists, pa.list_(pa.string()) if stored == "list" else pa.large_list(pa.string()))
    side = side_of(tmp_path, {"id": ["b", "a", "c", "z"], "tags": column}, {"tags": {"kind": "multi_valued"}})
    feature, values, words = encoded(side)["tags"]
    assert (feature.kind, feature.length, feature.size) == ("id_list", 3, 5)
    assert words == ["s", "t", "u"]
    assert values == [[0, 0, 0], [1, 0, 0], [2, 3, 4], [2, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_multi_valued_keeps_the_first_values_and_another_separator(tmp_path):
    columns = {"id": ["a", "b"], "tags": ["p, q, r", "r"]}
    features = {"tags": {"kind": "multi_valued", "separator": ",", "max_values": 2}}
    feature, values, words = encoded(side_of(tmp_path, columns, features))["tags"]
    assert feature.length == 2
    assert words == ["r", "p", "q"]
    assert values == [[0, 0], [1, 0], [2, 0], [3, 4], [1, 0], [1, 0]]


def test_multi_valued_without_any_value(tmp_path):
    side = side_of(
        tmp_path, {"id": ["a"], "tags": pa.array([None], pa.string())}, {"tags": {"kind": "multi_valued"}}
    )
    feature, values, _ = encoded(side)["tags"]
    assert (feature.length, feature.size) == (1, 2)
    assert values == [[0], [1], [1], [1], [1], [1]]


def test_numbers_are_standardised_over_the_known_ids_and_missing_ones_are_the_mean(tmp_path):
    columns = {"id": ["a", "b", "c", "unused"], "price": ["1", "3", "free", "1000"]}
    feature, values, words = encoded(side_of(tmp_path, columns, {"price": {"kind": "numeric"}}))["price"]
    assert (feature.kind, feature.size) == ("number", 0)
    assert words is None
    assert values == [0.0, 0.0, 1.0, -1.0, 0.0, 0.0]  # by hand: mean 2, deviation 1


def test_numbers_that_are_all_equal_or_all_missing_are_zero(tmp_path):
    columns = {"id": ["a", "b"], "same": [7, 7], "none": pa.array([None, None], pa.float32())}
    out = encoded(side_of(tmp_path, columns, {"same": {"kind": "numeric"}, "none": {"kind": "numeric"}}))
    assert out["same"][1] == out["none"][1] == [0.0] * 6


def test_titles_join_columns_and_fall_back_to_the_id(tmp_path):
    columns = {"id": ["a", "b", "c"], "name": ["A", None, ""], "year": [1999, 2000, None]}
    side = side_of(tmp_path, columns, {}, title=["name", "year"])
    assert titles(side, read_side_table(side, "data.items"), IDS) == ["2000", "A / 1999", "z", "c"]


def test_integer_ids_match_ids_of_the_log_as_text(tmp_path):
    side = side_of(tmp_path, {"id": [1, 2], "brand": ["x", "y"]}, {"brand": {}})
    table = read_side_table(side, "data.items")
    ids = Vocabulary.build(pa.array(["2", "01", "1"]), np.array([3, 2, 1]))
    [(_, values, _)] = encode_side_table(side, table, ids, "item")
    assert values.to_pylist() == [0, 1, 3, 1, 2]


def test_several_files_are_one_table(tmp_path):
    (tmp_path / "a.csv").write_text("id,brand\na,x\n")
    (tmp_path / "b.csv").write_text("brand,id,more\ny,b,1\n")
    (tmp_path / "c.csv").write_text("id,brand\n")
    side = read(SideTable, {"path": f"{tmp_path}/*.csv", "id": "id", "features": {"brand": {}}})
    assert encoded(side)["brand"][1] == [0, 1, 3, 2, 1, 1]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": ["a", "b", "a"]}, DataError, r"1 rows repeat an id in column 'id' \(for example 'a'\)"),
        ({"id": ["a", None, " "]}, DataError, "2 rows without an id in column 'id'; remove them"),
        ({"id": [1.5]}, SchemaError, r"column 'id' \(data\.items\.id\) has type double, expected text"),
        ({"ids": ["a"]}, SchemaError, r"no column 'id', which data\.items names; did you mean ids\?"),
        ({"id": ["a"], "brnd": ["x"]}, SchemaError, r"no column 'brand', .* did you mean brnd\?"),
        ({"id": pa.array([], pa.string())}, DataError, r"no rows; data\.items\.path names it"),
    ],
)
def test_a_side_table_that_cannot_be_used_is_named(tmp_path, columns, error, message):
    if "brnd" not in columns:
        columns = {**columns, "brand": pa.nulls(len(next(iter(columns.values()))), pa.string())}
    side = side_of(tmp_path, columns, {"brand": {}})
    with pytest.raises(error, match=message) as caught:
        read_side_table(side, "data.items")
    assert "items.parquet" in str(caught.value)


def test_a_side_table_that_is_not_there(tmp_path):
    side = SideTable(path=str(tmp_path / "no.csv"), id="id")
    with pytest.raises(DataError, match=r"no\.csv: no file found; data\.users\.path names it"):
        read_side_table(side, "data.users")


def test_a_header_without_rows_is_an_empty_side_table(tmp_path):
    (tmp_path / "items.csv").write_text("id,price\n")
    side = read(
        SideTable, {"path": f"{tmp_path}/items.csv", "id": "id", "features": {"price": {"kind": "numeric"}}}
    )
    with pytest.raises(DataError, match="no rows"):
        read_side_table(side, "data.items")


def test_side_tables_read_every_format_of_the_log(tmp_path):
    (tmp_path / "items.dat").write_bytes("a::é, A::x|y\nb::B::\n".encode("latin-1"))
    table = {
        "path": f"{tmp_path}/items.dat",
        "id": "id",
        "title": ["name"],
        "features": {"tags": {"kind": "multi_valued"}},
        "format": {"kind": "csv", "separator": "::", "header": False, "columns": ["id", "name", "tags"],
                   "encodings": ["utf-8", "latin-1"]},
    }  # fmt: skip
    side = read(SideTable, table)
    assert titles(side, read_side_table(side, "data.items"), IDS) == ["B", "é, A", "z", "c"]
    assert encoded(side)["tags"][1] == [[0, 0], [1, 0], [1, 0], [2, 3], [1, 0], [1, 0]]


def test_side_tables_reach_into_json_and_take_ids_as_numbers_or_text(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"it": {"id": 7}, "x": {"n": 1.5}}\n{"it": {"id": "8"}}\n')
    features = {"n": {"column": "x.n", "kind": "numeric"}}
    side = read(SideTable, {"path": f"{tmp_path}/items.jsonl", "id": "it.id", "features": features})
    table = read_side_table(side, "data.items")
    assert table.column("it.id").to_pylist() == ["7", "8"]
    assert table.column("x.n").to_pylist() == ["1.5", None]
    wrong = read(SideTable, {"path": f"{tmp_path}/items.jsonl", "id": "it.ids"})
    with pytest.raises(
        SchemaError, match=r"no column 'it\.ids', which data\.items names; did you mean it\.id\?"
    ):
        read_side_table(wrong, "data.items")


def test_numbers_in_one_file_and_text_in_another_are_text(tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "n": [1.5, 2.5]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("id,n\n03,4\n")
    side = read(SideTable, {"path": str(tmp_path), "id": "id", "features": {"n": {"kind": "numeric"}}})
    assert read_side_table(side, "data.items").to_pylist() == [
        {"id": "1", "n": "1.5"}, {"id": "2", "n": "2.5"}, {"id": "03", "n": "4"}
    ]  # fmt: skip


def test_a_row_of_another_width_in_a_side_table_is_named(tmp_path):
    (tmp_path / "items.csv").write_text("id,n\na,1\nb\n")
    side = read(SideTable, {"path": f"{tmp_path}/items.csv", "id": "id"})
    with pytest.raises(
        DataError, match=r"items\.csv: wrong_width in row 1; mend it, or check data\.items\.format"
    ):
        read_side_table(side, "data.items")


def test_a_number_column_of_another_type_is_named(tmp_path):
    side = side_of(tmp_path, {"id": ["a"], "price": [[1.0]]}, {"price": {"kind": "numeric"}})
    with pytest.raises(SchemaError, match=r"column 'price' has type .*, expected numbers"):
        encoded(side)
