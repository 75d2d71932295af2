"""Histories against the log: the oracle of a fault is the plant, in the files of a run or in the code."""

from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data import samples, short_long
from raysys.data.history import last_positions
from raysys.data.interactions import Entries
from raysys.run import load_run
from tests.integration.doctor.runs import checks_of, each_sequence, with_lists
from tests.reference.line import prepare_here

SPLITS = {
    "leave_one_out": "",
    "target_events": 'target_events = ["buy"]',
    "time": 'kind = "time"\nvalid_from = "2020-09-19T00:00:00Z"\ntest_from = "2020-09-22"',
    "user": 'kind = "user"\nvalid_fraction = 0.2\ntest_fraction = 0.3',
    "random_target": 'kind = "random_target"\nvalid_fraction = 0.05\ntest_fraction = 0.05',
    "session": 'unit = "session"\nfilter_seen = false',
}
SESSIONS = {
    "gap": "gap_s = 600\nmax_items = 4\nlong_term_s = 1500",
    "last_n": "last_n = 3\nlong_term_events = 5",
    "column": "by_column = true\nlong_term_max = 3",
}


def tied_log(folder):
    """A log of two files with ties, repeats, doubled rows, rare items, sessions and event types."""
    random = np.random.default_rng(5)
    folder.mkdir(exist_ok=True)
    rows = 1200
    user = random.integers(0, 40, rows)
    at = 1_600_000_000 + user * 20_000 + np.sort(random.integers(0, 60, rows)) * 300
    table = pa.table(
        {
            "user": pa.array([f"u{value}" for value in user]),
            "item": pa.array([f"i{int(value)}" for value in random.gamma(1.0, 12.0, rows)]),
            "time": pa.array(at, pa.int64()),
            "seq": pa.array(random.integers(0, 3, rows), pa.int64()),
            "visit": pa.array([f"s{value // 900}" for value in at]),
            "kind": pa.array(random.choice(["buy", "view"], rows).tolist()),
        }
    )
    table = table.take(pa.array(random.permutation(np.append(np.arange(rows), np.arange(30)))))
    pq.write_table(table.slice(0, 700), folder / "a.parquet")
    pq.write_table(table.slice(700), folder / "b.parquet")
    return folder


def run_on_ties(folder, split, session, model):
    path = tied_log(folder) / "run.toml"
    columns = 'user = "user"\nitem = "item"\ntime = "time"\norder = "seq"\nsession = "visit"\nevent = "kind"'
    path.write_text(
        f'[data]\nevents = ["a.parquet", "b.parquet"]\nmin_item_events = 3\n'
        "min_user_events = 4\nmax_reject_fraction = 0.1\n"
        f"[data.columns]\n{columns}\n[session]\n{session}\n[split]\n{split}\n[model]\n{model}\n"
    )
    return path


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("session", SESSIONS)
def test_histories_of_every_split_and_session_are_those_of_the_log(tmp_path, split, session):
    model = 'name = "sdm"\nhistory_length = 9' if session != "gap" else 'name = "mind"\nhistory_length = 5'
    path = run_on_ties(tmp_path, SPLITS[split], SESSIONS[session], model)
    prepare_here(load_run(str(path)), tmp_path / "out")
    found = checks_of((path, tmp_path / "out"))
    names = ["stored_order", "held_out_events", "future_items", "history_truncation", "reserved_items"]
    assert {name: found[name].line for name in names if found[name].state != "ok"} == {}
    assert found["future_items"].figures["shown"] > 40
    assert found["short_long_apart"].state == ("not checked" if session == "gap" else "ok")
    assert found["exported_vectors"].state == "not checked"
    assert "jobs/train.py" in found["exported_vectors"].looked_at


def test_the_most_frequent_items_are_told_from_the_log(tmp_path):
    model = 'name = "mind"\nhistory_length = 4\nmost_frequent_of = 12'
    path = run_on_ties(tmp_path, "filter_seen = false", "", model)
    prepare_here(load_run(str(path)), tmp_path / "out")
    assert checks_of((path, tmp_path / "out"))["history_truncation"].state == "ok"


def test_a_cut_behind_the_target_is_a_future_item(broken):
    _, out = broken
    each_sequence(
        out, lambda table: with_lists(table, "cut", lambda row: [value + 1 for value in row["cut"]])
    )
    check = checks_of(broken)["future_items"]
    assert check.state == "fault"
    assert check.figures["late_cuts"] == check.figures["events"]
    # a training sample then shows its own target; what is held out is no role that a history may show
    assert check.figures["future"] > 0.5 * check.figures["shown"]
    assert "jobs/prepare.py" in check.remedy


def test_a_target_that_stands_earlier_is_a_future_item_and_another_order(broken):
    _, out = broken
    each_sequence(
        out,
        lambda table: with_lists(table, "item_idx", lambda row: row["item_idx"][-1:] + row["item_idx"][:-1]),
    )
    found = checks_of(broken)
    assert found["future_items"].state == "fault"
    assert found["stored_order"].state == "fault"
    assert found["stored_order"].figures["differ"] == found["stored_order"].figures["users"]


def test_a_test_event_that_is_trained_on_is_not_held_out(broken):
    _, out = broken
    each_sequence(
        out,
        lambda table: with_lists(
            table, "role", lambda row: [0 if role == 2 else role for role in row["role"]]
        ),
    )
    found = checks_of(broken)
    check = found["held_out_events"]
    assert check.state == "fault"
    assert check.figures["leaked"] == check.figures["wrong"] == found["stored_order"].figures["users"]


def test_a_test_event_that_training_holds_too_is_a_leak(broken):
    _, out = broken

    def doubled(values):
        return [*values[:3], values[-1], *values[4:]]

    for column in ("item_idx", "at"):
        each_sequence(out, lambda table, name=column: with_lists(table, name, lambda row: doubled(row[name])))
    check = checks_of(broken)["split_leakage"]
    assert check.state == "fault"
    assert check.figures["leaked"] == 120


def oldest_positions(start, stop, length):
    """`last_positions` at the wrong end."""
    return last_positions(start, np.minimum(stop, start + length), length)


def test_the_oldest_events_in_the_place_of_the_newest_are_a_wrong_cut(mind):
    with mock.patch.object(samples, "last_positions", oldest_positions):
        found = checks_of(mind)
    check = found["history_truncation"]
    assert check.state == "fault"
    assert 0 < check.figures["wrong"] <= check.figures["cut"]
    assert found["future_items"].state == "ok"


def test_a_matrix_with_held_out_events_is_found(item_cf):
    def every_part(sequences, value=None, part="train"):
        return own(sequences, value, "test")

    own = Entries.of
    with mock.patch.object(Entries, "of", every_part):
        check = checks_of(item_cf)["training_matrix"]
    assert check.state == "fault"
    assert (
        check.figures["wrong"] == check.figures["held_out"] == check.figures["users"]
    )  # one event of valid each


def test_a_long_term_that_holds_the_session_is_not_apart(sdm):
    def overlapping(where, rows, values, most):
        return short_long_sets(
            short_long.ShortLong(where.short_stop, where.short_stop, where.long_start), rows, values, most
        )

    short_long_sets = short_long.long_term_sets
    with mock.patch.object(short_long, "long_term_sets", overlapping):
        found = checks_of(sdm)
    assert found["short_long_apart"].state == "fault"
    assert found["future_items"].state == "ok"


def test_a_session_with_its_oldest_events_is_a_wrong_cut(sdm):
    def early(history, config):
        where = short_and_long(history, config)
        start = np.maximum(where.short_start - 3, history.start)
        return short_long.ShortLong(start, start + (where.short_stop - where.short_start), where.long_start)

    short_and_long = short_long.short_and_long
    with mock.patch.object(short_long, "short_and_long", early):
        assert checks_of(sdm)["history_truncation"].state == "fault"
