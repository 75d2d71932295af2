"""Numbers as text and as numbers, whole and with a point."""

import pyarrow as pa

from raysys.data.parsing import parse_number, parse_whole


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def test_numbers_as_text_and_as_numbers():
    numbers, bad = parse_number(column(["1", " 2.5 ", "-.5", "+3e2", "", None, "x", "1,5"]), "f", "n")
    assert bad.tolist() == [False] * 4 + [True] * 4
    assert numbers[:4].tolist() == [1.0, 2.5, -0.5, 300.0]
    numbers, bad = parse_number(column([2**60 + 1, None], pa.int64()), "f", "n")
    assert bad.tolist() == [False, True]
    assert numbers[0] == 2.0**60


def test_whole_numbers_beyond_53_bits_are_exact():
    values = [2**60 + 1, -(2**60) - 1, 0]
    for kind in (pa.int64(), pa.string()):
        texts = [str(value) for value in values] if kind == pa.string() else values
        whole, rest, bad = parse_whole(column([*texts, None], kind), "f", "n")
        assert whole.tolist() == [*values, 0]
        assert rest is None
        assert bad.tolist() == [False, False, False, True]
    whole, _, _ = parse_whole(column(["9" * 30, "-" + "9" * 30], pa.string()), "f", "n")
    assert whole.tolist() == [2**62, -(2**62)]


def test_the_fast_and_the_slow_way_to_read_numbers_agree():
    clean, rest, bad = parse_whole(column(["1600000000", None, "-5"]), "f", "n")
    assert (clean.tolist(), rest, bad.tolist()) == ([1_600_000_000, 0, -5], None, [False, True, False])
    for odd in ("0x10", "0X1", " 5x", "1e400", "-", "+", ""):
        assert parse_whole(column(["7", odd]), "f", "n")[2].tolist() == [False, True], odd
        assert parse_number(column(["7", odd]), "f", "n")[1].tolist() == [False, True], odd
    whole, _, bad = parse_whole(column(["+5", " 6 ", "7"]), "f", "n")
    assert (whole.tolist(), bad) == ([5, 6, 7], None)
    assert parse_whole(column(["9" * 25, "1"]), "f", "n")[0].tolist() == [2**62, 1]
    assert parse_number(column(["1.5", "2"]), "f", "n")[1] is None
