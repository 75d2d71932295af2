"""Properties of the sample shapes on small drawn logs with many ties; the oracle is
tests/reference/samples.py."""

import tempfile
from collections import Counter
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raysys.data.budget import draw, part_samples
from raysys.data.epochs import EpochPlan, drawn_rows, epoch_batches, read_samples
from raysys.data.hashing import hash_text
from raysys.data.history import load_sequences
from raysys.data.interactions import Entries, Interactions, read_entries
from raysys.data.pairs import Transitions
from raysys.data.parquet import read_table
from raysys.data.queries import read_queries
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.measure import own_frequent
from raysys.errors import DataError
from raysys.seeds import derive_seed
from tests.property.test_data import START, reference_split, rows, sessions, splits
from tests.reference import data as slow_data
from tests.reference import samples as slow
from tests.reference.line import prepare_here, run_of

few = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
DAY_S = 86_400
baskets = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y", "z", "w", "01", "1"]),
        st.sampled_from([0, 2, 4, 6, 8, 10, 40, 80]),
        st.just(0),
        st.integers(0, 2),
        st.sampled_from(["s", "t", None]),
        st.sampled_from(["buy", "buy", "view", None]),
    ),
    min_size=16,
    max_size=40,
)
rows = st.one_of(rows, baskets)
"""Scattered events, and baskets of several lines by few users."""
CATEGORY = {"x": "p", "y": "p", "z": "q", "w": "q", "01": "r", "1": ""}
TAGS = {"x": "m|n", "y": "n", "z": "", "w": "n|o|m", "01": "o", "1": "m"}


class Prepared:
    """A prepared log, its users in stored order, and the way from what was logged to ids."""

    def __init__(self, folder, drawn, session, split, partitions=3):
        self.session = session
        events = [
            slow.RichEvent(
                user, item, (START + second) * 10**9 + ns, order, mark, 0, row, kind,
                weight=float((row * 7) % 4), rating=float(row % 5), act="abc"[row % 3],
            )
            for row, (user, item, second, ns, order, mark, kind) in enumerate(drawn)
        ]  # fmt: skip
        columns = ("user", "item", "time_ns", "order", "session", "weight", "rating", "act")
        table = pa.table({name: [getattr(e, name) for e in events] for name in columns})
        table = table.set_column(4, "session", table.column("session").cast(pa.string()))
        table = table.append_column("kind", pa.array([e.kind for e in events], pa.string()))
        pq.write_table(table, f"{folder}/log.parquet")
        side = {"id": list(CATEGORY), "category": list(CATEGORY.values()), "tags": list(TAGS.values())}
        pq.write_table(pa.table(side), f"{folder}/items.parquet")
        kinds = {"category": {"kind": "categorical"}, "tags": {"kind": "multi_valued"}}
        run = run_of(
            f"{folder}/log.parquet",
            {"time": "time_ns", "event": "kind", **{name: name for name in columns[3:]}},
            data={
                "time_unit": "ns",
                "keep_duplicates": True,
                "partitions": partitions,
                "items": {"path": f"{folder}/items.parquet", "id": "id", "features": kinds},
            },
            session=session,
            split=split,
        )
        self.features, self.info = prepare_here(run, f"{folder}/out-{partitions}")
        self.parts = sorted(self.info["part_events"])
        lines = slow_data.user_lines(events, session, reference_split(split))
        stored = {part: load_sequences(self.features, [f"sequences/{part}"]) for part in self.parts}
        self.users = {part: found.user_id.to_pylist() for part, found in stored.items()}
        self.lines = [(user, lines[user]) for part in self.parts for user in self.users[part]]
        self.events = events
        self.item = self.codes("item")
        self.act = self.codes("event_act")
        self.user = self.codes("user")
        items = read_table(self.features, "items.parquet")
        self.category = items.column("category").to_pylist()
        self.tags = items.column("tags").to_pylist()

    def codes(self, name):
        ids = Vocabulary.load(self.features / "vocabularies", name).ids.to_pylist()
        return {None: 0, **{value: code + 2 for code, value in enumerate(ids)}}

    def plan(self, shape, **options):
        newest = self.info["newest_train_at"]
        options = {"batch_size": 1, "seed": 0, "shuffle_events": 10**6, "newest_at": newest, **options}
        parts = part_samples(self.features, self.info, shape, options.get("samples_per_user", 0))
        return EpochPlan(parts=parts, events=self.info["part_events"], shape=shape, **options)

    def samples(self, shape, epoch=0):
        plan = self.plan(shape)
        samples = read_samples(plan, self.parts, self.features, epoch)
        assert len(samples) == sum(plan.parts.values())
        return samples, samples.batch(np.arange(len(samples)))

    def items_of(self, line, places):
        return [0 if place is None else self.item[line.events[place].item] for place in places]

    def acts_of(self, line, places):
        return [self.act[line.events[place].act] for place in places]


def prepared(folder, drawn, session, split, partitions=3):
    try:
        return Prepared(folder, drawn, session, split, partitions)
    except DataError as error:
        assume("part is empty" not in str(error))
        raise


def padded(rows, length, left=True):
    """Return rows cut to their last (first) `length` values and padded with 0 to the longest."""
    rows = [row[-length:] if left else row[:length] for row in rows]
    width = max([1, *(len(row) for row in rows)])
    return [[0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in rows]


@given(rows, sessions, splits, st.integers(1, 5), st.integers(1, 3))
@few
def test_next_items_equal_the_slow_reference(drawn, session, split, length, count):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        shape = SampleShape(
            history_length=length, next_items=count, example_age=True, weight=True, times=True, user_idx=True,
            event_features=("act",),
        )  # fmt: skip
        samples, batch = log.samples(shape)
        wanted = [(user, line, place) for user, line in log.lines for place in slow.targets(line)]
        assume(wanted)
        seen = [slow.history(line, place) for _, line, place in wanted]
        ahead = [slow.next_items(line, place, count) for _, line, place in wanted]
        lines = [line for _, line, _ in wanted]

        def histories(values):
            return padded([values(line, own) for line, own in zip(lines, seen, strict=True)], length)

        def following(values, missing=0):
            rows = [values(line, own) for line, own in zip(lines, ahead, strict=True)]
            full = [row + [missing] * (count - len(row)) for row in rows]
            return full if count > 1 else [row[0] for row in full]

        assert batch["history"].tolist() == histories(log.items_of)
        assert batch["history_act"].tolist() == histories(log.acts_of)
        assert batch["history_at"].tolist() == histories(lambda line, own: [line.events[p].at for p in own])
        assert batch["target"].tolist() == following(log.items_of)
        assert batch["target_at"].tolist() == following(lambda line, own: [line.events[p].at for p in own])
        assert batch["weight"].tolist() == following(lambda line, own: [line.events[p].weight for p in own])
        assert batch["user_idx"].tolist() == [log.user[user] for user, _, _ in wanted]
        newest = max(line.events[p].at for _, line in log.lines for p in slow.training_places(line))
        ages = [(newest - line.events[place].at) / DAY_S for _, line, place in wanted]
        np.testing.assert_allclose(batch["example_age"], ages, rtol=1e-6)
        assert batch["example_age"].min() >= 0.0
        order = [slow.training_places(line).index(place) for _, line, place in wanted]
        assert samples.place.tolist() == order


@given(rows, sessions, splits, st.integers(1, 4), st.integers(1, 9), st.sampled_from(["train", "test"]))
@few
def test_frequent_items_equal_the_slow_reference(drawn, session, split, length, among, part):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        shape = SampleShape(
            history_length=length, most_frequent_of=among, times=True, event_features=("act",)
        )
        if part == "train":
            _, batch = log.samples(shape)
            wanted = [
                (line, slow.history(line, place)) for _, line in log.lines for place in slow.targets(line)
            ]
            found = [batch]
        else:
            queries = [read_queries(log.features, name, "test", shape) for name in log.parts]
            found = [q.batch(np.arange(len(q))) for q in queries if len(q)]
            held_out = [
                (line, [p for p, role in enumerate(line.role) if role == slow_data.TEST])
                for _, line in log.lines
            ]
            wanted = [
                (line, slow.history(line, places[0], slow_data.TEST)) for line, places in held_out if places
            ]
        assume(wanted)
        chosen = [(line, slow.most_frequent(line, seen, among, length)) for line, seen in wanted]
        got = {
            name: [row for batch in found for row in batch[name].tolist()]
            for name in ("history", "history_act", "history_at")
        }
        for name, values in {
            "history": log.items_of,
            "history_act": log.acts_of,
            "history_at": lambda line, own: [line.events[p].at for p in own],
        }.items():
            stripped = [[value for value in row if value] for row in got[name]]
            assert stripped == [values(line, places) for line, places in chosen]
        for row in got["history"]:  # padding on the left
            assert sorted(row, key=bool) == row


@given(rows, sessions, splits, st.integers(1, 8))
@few
def test_own_frequent_items_then_popular_ones_equal_the_slow_reference(drawn, session, split, depth):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        popular = np.arange(2, log.info["items"] + 2)[::-1].copy()
        for part in log.parts:
            queries = read_queries(log.features, part, "test", SampleShape())
            if not len(queries):
                continue
            answer = own_frequent(queries, popular, depth)
            lines = [line for user, line in log.lines if user in queries.user_id.to_pylist()]
            for line, got, score in zip(lines, answer.item_idx.tolist(), answer.score, strict=True):
                place = line.role.index(slow_data.TEST)
                seen = slow.history(line, place, slow_data.TEST)
                best = slow.most_frequent(line, seen, len(seen), depth)[::-1]
                own = log.items_of(line, best)
                every = own + [item for item in popular.tolist() if item not in own]
                every = (every + [-1] * depth)[:depth]
                assert got == every
                assert (np.diff(score[np.array(got) >= 0]) < 0).all()


@given(rows, sessions, splits, st.integers(1, 6))
@few
def test_whole_sequences_equal_the_reference_and_never_reach_their_targets(drawn, session, split, length):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        shape = SampleShape(kind="sequence", history_length=length, times=True, weight=True)
        _, batch = log.samples(shape)
        found = [(line, slow.whole(line)) for _, line in log.lines if slow.whole(line)]
        inputs = [log.items_of(line, [a for a, _ in pairs]) for line, pairs in found]
        targets = [log.items_of(line, [b for _, b in pairs]) for line, pairs in found]
        assert batch["history"].tolist() == (padded(inputs, length) if inputs else [])
        assert batch["target"].tolist() == (padded(targets, length) if inputs else [])
        strictly = split.get("unit") == "session"
        for seen, at in zip(batch["history_at"], batch["target_at"], strict=True):
            real = at > 0
            latest = np.maximum.accumulate(seen)[real]
            assert (latest < at[real]).all() if strictly else (latest <= at[real]).all()
        for _, pairs in found:
            assert all(a < b for a, b in pairs)
        moved = SampleShape(kind="sequence", history_length=length, windows="random")
        for epoch in range(3):
            _, other = log.samples(moved, epoch)
            assert other["history"].shape == batch["history"].shape
            for own, (line, pairs) in zip(
                np.stack([other["history"], other["target"]], 1), found, strict=True
            ):
                real = own[0] > 0
                window = list(zip(*own[:, real].tolist(), strict=True))
                whole = [(log.item[line.events[a].item], log.item[line.events[b].item]) for a, b in pairs]
                assert len(window) == min(length, len(whole))
                starts = range(len(whole) - len(window) + 1)
                assert any(whole[s : s + len(window)] == window for s in starts)


@given(rows, sessions, splits, st.integers(1, 3), st.booleans())
@few
def test_pairs_transitions_and_ratings_equal_the_slow_reference(drawn, session, split, window, by_session):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        shape = SampleShape(
            kind="pairs", window=window, by_session=by_session, booked_weight=2.0, weight=True
        )
        _, batch = log.samples(shape)
        wanted = [(line, *p) for _, line in log.lines for p in slow.pairs(line, window, by_session, 2.0)]
        assert batch["center"].tolist() == [log.items_of(line, [center])[0] for line, center, _, _ in wanted]
        assert batch["context"].tolist() == [log.items_of(line, context) for line, _, context, _ in wanted]
        assert batch["booked"].tolist() == [log.items_of(line, [booked])[0] for line, _, _, booked in wanted]
        assert batch["weight"].tolist() == [line.events[center].weight for line, center, _, _ in wanted]

        _, batch = log.samples(SampleShape(kind="ratings", times=True))
        events = [line.events[p] for _, line in log.lines for p in slow.training_places(line)]
        assert batch["user_idx"].tolist() == [log.user[e.user] for e in events]
        assert batch["item_idx"].tolist() == [log.item[e.item] for e in events]
        assert batch["rating"].tolist() == [e.rating for e in events]
        assert batch["target_at"].tolist() == [e.at for e in events]

        edges = Counter(
            tuple(log.items_of(line, pair)) for _, line in log.lines for pair in slow.transitions(line)
        )
        names = ("item_idx", "role", "session")
        each = [Transitions.of(load_sequences(log.features, [f"sequences/{p}"], names)) for p in log.parts]
        whole = Transitions.of(load_sequences(log.features, [f"sequences/{p}" for p in log.parts], names))
        for found in (whole, Transitions.merge(each[::-1])):
            table = [(int(a), int(b)) for a, b in zip(found.source, found.target, strict=True)]
            assert dict(zip(table, found.count.tolist(), strict=True)) == edges
            assert table == sorted(edges)


@given(
    rows, sessions, splits, st.sampled_from([0, 1, 3]), st.integers(1, 4), st.sampled_from([0, 0, 1, 2, 4, 7])
)
@few
def test_session_and_long_term_equal_the_slow_reference_and_are_disjoint(
    drawn, session, split, last_n, most, reach
):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        own = {**session, "last_n": last_n, "long_term_max": most}
        shape = SampleShape(
            history_length=0, session=SessionConfig(**own), reach=reach, event_features=("act",), times=True,
            long_features=("item", "category", "tags", "event_act"),
        )  # fmt: skip

        def values_of(line):
            item = {place: log.item[event.item] for place, event in enumerate(line.events)}
            return {
                "item": lambda place: [item[place]],
                "category": lambda place: [log.category[item[place]]],
                "tags": lambda place: log.tags[item[place]],
                "event_act": lambda place: log.acts_of(line, [place]),
            }

        def check(batch, histories):
            assert "history" not in batch
            for row, (line, whole) in enumerate(histories):
                seen = slow.within_reach(whole, reach)
                short = slow.short_places(line, seen, own)
                assert [i for i in batch["short"][row].tolist() if i] == log.items_of(line, short)
                assert [i for i in batch["short_act"][row].tolist() if i] == log.acts_of(line, short)
                times = [line.events[p].at for p in short]
                assert [t for t in batch["short_at"][row].tolist() if t] == times
                for name, values in values_of(line).items():
                    long = batch[f"long_{name}"][row].tolist()
                    wanted = slow.long_values(line, seen, own, values)
                    assert long == [0] * (len(long) - len(wanted)) + wanted

        wanted = [(line, place) for _, line in log.lines for place in slow.targets(line)]
        _, batch = log.samples(shape)
        check(batch, [(line, slow.history(line, place)) for line, place in wanted])
        for part in ("valid", "test"):
            asked = []
            for _, line in log.lines:
                places = [p for p, role in enumerate(line.role) if role == part]
                if places:
                    asked.append((line, slow.history(line, places[0], part), line.events[places[0]].at))
            found = [read_queries(log.features, name, part, shape) for name in log.parts]
            batches = [queries.batch(np.arange(len(queries))) for queries in found]
            begin = 0
            for queries, batch in zip(found, batches, strict=True):
                own_part = asked[begin : begin + len(queries)]
                check(batch, [(line, seen) for line, seen, _ in own_part])
                assert batch["target_at"].tolist() == [at for _, _, at in own_part]
                begin += len(queries)
            assert begin == len(asked)


@given(rows, sessions, splits, st.integers(1, 3), st.integers(0, 3), st.booleans())
@few
def test_a_budget_is_exact_fair_to_files_and_another_draw_each_epoch(
    drawn, session, split, budget, epoch, pairs
):
    shape = SampleShape(kind="pairs", by_session=True) if pairs else SampleShape()
    with tempfile.TemporaryDirectory() as folder:
        chosen = {}
        for partitions in (1, 3):
            log = prepared(folder, drawn, session, split, partitions)
            plan = log.plan(shape, samples_per_user=budget, seed=5)
            for part in log.parts:
                samples = read_samples(plan, [part], log.features, epoch)
                kept = drawn_rows(plan, samples, epoch)
                assert len(kept) == plan.parts[part]
                users = [log.users[part][row] for row in samples.owner]
                own = chosen.setdefault(partitions, {})
                for row in kept:
                    own.setdefault(users[row], []).append(int(samples.place[row]))
                for user in set(users):
                    places = [int(p) for p, u in zip(samples.place, users, strict=True) if u == user]
                    seed = derive_seed(5, "samples_per_user", epoch)
                    assert own[user] == slow.drawn(user, places, budget, seed)
            whole = sum(plan.parts.values())
            batches = list(epoch_batches(plan, epoch, log.features, 0, 0, 1))
            assert len(batches) == whole  # batches of one sample: nothing is left over
        assert chosen[1] == chosen[3]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(0, 9),
)
@settings(max_examples=60)
def test_draws_do_not_depend_on_blocks(sizes, budget, block, seed):
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    users = [f"u{row}" for row in range(len(sizes))]
    hashes = hash_text(pa.array(users))
    with mock.patch("raysys.data.budget.BLOCK", block):
        found = draw(owner, place, hashes, budget, seed)
    wanted = []
    begin = 0
    for user, size in zip(users, sizes, strict=True):
        wanted += [begin + number for number in slow.drawn(user, range(size), budget, seed)]
        begin += size
    assert found.tolist() == wanted


@given(rows, sessions, splits)
@few
def test_the_matrix_of_parts_is_that_of_the_whole(drawn, session, split):
    with tempfile.TemporaryDirectory() as folder:
        log = prepared(folder, drawn, session, split)
        names = [f"sequences/{part}" for part in log.parts]
        columns = ("item_idx", "role", "at", "weight")
        whole = Entries.of(load_sequences(log.features, names, columns, (), True), "weight")
        parts = [read_entries(log.features, part, "weight") for part in log.parts]
        merged = Entries.merge([parts[-1], *parts[:-1]])
        events = [line.events[p] for _, line in log.lines for p in slow.training_places(line)]
        cells = slow.cells(events)
        wanted = {(log.user[user], log.item[item]): cell for (user, item), cell in cells.items()}
        for entries in (whole, merged):
            keys = list(zip(entries.user_idx.tolist(), entries.item_idx.tolist(), strict=True))
            values = zip(entries.weight.tolist(), entries.count.tolist(), entries.at.tolist(), strict=True)
            assert dict(zip(keys, values, strict=True)) == wanted
            assert keys == sorted(wanted)
        matrix = Interactions.build(merged, log.info["users"] + 2, log.info["items"] + 2)
        for rows_, turned in ((matrix.by_user, False), (matrix.by_item, True)):
            found = {}
            for row in range(len(rows_)):
                _, cells_ = rows_.positions(np.array([row]))
                assert np.all(np.diff(rows_.columns[cells_]) > 0)
                for cell in cells_:
                    key = (int(rows_.columns[cell]), row) if turned else (row, int(rows_.columns[cell]))
                    found[key] = (float(rows_.weight[cell]), int(rows_.count[cell]), int(rows_.at[cell]))
            assert found == wanted
        assert (len(matrix.by_user), len(matrix.by_item)) == (log.info["users"] + 2, log.info["items"] + 2)
        _, every = matrix.by_user.positions(np.arange(len(matrix.by_user)))
        assert every.tolist() == list(range(len(wanted)))
