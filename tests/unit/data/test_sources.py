"""Published logs through `[data] source`: samples by hand in the published format, with the expected rows."""

from pathlib import Path

import pyarrow as pa
import pytest

from raysys import config
from raysys.data.events import normalise
from raysys.data.files import list_sources, pieces_of, read_piece
from raysys.data.sources import SOURCES, with_source
from raysys.data.stages import log_schema
from raysys.data.tables import read_side_table
from raysys.errors import ConfigError
from raysys.run import load_run, read_run

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "sources"
NS = 10**9


def data_of(source, events, **changes):
    data = {"source": source, "events": f"{SAMPLES}/{source}/{events}", **changes}
    return read_run({"data": data, "model": {"name": "mind"}}).data


def read_log(data):
    """Return the events and the rejected rows."""
    sources = list_sources(data.events, "data.events", data.format)
    schema = log_schema(sources, data)
    blocks = [
        normalise(block, data, schema, source.name, source.number)
        for source in sources
        for piece in pieces_of(source)
        for block in read_piece(piece, list(data.log_columns))
    ]
    return pa.concat_tables(one.events for one in blocks), pa.concat_tables(one.rejected for one in blocks)


def values(table, *columns):
    return [tuple(row.values()) for row in table.select(list(columns)).to_pylist()]


def titles_of(data, name="title"):
    table = read_side_table(data.items, "data.items")
    return dict(values(table, data.items.id, name))


def test_movielens_dat():
    data = data_of("movielens_dat", "ratings.dat", items={"path": f"{SAMPLES}/movielens_dat/movies.dat"},
                   users={"path": f"{SAMPLES}/movielens_dat/users.dat"})  # fmt: skip
    events, rejected = read_log(data)
    assert rejected.num_rows == 0
    assert events.num_rows == 10
    assert values(events.slice(7, 2), "user_id", "item_id", "time_ns", "rating", "place") == [
        ("2", "1537", 978299620 * NS, 4.0, 7),
        ("2", "661", 978299351 * NS, 3.5, 8),
    ]
    titles = titles_of(data)
    assert titles["73"] == "Misérables, Les (1995)"  # latin-1
    assert titles["1193"] == "One Flew Over the Cuckoo's Nest (1975)"
    assert titles_of(data, "genres")["661"] == "Animation|Children's|Musical"
    users = read_side_table(data.users, "data.users")
    assert sorted(values(users, "user_id", "gender", "age", "occupation"))[1] == ("2", "M", "56", "16")


def test_movielens_csv():
    data = data_of("movielens_csv", "ratings.csv", items={"path": f"{SAMPLES}/movielens_csv/movies.csv"})
    events, rejected = read_log(data)
    assert (events.num_rows, rejected.num_rows) == (10, 0)
    assert values(events.slice(3, 1), "user_id", "item_id", "time_ns", "rating") == [
        ("1", "47", 1112484727 * NS, 0.5)
    ]
    titles = titles_of(data)
    assert titles["11"] == "American President, The (1995)"
    assert titles["29"] == "City of Lost Children, The (Cité des enfants perdus, La) (1995)"
    assert titles["32"] == 'Twelve "12" Monkeys (1995)'


def test_movielens_100k():
    data = data_of("movielens_100k", "u.data", items={"path": f"{SAMPLES}/movielens_100k/u.item"},
                   users={"path": f"{SAMPLES}/movielens_100k/u.user"})  # fmt: skip
    events, rejected = read_log(data)
    assert (events.num_rows, rejected.num_rows) == (10, 0)
    assert values(events.slice(0, 1), "user_id", "item_id", "time_ns", "rating") == [
        ("196", "242", 881250949 * NS, 3.0)
    ]
    assert titles_of(data) == {
        "242": "Kolya (1996)",
        "302": "L.A. Confidential (1997)",
        "51": "Legends of the Fall (1994)",
        "267": "unknown",
        "1633": "Á köldum klaka (Cold Fever) (1994)",
    }
    users = read_side_table(data.users, "data.users")
    assert values(users, "user_id", "occupation")[0] == ("196", "writer")


def test_taobao():
    events, rejected = read_log(data_of("taobao", "UserBehavior.csv"))
    assert values(rejected, "reason", "row", "time") == [
        ("time_out_of_range", 7, "-2134949234"),
        ("time_out_of_range", 9, "0"),
    ]
    assert events.num_rows == 10
    assert values(events.slice(4, 1), "user_id", "item_id", "time_ns", "event", "category") == [
        ("1", "230380", 1511644942 * NS, "cart", "411153")
    ]
    assert values(events.slice(7, 1), "time_ns") == [(2122867355 * NS,)]  # 2037: odd, yet a time
    assert set(events.column("event").to_pylist()) == {"pv", "cart", "fav", "buy"}


def test_tmall():
    data = data_of("tmall", "user_log_format1.csv", users={"path": f"{SAMPLES}/tmall/user_info_format1.csv"})
    events, rejected = read_log(data)
    assert (events.num_rows, rejected.num_rows) == (10, 0)
    midnight = {"829": 1409241600, "1111": 1415635200}  # 00:00 in Shanghai, eight hours before UTC
    assert values(
        events.slice(0, 1), "user_id", "item_id", "time_ns", "event", "category", "seller", "brand"
    ) == [("328862", "323294", midnight["829"] * NS, "0", "833", "2882", "2661")]
    assert values(events.slice(5, 1), "time_ns", "event", "brand") == [(midnight["1111"] * NS, "2", None)]
    assert data.keep_duplicates
    users = read_side_table(data.users, "data.users")
    assert ("186135", None, None) in values(users, "user_id", "age_range", "gender")


def test_retailrocket():
    events, rejected = read_log(data_of("retailrocket", "events.csv"))
    assert (events.num_rows, rejected.num_rows) == (10, 0)
    assert values(events.slice(6, 1), "user_id", "item_id", "time_ns", "event") == [
        ("599528", "356475", 1433222276276 * 10**6, "transaction")
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_a_sample_and_its_run_file_comes_back(source, tmp_path):
    assert list((SAMPLES / source).iterdir())
    sides = {name: {"path": f"/{name}.txt"} for name in ("items", "users") if name in SOURCES[source]}
    run = read_run({"data": {"source": source, "events": "/log.csv", **sides}, "model": {"name": "mind"}})
    (tmp_path / "run.toml").write_text(run.to_toml())
    again = load_run(str(tmp_path / "run.toml"))
    assert again == run
    assert again.run_digest == run.run_digest
    alone = config.parse_toml(run.to_toml(), "run.toml")
    del alone["data"]["source"]
    assert read_run(alone).features_digest == run.features_digest  # the name itself decides nothing


def test_what_the_run_file_says_wins_key_by_key():
    said = {
        "source": "taobao",
        "events": "log.tsv",
        "columns": {"item": "category_id", "shop": "item_id"},
        "format": {"separator": "\t"},
        "known_events": ["pv"],
    }
    merged = with_source(said)
    assert merged["columns"] == {
        "user": "user_id", "item": "category_id", "time": "timestamp", "event": "behavior_type",
        "category": "category_id", "shop": "item_id",
    }  # fmt: skip
    assert merged["format"] == {**SOURCES["taobao"]["format"], "separator": "\t"}
    assert merged["known_events"] == ["pv"]
    assert "items" not in with_source({"source": "movielens_csv"})
    assert with_source({"events": "x"}) == {"events": "x"}


def test_an_unknown_source_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"data\.source: unknown data set 'movielens_cvs'; did you mean movielens_csv"
    ):
        data_of("movielens_cvs", "ratings.csv")
