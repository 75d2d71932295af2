"""Tables of a few rows in the published columns and types; the expected rows are written by hand."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.sources.completejourney import MEMBERS, read
from raysys.errors import DataError


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    noon = datetime.datetime(2017, 1, 1, 12, 0, 0)
    transactions = {
        "household_id": [900, 518, 900, 518],
        "store_id": [330, 406, 330, 406],
        "basket_id": [31198570044, 31198570047, 31198570044, 31198570040],
        "product_id": [1095275, 27, 844179, 27],
        "quantity": [1, 2, 1, 3],
        "sales_value": [0.5, 0.99, 1.43, 2.0],
        "retail_disc": [0.0, 0.1, 0.0, 0.0],
        "coupon_disc": [0.0, 0.0, 0.55, 0.0],
        "coupon_match_disc": [0.0] * 4,
        "week": [1] * 4,
        "transaction_timestamp": pa.array(
            [noon] * 3 + [noon - datetime.timedelta(hours=1)], pa.timestamp("ns")
        ),
    }
    products = {
        "product_id": [1095275, 27],
        "manufacturer_id": [2, 69],
        "department": ["GROCERY", "PASTRY"],
        "brand": ["National", "Private"],
        "product_category": ["FRZN ICE", None],
        "product_type": ["ICE - CRUSHED/CUBED", None],
        "package_size": ["22 LB", None],
    }
    demographics = {
        "household_id": [1001, 900],
        "age": ["45-54", "65+"],
        "income": ["50-74K", "35-49K"],
        "home_ownership": [None, "Homeowner"],
        "marital_status": ["Unmarried", "Married"],
        "household_size": ["1", "2"],
        "household_comp": ["1 Adult No Kids", "2 Adults No Kids"],
        "kids_count": ["0", "0"],
    }
    return {
        name: pa.table(t) for name, t in zip(MEMBERS, (transactions, products, demographics), strict=True)
    }


def files(tables: dict[str, pa.Table]) -> dict[str, bytes]:
    return {name: parquet(table) for name, table in tables.items()}


def test_interactions_are_in_order_of_time_with_baskets_together(tables: dict[str, pa.Table]) -> None:
    table = read(files(tables))["interactions"]
    assert table.drop_columns(["sales_value", "retail_disc", "coupon_disc"]).to_pydict() == {
        "user_id": ["518", "518", "900", "900"],
        "item_id": ["27", "27", "1095275", "844179"],
        "timestamp": [1483268400, 1483272000, 1483272000, 1483272000],
        "event_type": ["purchase"] * 4,
        "session_id": ["31198570040", "31198570047", "31198570044", "31198570044"],
        "shop_id": ["406", "406", "330", "330"],
        "quantity": [3, 2, 1, 1],
    }
    assert table["sales_value"].to_pylist() == pytest.approx([2.0, 0.99, 0.5, 1.43], rel=1e-6)
    assert table.schema.field("sales_value").type == pa.float32()
    assert table.schema.field("quantity").type == pa.int32()


def test_items_are_sorted_by_number_and_keep_nulls(tables: dict[str, pa.Table]) -> None:
    assert read(files(tables))["items"].to_pylist() == [
        {
            "item_id": "27",
            "manufacturer_id": "69",
            "department": "PASTRY",
            "brand_type": "Private",
            "product_category": None,
            "product_type": None,
            "package_size": None,
        },
        {
            "item_id": "1095275",
            "manufacturer_id": "2",
            "department": "GROCERY",
            "brand_type": "National",
            "product_category": "FRZN ICE",
            "product_type": "ICE - CRUSHED/CUBED",
            "package_size": "22 LB",
        },
    ]


def test_users_are_all_households_and_have_a_profile_where_there_is_one(tables: dict[str, pa.Table]) -> None:
    users = read(files(tables))["users"]
    assert users["user_id"].to_pylist() == ["518", "900", "1001"]
    assert users["age"].to_pylist() == [None, "65+", "45-54"]
    assert users["home_ownership"].to_pylist() == [None, "Homeowner", None]
    assert users["kids_count"].to_pylist() == [None, "0", "0"]


def test_a_table_without_a_published_column_is_refused(tables: dict[str, pa.Table]) -> None:
    tables[MEMBERS[1]] = tables[MEMBERS[1]].drop_columns(["brand"])
    with pytest.raises(DataError, match=r"lacks a published column.*brand"):
        read(files(tables))


def test_a_file_that_is_no_parquet_is_refused(tables: dict[str, pa.Table]) -> None:
    contents = files(tables) | {MEMBERS[2]: b"household_id,age\n1,65+\n"}
    with pytest.raises(DataError, match=r"demographics\.parquet: not a Parquet file"):
        read(contents)
