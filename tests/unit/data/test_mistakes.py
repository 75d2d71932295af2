"""Likely mistakes: a log that has one is told so, and a sound log is left in peace."""

import json

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.mistakes import better_gap, spelled_differently
from raysys.data.units import guess_unit, time_hint
from raysys.errors import DataError
from tests.reference.line import prepare_here, run_of

T = 1_600_000_000
DAY = 86_400


def sound(users=40, items=25, events=8, gap_s=60):
    """Return rows of visits of four events, a day apart."""
    random = np.random.default_rng(0)
    return [
        [f"u{u}", f"i{item}", T + u * 977 + n * gap_s + n // 4 * DAY]
        for u in range(users)
        for n, item in enumerate(random.permutation(items)[:events])
    ]


def told(tmp_path, rows, columns=None, header="user,item,time", **sections):
    """Return code -> mistake of a log."""
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    sections["data"] = {"max_reject_fraction": 0.9, "partitions": 3, **sections.get("data", {})}
    features, _ = prepare_here(run_of(str(path), columns, **sections), tmp_path / "out")
    found = json.loads(features.read_bytes("profile.json"))["likely_mistakes"]
    assert all(mistake["text"].endswith(".") and mistake["remedy"].endswith(".") for mistake in found)
    return {mistake["code"]: mistake for mistake in found}


def test_a_sound_log_is_left_in_peace(tmp_path):
    assert told(tmp_path, sound()) == {}


def test_times_in_another_unit(tmp_path):
    rows = [[u, i, at * 1000 if n % 9 == 0 else at] for n, (u, i, at) in enumerate(sound())]
    found = told(tmp_path, rows)
    assert set(found) == {"time_out_of_range"}
    assert "36 rows" in found["time_out_of_range"]["text"]
    assert (
        f"time {T}000 is not between 1980 and 2100 in s; as ms it is 2020-09-13"
        in (found["time_out_of_range"]["text"])
    )
    assert "The log mixes units" in found["time_out_of_range"]["remedy"]


def test_times_that_are_not_known(tmp_path):
    rows = [[u, i, 0 if n % 9 == 0 else at] for n, (u, i, at) in enumerate(sound())]
    assert "not known" in told(tmp_path, rows)["time_out_of_range"]["text"]
    rows = [[u, i, "noon" if n % 9 == 0 else at] for n, (u, i, at) in enumerate(sound())]
    assert "'noon' is not s" in told(tmp_path, rows)["unparsable_time"]["text"]


@pytest.mark.parametrize("zone_h", [0, 5])
def test_dates_without_a_time_of_day(tmp_path, zone_h):
    rows = [[u, i, (at + n % 7 * DAY) // DAY * DAY + zone_h * 3600] for n, (u, i, at) in enumerate(sound())]
    rows[3][2] += 3600  # summer time
    assert set(told(tmp_path, rows)) == {"date_only_times"}
    assert told(tmp_path, rows, split={"unit": "session"}) == {}
    by_hour = [[u, i, at // 3600 * 3600 + n % 9 * 3600] for n, (u, i, at) in enumerate(rows)]
    assert "date_only_times" not in told(tmp_path, by_hour)


def test_ties_that_nothing_settles(tmp_path):
    rows = [[u, i, at // 3600 * 3600, n] for n, (u, i, at) in enumerate(sound())]
    header = "user,item,time,seq"
    assert set(told(tmp_path, rows, header=header)) == {"ties_without_order"}
    assert told(tmp_path, rows, {"order": "seq"}, header=header) == {}
    assert told(tmp_path, rows, header=header, split={"unit": "session"}) == {}


def test_a_span_that_is_too_short_or_too_long(tmp_path):
    rows = [[u, i, T + n] for n, (u, i, _) in enumerate(sound())]
    assert set(told(tmp_path, rows)) == {"short_span"}
    rows = [*sound(), ["u0", "i1", T - 31 * 366 * DAY]]
    assert set(told(tmp_path, rows)) == {"long_span"}


def test_a_user_or_an_item_that_is_everywhere(tmp_path):
    rows = [*sound(), *(["u1", f"i{n % 20}", T + n * 900] for n in range(200))]
    found = told(tmp_path, rows, split={"filter_seen": False})
    assert set(found) == {"busy_user"}
    assert "User 'u1' alone has 40.0% of the events" in found["busy_user"]["text"]
    rows = [*sound(), *([u, "bag", at + 5] for u, _, at in sound() for _ in range(1))]
    assert set(told(tmp_path, rows, split={"filter_seen": False})) == {"busy_item"}


@pytest.mark.parametrize("user", ["null", "Unknown", "-1", "0"])
def test_users_that_look_like_placeholders(tmp_path, user):
    rows = [*sound(150), *([user, f"i{n}", T + n * 60] for n in range(100))]
    found = told(tmp_path, rows)
    assert "placeholder_user" in found
    assert f"User {user!r} has 7.7%" in found["placeholder_user"]["text"]


def test_users_of_one_event(tmp_path):
    rows = [*sound(10), *([f"v{n}", f"i{n % 20}", T + n * 999] for n in range(50))]
    assert set(told(tmp_path, rows)) == {"single_event_users"}


def test_sessions_of_one_event_get_a_better_gap(tmp_path):
    found = told(tmp_path, sound(gap_s=1000))
    assert set(found) == {"short_sessions"}
    assert "set session.gap_s = 1800" in found["short_sessions"]["remedy"]
    rare = told(tmp_path, sound(gap_s=9 * DAY))
    assert rare["short_sessions"]["remedy"].startswith(
        "People come back too rarely for sessions: set session"
    )
    assert told(tmp_path, sound(gap_s=1000), session={"last_n": 5}) == {}
    rows = [[*row, n] for n, row in enumerate(sound())]
    found = told(
        tmp_path, rows, {"session": "visit"}, header="user,item,time,visit", session={"by_column": True}
    )
    assert "not the row" in found["short_sessions"]["remedy"]


def test_a_better_gap_holds_half_of_the_gaps():
    gaps = np.zeros(64, np.int64)
    assert better_gap(gaps) is None
    gaps[10], gaps[30] = 5, 5  # 512 to 1023 s, and years
    assert better_gap(gaps) == (1800, "30 minutes")
    gaps[30] = 6
    assert better_gap(gaps) is None


def test_sessions_that_are_cut(tmp_path):
    found = told(tmp_path, sound(), session={"max_items": 2})
    assert set(found) == {"long_sessions"}
    assert "max_items = 2 cuts 50% of the events" in found["long_sessions"]["text"]


def test_rows_that_repeat_and_rows_that_are_rejected(tmp_path):
    rows = [*sound(), *sound()[:80], *(["", "i1", T + n] for n in range(30))]
    found = told(tmp_path, rows)
    assert set(found) == {"duplicates", "rejected_null_user"}
    assert "18.6% of the rows" in found["duplicates"]["text"]
    assert "7.0% of the rows were rejected as null_user" in found["rejected_null_user"]["text"]


def test_test_items_that_training_never_saw(tmp_path):
    rows = [[u, f"new-{u}" if n % 8 == 7 else i, at] for n, (u, i, at) in enumerate(sound())]
    found = told(tmp_path, rows)
    assert set(found) == {"cold_items"}
    assert "100% of the test targets" in found["cold_items"]["text"]


def test_repeats_and_what_is_done_with_them(tmp_path):
    rows = [[u, f"i{n % 3}", at] for n, (u, _, at) in enumerate(sound())]
    assert "repeats_filtered" in told(tmp_path, rows)
    assert "repeats_filtered" not in told(tmp_path, rows, split={"filter_seen": False})
    assert set(told(tmp_path, sound(), split={"filter_seen": False})) == {"seen_recommended"}


def test_ids_in_several_spellings(tmp_path):
    rows = [[u, i.upper() if n % 2 else i, at] for n, (u, i, at) in enumerate(sound())]
    found = told(tmp_path, rows)
    assert set(found) == {"item_spellings"}
    assert "25 of 50 item ids" in found["item_spellings"]["text"]
    assert spelled_differently(pa.array(["a", " A", "b ", "c"])) == 1
    assert spelled_differently(pa.array([1, 2])) == 0
    assert spelled_differently(pa.array([], pa.string())) == 0


@pytest.mark.parametrize(
    ("values", "configured", "unit"),
    [
        (["1700000000000"], "s", "ms"),
        (["1700000000000000"], "s", "us"),
        (["1700000000"], "ns", "s"),
        (["1700000000.5", "17e8"], "ms", "s"),
        (["1700000000"], "iso8601", "s"),
        (["2023-11-14"], "ms", "iso8601"),
        (["2023-11-14T10:00:00Z"] * 9 + ["noon"], "s", "iso8601"),
        (["1700000000000", "1700000000"], "us", None),
        (["0"], "s", None),
        (["20231114"], "s", None),
        (["1970-01-20 16:13:20"], "s", None),
        ([], "s", None),
    ],
)
def test_the_unit_is_guessed_from_nine_of_ten_times(values, configured, unit):
    assert guess_unit(values, configured) == unit


@pytest.mark.parametrize(
    ("value", "configured", "mixed", "text", "remedy"),
    [
        (
            "1700000000000", "s", False,
            "time 1700000000000 is not between 1980 and 2100 in s; as ms it is 2023-11-14",
            'set data.time_unit = "ms"',
        ),
        (
            "2023-11-14", "s", False,
            "time '2023-11-14' is not s; as iso8601 it is 2023-11-14",
            'set data.time_unit = "iso8601"',
        ),
        (
            "1700000000", "iso8601", True,
            "time '1700000000' is not iso8601; as s it is 2023-11-14",
            "the log mixes units: write all its times in iso8601",
        ),
        (
            "1970-01-20 16:13:20.000000000", "s", False,
            "time 1970-01-20 16:13:20.000000000 is not between 1980 and 2100",
            "check the unit with which the column was written: a wrong one gives 1970",
        ),
        (
            "-1", "ms", False,
            "time -1 is not between 1980 and 2100 in ms: it stands for a time that is not known",
            "take such rows out of the log",
        ),
        (
            "noon", "s", False,
            "time 'noon' is not s",
            "check data.time_unit and data.columns.time, or whether the log mixes units",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_time(value, configured, mixed, text, remedy):
    found = time_hint([value], configured, mixed)
    assert (found.text, found.remedy) == (text, remedy)


def test_a_log_in_another_unit_is_refused_with_the_unit(tmp_path):
    rows = [[u, i, at * 1000] for u, i, at in sound()]
    words = r"row 0: time 16\d+ is not between 1980 and 2100 in s; as ms it is 2020-09-13; set data"
    with pytest.raises(DataError, match=words):
        told(tmp_path, rows, data={"max_reject_fraction": 0.01})
