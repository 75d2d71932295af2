"""What the data stage writes to Parquet comes back as it was, type by type."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.parquet import read_table, write_columns, write_table
from raysys.storage import Folder

FAR = [-(2**63), 2**63 - 1, 0]
COLUMNS = {
    "text": pa.array(["é", None, ""], pa.string()),
    "large_text": pa.array(["a" * 300, "b", None], pa.large_string()),
    "long": pa.array(FAR, pa.int64()),
    "int": pa.array([-(2**31), 2**31 - 1, 5], pa.int32()),
    "small": pa.array([-1, 4, 0], pa.int8()),
    "number": pa.array([1.5, float("inf"), -0.0], pa.float32()),
    "null": pa.array([None, 3, None], pa.int64()),
    "longs": pa.array([FAR, [], [7]], pa.list_(pa.int64())),
    "ints": pa.array([[], [], [1, 1, 1]], pa.list_(pa.field("element", pa.int32(), nullable=False))),
    "roles": pa.array([[0, 4], [2], []], pa.list_(pa.int8())),
    "weights": pa.array([[0.5], [], [1.0, 2.0]], pa.list_(pa.float32())),
    "fixed": pa.array([[1, 0], [2, 3], [0, 0]], pa.list_(pa.int32(), 2)),
}


@pytest.mark.parametrize("write", [write_columns, write_table])
@pytest.mark.parametrize("rows", [3, 1, 0])
def test_every_type_comes_back(tmp_path, write, rows):
    table = pa.table(COLUMNS).slice(0, rows)
    write(Folder(tmp_path), "deep/t.parquet", table)
    assert read_table(Folder(tmp_path), "deep/t.parquet").equals(table)


def test_whole_numbers_are_differences_and_text_is_a_dictionary(tmp_path):
    write_columns(Folder(tmp_path), "t.parquet", pa.table(COLUMNS))
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    encodings = {
        column.path_in_schema: column.encodings for column in map(group.column, range(group.num_columns))
    }
    for name in ("long", "int", "longs.list.element", "ints.list.element"):
        assert "DELTA_BINARY_PACKED" in encodings[name], name
        assert "RLE_DICTIONARY" not in encodings[name], name
    for name in ("text", "small", "number", "roles.list.element", "weights.list.element"):
        assert "RLE_DICTIONARY" in encodings[name], name


def test_pieces_of_a_column_do_not_change_what_is_stored(tmp_path):
    whole = pa.table(COLUMNS)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    write_columns(Folder(tmp_path), "a", whole)
    write_columns(Folder(tmp_path), "b", pieces.combine_chunks())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
