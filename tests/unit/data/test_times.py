"""Times in text: ISO 8601, strptime, several columns, zones, years from the config."""

import datetime as dt
import zoneinfo

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.times import Clock, has_year, parse_text, parse_time, to_utc

NS = 10**9
BERLIN = "Europe/Berlin"


def seconds(*arguments, zone="UTC", fold=0):
    return round(dt.datetime(*arguments, fold=fold, tzinfo=zoneinfo.ZoneInfo(zone)).timestamp())


def parsed(values, **clock):
    """Return seconds, None for what cannot be read."""
    exact, bad = parse_text(pa.array(values, pa.string()), Clock(**clock))
    bad = np.zeros(len(exact), bool) if bad is None else bad
    return [None if wrong else value / NS for value, wrong in zip(exact.tolist(), bad.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("format", "text", "expected"),
    [
        ("%Y-%m-%d %H:%M:%S", "2020-09-13 12:26:40", 1_600_000_000),
        ("%Y%m%d%H%M%S", "20200913122640", 1_600_000_000),
        ("%d.%m.%Y %H:%M", "13.09.2020 12:26", 1_599_999_960),
        ("%Y-%m-%d %H", "2020-09-13 7", seconds(2020, 9, 13, 7)),
        ("%d/%b/%Y:%H:%M:%S %z", "13/Sep/2020:14:26:40 +0200", 1_600_000_000),
        ("%Y-%m-%d %H:%M:%S.%f", "2020-09-13 12:26:40.5", 1_600_000_000.5),
        ("%m/%d/%y", "09/13/20", seconds(2020, 9, 13)),
        ("%Y-%m-%dT%H:%M:%SZ", " 2020-09-13T12:26:40Z ", 1_600_000_000),
    ],
)
def test_strptime_formats(format, text, expected):
    assert parsed([text, None, text], format=format) == [expected, None, expected]


def test_fractions_and_offsets_are_read_in_bulk_as_one_by_one():
    values = [
        "2020-09-13 12:26:40.5 +0200",
        "2020-09-13 12:26:40.000001 -04:30",
        "2020-09-13 12:26:40.123 Z",
        "x",
        "2020-09-13 12:26:40 +0200",
        "2019-02-29 12:26:40.5 +0200",
        "2020-09-13 12:26:40.1234567 +0200",
        "2020-09-13 12:26:40.5+0200",
        None,
    ]
    format = "%Y-%m-%d %H:%M:%S.%f %z"
    expected = [dt.datetime.strptime(value, format).timestamp() for value in values[:3]]
    assert parsed(values, format=format, zone=BERLIN) == pytest.approx([*expected, *[None] * 6], abs=1e-6)
    for month, name in ((3, "Mar"), (9, "sep")):
        text = f"01/{name}/2020:00:30:00 +0200"  # the day before in UTC
        found = parsed([text], format="%d/%b/%Y:%H:%M:%S %z")
        assert found == [seconds(2020, month, 1) - 5400]


def test_dates_that_do_not_exist_are_no_times():
    values = ["2020-02-29", "2019-02-29", "2020-04-31", "2020-05-01", "2020-13-01", "x", "2020-05-01x", None]
    expected = [seconds(2020, 2, 29), None, None, seconds(2020, 5, 1), None, None, None, None]
    assert parsed(values, format="%Y-%m-%d") == expected
    assert parsed(values, unit="iso8601") == expected
    leap = ["2020-05-01 10:00:60", "2020-05-01 10:00:61", "2020-05-01 10:01:00"]
    assert parsed(leap, format="%Y-%m-%d %H:%M:%S") == [None, None, seconds(2020, 5, 1, 10, 1)]


def test_a_format_without_a_year_takes_it_from_the_config():
    values = ["829", "1111", "0301", "511", "229", "1301", ""]
    expected = [seconds(2014, *day) for day in ((8, 29), (11, 11), (3, 1), (5, 11))]
    assert parsed(values, format="%m%d", year=2014) == [*expected, None, None, None]
    assert parsed(["229"], format="%m%d", year=2016) == [seconds(2016, 2, 29)]
    assert [has_year(format) for format in ("%m%d", "%Y", "%d/%b/%y", "%%Y", "%c")] == [
        False, True, True, False, True
    ]  # fmt: skip


def test_whole_numbers_can_be_dates():
    column = pa.chunked_array([pa.array([20200913, 20201301, None], pa.int32())])
    exact, state = parse_time(column, Clock(format="%Y%m%d"), "f", "t")
    assert exact.tolist() == [seconds(2020, 9, 13) * NS, 0, 0]
    assert state.tolist() == [0, 2, 1]


def test_date_columns_are_iso8601():
    column = pa.chunked_array([pa.array([dt.date(2020, 9, 13), None])])
    exact, state = parse_time(column, Clock("iso8601", zone="Asia/Tokyo"), "f", "t")
    assert exact.tolist() == [seconds(2020, 9, 13, zone="Asia/Tokyo") * NS, 0]
    assert state.tolist() == [0, 1]


# --- zones


def test_times_without_a_zone_are_in_the_configured_one():
    for clock in ({"unit": "iso8601"}, {"format": "%Y-%m-%d %H:%M:%S"}):
        values = ["2020-07-01 12:00:00", "2020-12-01 12:00:00"]
        assert parsed(values, zone=BERLIN, **clock) == [seconds(2020, 7, 1, 10), seconds(2020, 12, 1, 11)]
    mixed = ["2020-07-01T12:00:00", "2020-07-01T12:00:00+05:00", "2020-07-01T12:00Z", "20200701T120000", "x"]
    expected = [seconds(2020, 7, 1, hour) for hour in (10, 7, 12, 10)]
    assert parsed(mixed, unit="iso8601", zone=BERLIN) == [*expected, None]
    for one, time in zip(mixed, expected, strict=False):
        assert parsed([one], unit="iso8601", zone=BERLIN) == [time]
    assert parsed(["2020-07-01 12:00 +0100"], format="%Y-%m-%d %H:%M %z", zone=BERLIN) == [
        seconds(2020, 7, 1, 11)
    ]


def test_a_time_that_comes_twice_is_the_first_and_a_skipped_one_moves_forward():
    twice, skipped = "2020-10-25 02:30:00", "2020-03-29 02:30:00"
    expected = [
        seconds(2020, 10, 25, 0, 30),
        seconds(2020, 3, 29, 1, 30),
    ]  # 02:30 summer time; 03:30 summer time
    assert parsed([twice, skipped], unit="iso8601", zone=BERLIN) == expected
    assert parsed([twice, skipped], format="%Y-%m-%d %H:%M:%S", zone=BERLIN) == expected
    assert parsed([twice, skipped, "2020-10-25T02"], unit="iso8601", zone=BERLIN)[:2] == expected


@pytest.mark.parametrize(
    "zone", [BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Asia/Shanghai", "Africa/Casablanca"]
)
def test_zones_equal_pythons_at_every_quarter_of_an_hour(zone):
    begin = seconds(1985, 1, 1)
    local = begin + np.arange(0, 36 * 365 * 86_400, 900 * 7)
    found = to_utc(local * NS, zone) // NS
    info = zoneinfo.ZoneInfo(zone)
    for at in range(0, len(local), 97):
        wall = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=int(local[at]))
        assert found[at] == round(wall.replace(tzinfo=info).timestamp()), wall


@pytest.mark.parametrize("unit", ["s", "us"])
def test_parquet_timestamps_without_a_zone_are_in_the_configured_one_and_others_are_not(unit):
    noon = dt.datetime(2020, 7, 1, 12)
    for kind, hour in ((pa.timestamp(unit), 10), (pa.timestamp(unit, tz="UTC"), 12)):
        column = pa.chunked_array([pa.array([noon], kind)])
        exact, state = parse_time(column, Clock(zone=BERLIN), "f", "t")
        assert (exact.tolist(), state) == ([seconds(2020, 7, 1, hour) * NS], None)


def test_numbers_are_utc_whatever_the_zone():
    exact, _ = parse_time(pa.chunked_array([pa.array([1_600_000_000])]), Clock(zone=BERLIN), "f", "t")
    assert exact.tolist() == [1_600_000_000 * NS]


def test_iso8601_keeps_nanoseconds():
    exact, bad = parse_text(pa.array(["2020-09-13T12:26:40.123456789"]), Clock("iso8601"))
    assert (exact.tolist(), bad) == ([1_600_000_000_123_456_789], None)
