"""Properties of the data stage on small drawn logs with many ties; the oracle is tests/reference/data.py."""

import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raysys.data import epochs
from raysys.data.core import Core
from raysys.data.hashing import hash_rows, hash_text
from raysys.data.history import last_positions, take
from raysys.data.partitions import sort_events
from raysys.data.shapes import SampleShape
from raysys.data.vocabulary import Vocabulary
from raysys.distributed import datasets
from raysys.errors import DataError
from raysys.storage import Folder
from tests.reference import data as slow
from tests.reference.line import Outcome, in_a_loop, prepare_here, run_of

START = 1_600_000_000
ROLES = {slow.TRAIN: 0, slow.VALID: 1, slow.TEST: 2, slow.HISTORY: 3, slow.CONTEXT: 4}
VALID_FROM, TEST_FROM = START + 30, START + 60
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
many = settings(max_examples=60)

rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "é", "00", "0"]),  # user
        st.sampled_from(["x", "y", "z", "w", "01", "1"]),  # item
        st.integers(0, 90),  # second
        st.sampled_from([0, 0, 0, 500_000_000]),  # nanoseconds within it
        st.integers(0, 2),  # order
        st.sampled_from(["s", "t", None]),  # session
        st.sampled_from(["buy", "buy", "view", None]),  # event type
    ),
    min_size=6,
    max_size=40,
)
sessions = st.fixed_dictionaries(
    {
        "gap_s": st.sampled_from([1, 5, 20]),
        "max_items": st.sampled_from([1, 2, 3, 50]),
        "by_column": st.booleans(),
        "long_term_s": st.sampled_from([1, 10, 40, 604_800, 2**62]),
        "long_term_events": st.sampled_from([0, 0, 1, 4]),
    }
)
kinds = st.one_of(
    st.fixed_dictionaries({"kind": st.just("leave_one_out"), "unit": st.sampled_from(["event", "session"])}),
    st.fixed_dictionaries(
        {
            "kind": st.just("time"),
            "unit": st.sampled_from(["event", "session"]),
            "valid_from": st.just("2020-09-13T12:27:10"),
            "test_from": st.just("2020-09-13T12:27:40Z"),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["user", "random_target"]),
            "valid_fraction": st.sampled_from([0.1, 0.4]),
            "test_fraction": st.sampled_from([0.2, 0.5]),
            "history_fraction": st.sampled_from([0.3, 0.8]),
            "seed": st.integers(0, 3),
        }
    ),
)


splits = st.builds(
    lambda split, target_events: {**split, "target_events": target_events},
    kinds,
    st.sampled_from([[], [], ["buy"], ["buy", "view"]]),
)
types = st.fixed_dictionaries(
    {
        "known_events": st.sampled_from([[], ["view", "buy"]]),
        "keep_events": st.sampled_from([[], [], ["view", "buy"]]),
        "event_weights": st.sampled_from([{}, {"buy": 4.0, "view": 0.5}, {"view": 0.0}]),
    }
)


def as_events(drawn):
    return [
        slow.Event(user, item, (START + second) * 10**9 + ns, order, session, 0, row, kind)
        for row, (user, item, second, ns, order, session, kind) in enumerate(drawn)
    ]


def write_log(path, events, row_group_size=None):
    table = pa.table(
        {
            "user": pa.array([e.user for e in events], pa.string()),
            "item": pa.array([e.item for e in events], pa.string()),
            "time": pa.array([e.time_ns for e in events], pa.int64()),
            "order": pa.array([e.order for e in events], pa.int64()),
            "session": pa.array([e.session for e in events], pa.string()),
            "kind": pa.array([e.kind for e in events], pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def prepared(folder, events, session=None, split=None, **data):
    """Return the run's outcome, or None where a part is empty."""
    columns = {"order": "order", "session": "session", "event": "kind"}
    run = run_of(
        data.pop("path", None) or write_log(Path(folder) / "log.parquet", events),
        columns,
        data={"time_unit": "ns", "max_reject_fraction": 1.0, "partitions": 3, **data},
        session=session,
        split=split,
    )
    try:
        return Outcome(*prepare_here(run, f"{folder}/out"))
    except DataError as error:
        if "part is empty" in str(error):
            return None
        raise


def reference_split(split):
    defaults = {
        "unit": "event",
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
        "history_fraction": 0.8,
        "seed": 0,
    }
    return {**defaults, **split, "cutoffs": (VALID_FROM, TEST_FROM)}


# --- the slow reference agrees with the fast code


@given(rows, sessions, splits, types)
@few
def test_stored_sequences_samples_and_queries_equal_the_slow_reference(drawn, session, split, types):
    events = as_events(drawn)
    known = [e for e in events if not types["known_events"] or e.kind in types["known_events"]]
    kept = [e for e in known if not types["keep_events"] or e.kind in types["keep_events"]]
    assume(kept)
    with tempfile.TemporaryDirectory() as folder:
        outcome = prepared(folder, events, session, split, **types)
        assume(outcome is not None)
        assert outcome.info["rejected"].get("unknown_event", 0) == len(events) - len(known)
        assert outcome.info["dropped"].get("event_not_kept", 0) == len(known) - len(kept)
        expected = slow.user_lines(slow.without_duplicates(kept), session, reference_split(split))
        lines = outcome.lines()
        assert sorted(lines) == sorted(expected)
        codes = Vocabulary.load(outcome.features / "vocabularies", "event_type")
        number = {None: 1, **{kind: idx + 2 for idx, kind in enumerate(codes.ids.to_pylist())}}
        stored_types = outcome.column("event_type")
        weights = outcome.column("weight") if types["event_weights"] else {}
        train_counts, train_types = Counter(), Counter()
        for user, line in expected.items():
            assert stored_types[user] == [number[e.kind] for e in line.events]
            if weights:
                assert weights[user] == [types["event_weights"].get(e.kind, 1.0) for e in line.events]
            train_types.update(
                e.kind for e, role in zip(line.events, line.role, strict=True) if role == slow.TRAIN
            )
            wanted = zip(
                [e.item for e in line.events],
                [e.at for e in line.events],
                line.session,
                line.cut,
                line.long_start,
                [ROLES[role] for role in line.role],
                strict=True,
            )
            assert lines[user] == list(wanted)
            train_counts.update(
                e.item for e, role in zip(line.events, line.role, strict=True) if role == slow.TRAIN
            )
        assert dict(zip(codes.ids.to_pylist(), codes.counts.tolist(), strict=True)) == {
            kind: train_types[kind] for kind in number if kind is not None
        }
        samples_ = [(user, *pair) for user, line in expected.items() for pair in line.samples()]
        assert outcome.samples() == sorted(samples_)
        assert outcome.info["samples"] == len(samples_)
        assert outcome.info["sessions"] == sum(line.session[-1] + 1 for line in expected.values())
        for part in ("valid", "test"):
            queries = {user: line.query(part) for user, line in expected.items() if line.query(part)}
            assert outcome.queries(part) == queries
            assert outcome.info["queries"][part] == len(queries)
        items = {e.item for line in expected.values() for e in line.events}
        assert outcome.items.ids.to_pylist() == sorted(items, key=lambda i: (-train_counts[i], i.encode()))
        assert outcome.items.counts.tolist() == sorted((train_counts[i] for i in items), reverse=True)


@given(rows, st.integers(1, 4), st.integers(1, 4))
@many
def test_k_core_equals_removing_one_offender_at_a_time(drawn, min_items, min_users):
    events = as_events(drawn)
    with tempfile.TemporaryDirectory() as path, mock.patch.object(datasets, "run_tasks", in_a_loop):
        staged, names = Folder(path), []
        for part in range(3):  # any partition by user will do
            own = [e for e in events if ord(e.user[0]) % 3 == part]
            if own:
                own.sort(key=lambda event: event.user)
                (Path(path) / "events").mkdir(exist_ok=True)
                names.append(f"part-{part}.parquet")
                ids = {"user_id": [e.user for e in own], "item_id": [e.item for e in own]}
                pq.write_table(pa.table(ids), f"{path}/events/{names[-1]}")
        config = run_of("log.parquet", data={"min_item_events": min_items, "min_user_events": min_users}).data
        core = datasets.find_core(config, staged, names)
        left = [core.apply(pq.read_table(f"{path}/events/{name}")) for name in names]
    found = Counter((row["user_id"], row["item_id"]) for table in left for row in table.to_pylist())
    assert found == Counter((e.user, e.item) for e in slow.k_core(events, min_items, min_users))


# --- properties that need no reference


@given(rows, sessions, splits)
@few
def test_sessions_partition_the_events_and_no_window_looks_ahead(drawn, session, split):
    events = as_events(drawn)
    with tempfile.TemporaryDirectory() as folder:
        outcome = prepared(folder, events, session, split)
        assume(outcome is not None)
        by_unit = reference_split(split)["unit"] == "session"
        for user, line in outcome.lines().items():
            own = slow.in_order(slow.without_duplicates(events))[user]
            items, at, ordinal, cut, start, role = (list(column) for column in zip(*line, strict=True))
            assert items == [e.item for e in own]
            assert at == sorted(at)
            starts = [
                place for place in range(len(line)) if place == 0 or ordinal[place] != ordinal[place - 1]
            ]
            assert [ordinal[place] for place in starts] == list(range(len(starts)))  # whole and in order
            assert max(Counter(ordinal).values()) <= session["max_items"]
            for place in range(1, len(line)):
                same = ordinal[place] == ordinal[place - 1]
                if session["by_column"]:
                    assert not (same and own[place].session != own[place - 1].session)
                else:
                    assert not (same and at[place] - at[place - 1] > session["gap_s"])
                    capped = Counter(ordinal)[ordinal[place]] == session["max_items"]
                    assert same or at[place] - at[place - 1] > session["gap_s"] or capped
            for place in range(len(line)):
                assert cut[place] <= place
                if by_unit:
                    assert all(at[seen] < at[place] for seen in range(cut[place]))
                assert start[place] <= place
                if session["long_term_events"]:
                    assert place - start[place] == min(place, session["long_term_events"])
                else:
                    assert all(
                        at[place] - at[long] <= session["long_term_s"] for long in range(start[place], place)
                    )
            for first in starts:  # the long term of a session ends where the session starts
                long_term = set(range(start[first], first))
                assert not long_term & {p for p in range(len(line)) if ordinal[p] == ordinal[first]}
            assert set(role) <= set(ROLES.values())


@given(rows, splits)
@few
def test_training_never_holds_a_held_out_event(drawn, split):
    events = as_events(drawn)
    with tempfile.TemporaryDirectory() as folder:
        outcome = prepared(folder, events, None, split)
        assume(outcome is not None)
        trained, context = Counter(), Counter()
        for user, line in outcome.lines().items():
            for item, *_, role in line:
                trained[user, item] += role == 0
                context[user, item] += role == 4
        visible = +trained + context
        for user, history, target in outcome.samples():
            assert trained[user, target]
            assert all(visible[user, item] for item in history)
        assert outcome.items.counts.sum() == trained.total()  # popularity excludes what is held out
        assert outcome.users.counts.sum() == trained.total()


# --- results do not depend on how the log was written or worked through


@given(rows, sessions, splits, st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5))
@few
def test_results_do_not_depend_on_files_rows_partitions_or_blocks(
    drawn, session, split, seed, partitions, num_files
):
    events = [
        slow.Event(user, item, (START + second) * 10**9, place, session_, 0, place, kind)
        for place, (user, item, second, _, _, session_, kind) in enumerate(drawn)
    ]
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        base = prepared(folder, events, session, split, partitions=1)
        assume(base is not None)
        shuffled = [events[place] for place in generator.permutation(len(events))]
        owner = generator.integers(0, num_files, len(events))
        log = Path(folder) / "log"
        log.mkdir()
        for number in range(num_files):
            own = [event for event, file in zip(shuffled, owner, strict=True) if file == number]
            write_log(log / f"{number}.parquet", own, row_group_size=int(generator.integers(1, 4)))
        with mock.patch("raysys.data.files.ROWS_PER_PIECE", int(generator.integers(1, 6))):
            other = prepared(f"{folder}/b", events, session, split, partitions=partitions, path=str(log))
        assert other is not None
        assert other.content() == base.content()


@given(
    st.lists(st.sampled_from(["", "a", "é", "日本", "0", "00", "x" * 20, None]), max_size=12),
    st.integers(0, 12),
)
@many
def test_hash_of_text_is_a_function_of_the_text_alone(texts, cut):
    expected = [slow.hash_text(text, 5) for text in texts]
    whole = pa.array(texts, pa.string())
    chunks = pa.chunked_array([whole[:cut], whole[cut:]], pa.string())
    padded = pa.array(["q", *texts, "r"], pa.string())[1 : len(texts) + 1]
    for column in (whole, chunks, padded, whole.cast(pa.large_string()), whole.dictionary_encode()):
        assert hash_text(column, 5).tolist() == expected


@given(rows, st.randoms(use_true_random=False))
@many
def test_order_of_events_is_total_whatever_came_first(drawn, random):
    table = pa.table(
        {
            "user_id": [row[0] for row in drawn],
            "item_id": [row[1] for row in drawn],
            "time_ns": pa.array([row[2] for row in drawn], pa.int64()),
            "order": pa.array([row[4] for row in drawn], pa.int64()),
            "session": pa.array([row[5] for row in drawn], pa.string()),
            "place": pa.array(range(len(drawn)), pa.int64()),
        }
    )
    places = list(range(len(drawn)))
    random.shuffle(places)
    assert sort_events(table.take(pa.array(places))).equals(sort_events(table))
    assert sorted(hash_rows(table.take(pa.array(places)), ["item_id", "order"]).tolist()) == sorted(
        hash_rows(table, ["item_id", "order"]).tolist()
    )


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 3), max_size=10))
@many
def test_vocabulary_round_trip(counted):
    vocabulary = Vocabulary.build(
        pa.array(list(counted), pa.string()), np.array(list(counted.values()), dtype=np.int64)
    )
    idx = vocabulary.encode(pa.array(list(counted), pa.string()))
    assert sorted(idx.tolist()) == list(range(2, vocabulary.size))
    assert vocabulary.decode(idx).to_pylist() == list(counted)
    assert vocabulary.ids.to_pylist() == sorted(counted, key=lambda id_: (-counted[id_], id_.encode()))
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.write(Folder(folder), "v")
        loaded = Vocabulary.load(Folder(folder), "v")
    assert loaded.ids.equals(vocabulary.ids)
    assert loaded.counts.tolist() == vocabulary.counts.tolist()
    assert loaded.digest == vocabulary.digest


# --- the order of training


def write_parts(folder, sizes):
    """Write sequence files whose samples are all distinct; return the parts with their samples and events."""
    names, item = {}, 2
    for part, users in enumerate(sizes):
        lists = []
        for size in users:
            lists.append(list(range(item, item + size)))
            item += size
        (Path(folder) / "sequences").mkdir(exist_ok=True)
        names[f"part-{part:05d}.parquet"] = (sum(max(s - 1, 0) for s in users), sum(users))
        table = pa.table(
            {
                "user_id": pa.array([f"{part}-{n}" for n in range(len(users))], pa.string()),
                "item_idx": pa.array(lists, pa.list_(pa.int32())),
                "cut": pa.array([list(range(len(own))) for own in lists], pa.list_(pa.int32())),
                "role": pa.array([[0] * len(own) for own in lists], pa.list_(pa.int8())),
            }
        )
        pq.write_table(table, f"{folder}/sequences/part-{part:05d}.parquet")
    return names


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=5),
    st.sampled_from([4, 12]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([1, 20, 10**6]),
    st.integers(0, 30),
)
@few
def test_training_order_is_a_function_of_seed_and_epoch(
    sizes, batch_size, seed, epoch, shuffle_events, first
):
    with tempfile.TemporaryDirectory() as path:
        names = write_parts(path, sizes)
        plan = epochs.EpochPlan(
            parts={name: counts[0] for name, counts in names.items()},
            events={name: counts[1] for name, counts in names.items()},
            batch_size=batch_size,
            seed=seed,
            shuffle_events=shuffle_events,
            shape=SampleShape(history_length=4),
        )
        folder = Folder(path)

        def targets(world, first_step=0):
            """step -> targets of the global batch, rank after rank."""
            steps = {}
            for rank in range(world):
                for step, batch in epochs.epoch_batches(plan, epoch, folder, first_step, rank, world):
                    steps.setdefault(step, []).extend(batch["target"].tolist())
            return steps

        whole = targets(1)
        assert list(whole) == list(range(plan.chunks(epoch)[-1].stop))
        assert all(len(batch) == batch_size for batch in whole.values())
        for world in (2, 4):
            assert targets(world) == whole
        assert targets(2, first) == {step: batch for step, batch in whole.items() if step >= first}
        seen = [target for batch in whole.values() for target in batch]
        assert len(set(seen)) == len(seen)  # no sample twice in an epoch
        total = sum(plan.parts.values())
        assert total - len(seen) < batch_size * len(plan.chunks(epoch))  # a chunk drops less than one batch
        if not whole:
            with pytest.raises(DataError, match=r"lower training\.batch_size"):
                plan.steps(epoch)


def test_epochs_and_seeds_give_other_orders(tmp_path):
    names = write_parts(tmp_path, [[9] * 20, [9] * 20])
    orders = set()
    for seed in (0, 1):
        plan = epochs.EpochPlan(
            parts={name: counts[0] for name, counts in names.items()},
            events={name: counts[1] for name, counts in names.items()},
            batch_size=8,
            seed=seed,
            shuffle_events=10**6,
            shape=SampleShape(history_length=4),
        )
        for epoch in (0, 1, 2):
            batches = epochs.epoch_batches(plan, epoch, Folder(tmp_path), 0, 0, 1)
            orders.add(tuple(t for _, batch in batches for t in batch["target"].tolist()))
    assert len(orders) == 6


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 12))
@many
def test_windows_hold_the_latest_events_right_aligned(sizes, length):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    window = take(np.arange(2, 2 + offsets[-1]), *last_positions(offsets[:-1], offsets[1:], length))
    assert window.shape[1] <= length
    for row, size in enumerate(sizes):
        latest = list(range(2 + offsets[row], 2 + offsets[row] + size))[-length:]
        assert window[row].tolist() == [0] * (window.shape[1] - len(latest)) + latest


def test_core_without_limits_keeps_everything():
    table = pa.table({"user_id": ["a"], "item_id": ["x"]})
    assert Core(None, 1).apply(table) is table
