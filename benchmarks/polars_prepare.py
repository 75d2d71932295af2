"""The data stage in polars, in one process: the yardstick of `benchmarks/prepare.py`.

    python benchmarks/polars_prepare.py LOG OUT

It makes what `jobs/prepare.py` makes of the same log under the same settings: valid events without
duplicates, sorted and written; vocabularies by training count; encoded item features; per user the lists of
item, time, session, cut, long-term start and role; the digest of the events; and the totals of the profile.
Written as someone who knows polars would: lazy reading, expressions over whole columns of sorted rows, no
`over`, no Python per row. It prints what `benchmarks/prepare.py` compares with our own result.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", str(os.cpu_count() or 1))
import polars as pl

GAP_S, REACH_S, MAX_ITEMS = 1800, 604_800, 50
EARLIEST_S, LATEST_S = 315_532_800, 4_102_444_800
NS = 10**9


def read_sorted(log: Path) -> pl.DataFrame:
    """Return valid events by (user, time, place), the first of equal rows."""
    valid = (
        pl.col("user_id").is_not_null()
        & pl.col("item_id").is_not_null()
        & pl.col("timestamp").is_between(EARLIEST_S, LATEST_S, closed="left")
    )
    events = pl.scan_parquet(log / "events" / "*.parquet").filter(valid).with_row_index("place").collect()
    events = events.sort("user_id", "timestamp", "place")
    same = (pl.col("user_id") == pl.col("user_id").shift(1)) & (
        pl.col("timestamp") == pl.col("timestamp").shift(1)
    )
    events = events.with_columns(same=same.fill_null(False))
    tied = events.filter(pl.col("same") | pl.col("same").shift(-1, fill_value=False))
    again = tied.filter(~pl.struct("user_id", "timestamp", "item_id").is_first_distinct()).select("place")
    return events.join(again, on="place", how="anti", maintain_order="left").drop("same")


def with_windows(events: pl.DataFrame) -> pl.DataFrame:
    """Add session, cut, long_start and role of every event."""
    events = events.with_columns(
        new=(pl.col("user_id") != pl.col("user_id").shift(1)).fill_null(True), row=pl.int_range(pl.len())
    )
    far = pl.col("timestamp") - pl.col("timestamp").shift(1) > GAP_S
    last = pl.col("new").shift(-1, fill_value=True)
    events = events.with_columns(
        user=pl.col("new").cast(pl.Int64).cum_sum() - 1,
        count=(pl.col("new") | far.fill_null(True)).cast(pl.Int32).cum_sum(),
        first=pl.when("new").then(pl.col("row")).forward_fill(),
        left=pl.when(last).then(pl.col("row")).backward_fill() - pl.col("row"),
    )
    begin = events["timestamp"].min()
    span = events["timestamp"].max() - begin + REACH_S + 1
    key = events.select(key=pl.col("user") * span + (pl.col("timestamp") - begin))["key"]
    events = events.with_columns(reach=key.search_sorted(key - REACH_S))
    held_out = pl.when((pl.col("left") == 0) & (pl.col("row") > pl.col("first"))).then(2)
    held_out = held_out.when((pl.col("left") == 1) & (pl.col("row") > pl.col("first"))).then(1)
    return events.select(
        "user_id",
        "item_id",
        "timestamp",
        "place",
        session=pl.col("count") - pl.when("new").then(pl.col("count")).forward_fill(),
        cut=(pl.col("row") - pl.col("first")).cast(pl.Int32),
        long_start=(pl.max_horizontal("reach", "first") - pl.col("first")).cast(pl.Int32),
        role=held_out.otherwise(0).cast(pl.Int8),
    )


def vocabulary(events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the distinct ids of a column by (training events down, id up) with their idx."""
    counted = events.group_by(name).agg(count=(pl.col("role") == 0).sum())
    counted = counted.with_columns(id=pl.col(name).cast(pl.String))
    return (
        counted.sort(["count", "id"], descending=[True, False])
        .with_row_index("idx", offset=2)
        .with_columns(pl.col("idx").cast(pl.Int32))
    )


def profile(events: pl.DataFrame, sessions: pl.DataFrame) -> dict[str, object]:
    """Return the totals of the profile."""
    gap = pl.col("timestamp").diff().filter(pl.col("cut") > 0)
    users = sessions.select(
        events=pl.col("at").list.len(),
        items=pl.col("item_idx").list.n_unique(),
        sessions=pl.col("session").list.last() + 1,
    )
    lengths = events.select(run=pl.struct("user_id", "session").rle_id()).group_by("run").len()
    held_out = events.filter(pl.col("role") > 0)
    seen = events.filter(pl.col("role") == 0).select("item_id").unique()
    return {
        "hours": events.group_by(pl.col("timestamp") // 3600).len().height,
        "tied": events.select((gap == 0).sum()).item(),
        "gaps": events.select(gap.cast(pl.Float64).log(2).floor().value_counts()).height,
        "users": [users[name].value_counts().height for name in users.columns],
        "lengths": lengths["len"].value_counts().height,
        "cold": held_out.join(seen, on="item_id", how="anti").height,
        "repeats": events.height - users["items"].sum(),
    }


def main(log: Path, out: Path) -> dict[str, object]:
    """Write everything below `out` and return what identifies the result."""
    out.mkdir(parents=True, exist_ok=True)
    events = read_sorted(log)
    written = events.select("user_id", "item_id", "timestamp", "place")
    written.write_parquet(out / "events.parquet", compression="lz4", statistics=False)
    events = with_windows(events)
    items, users = vocabulary(events, "item_id"), vocabulary(events, "user_id")
    digest = events.select("user_id", "item_id", "timestamp").hash_rows().sum()
    events = events.join(
        items.select("item_id", item_idx="idx"), on="item_id", how="left", maintain_order="left"
    )
    lists = ["item_idx", pl.col("timestamp").alias("at"), "session", "cut", "long_start", "role"]
    sequences = events.group_by("user_id", maintain_order=True).agg(lists)
    sequences = sequences.join(users.select("user_id", user_idx="idx"), on="user_id", how="left")
    sequences.write_parquet(out / "sequences.parquet", compression="lz4", statistics=False)
    side = items.join(pl.read_parquet(log / "items.parquet"), on="item_id", how="left").sort("idx")
    for name in ("category", "department", "brand", "shop", "price_band"):
        counted = side.group_by(name).len().sort(["len", name], descending=[True, False])
        codes = counted.with_row_index("code", offset=2).select(name, "code")
        side = side.join(codes, on=name, how="left").drop(name).rename({"code": name})
    side.write_parquet(out / "items.parquet")
    users.write_parquet(out / "users.parquet")
    totals = profile(events, sequences)
    (out / "profile.json").write_text(json.dumps({**totals, "digest": digest}))
    return {
        "events": events.height,
        "users": users.height,
        "items": items.height,
        "sessions": int(sequences.select((pl.col("session").list.last() + 1).sum()).item()),
        "long_start": int(events["long_start"].cast(pl.Int64).sum()),
        "train": int((events["role"] == 0).sum()),
        "item_idx": int(events["item_idx"].cast(pl.Int64).sum()),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
