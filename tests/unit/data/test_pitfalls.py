"""Mistakes found in how public code makes samples, one test each; beside most stands the careless
computation, which gives another answer on the same log.

    mistake                                                   test_...
    order of the file for order in time                       histories_follow_time_and_not_the_file
    an unstable sort under ties                               ties_keep_the_order_of_the_file
    the oldest items of a long history are kept               a_long_history_keeps_its_newest_items
    the item right before the target is dropped               the_item_right_before_the_target_is_kept
    popularity counts hold test rows                          popularity_is_counted_on_training_events
    log-uniform negatives over ids in no order of popularity  ids_are_numbered_by_popularity
    no validation part                                        validation_is_neither_trained_on_nor_tested
    the target is its own negative                            a_target_is_not_its_own_negative
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raysys.data.history import last_positions, take
from raysys.data.partitions import sort_events
from raysys.nn.losses import sampled_softmax
from tests.reference.line import Outcome, prepare_here, run_of

START = 1_600_000_000
# rows in the order of the file: (user, item, time); user a steps back in time twice
LOG = [
    ("a", "i5", 50), ("a", "i1", 10), ("b", "i1", 5), ("a", "i4", 40), ("a", "i2", 20), ("b", "i2", 6),
    ("a", "i3", 30), ("b", "i3", 7), ("c", "i1", 1), ("c", "i1", 2), ("c", "i2", 3), ("c", "i9", 4),
    ("b", "i8", 8), ("c", "i9", 5), ("d", "i9", 1), ("d", "i7", 2), ("d", "i9", 3),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> Outcome:
    folder = tmp_path_factory.mktemp("log")
    users, items, times = zip(*LOG, strict=True)
    seconds = pa.array([START + time for time in times], pa.int64())
    table = pa.table({"user": users, "item": items, "time": seconds})
    pq.write_table(table, folder / "log.parquet")
    run = run_of(str(folder / "log.parquet"), data={"time_unit": "s", "partitions": 2})
    return Outcome(*prepare_here(run, str(folder / "out")))


def rows_of(user):
    return [row for row in LOG if row[0] == user]


def test_histories_follow_time_and_not_the_file(outcome):
    history, truth, _ = outcome.queries("test")["a"]
    assert history == ["i1", "i2", "i3", "i4"]
    assert truth == {"i5"}
    by_file = [item for _, item, _ in rows_of("a")]
    assert by_file[-1] == "i3"  # the careless target, with i4 and i5 of its future in its history


def test_ties_keep_the_order_of_the_file():
    # more rows than an unstable sort leaves in place by luck
    size = 5000
    table = pa.table(
        {
            "user_id": ["u"] * size,
            "item_id": [str(row) for row in range(size)],
            "time_ns": pa.array([row // 100 for row in range(size)][::-1], pa.int64()),
            "place": pa.array(range(size), pa.int64()),
        }
    )
    found = sort_events(table)
    times = np.asarray(table.column("time_ns"))
    assert found.column("place").to_pylist() == np.argsort(times, kind="stable").tolist()
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(size)))
    assert sort_events(shuffled).equals(found)
    assert np.argsort(times, kind="heapsort").tolist() != np.argsort(times, kind="stable").tolist()


def window(length):
    items = np.arange(10, 70)
    index, real = last_positions(np.array([0]), np.array([60]), length)
    return take(items, index, real)[0].tolist()


def test_a_long_history_keeps_its_newest_items():
    assert window(50) == list(range(20, 70))
    oldest = list(range(10, 60))  # what is left when the tail is cut
    assert window(50) != oldest
    assert window(5) == [65, 66, 67, 68, 69]


def test_the_item_right_before_the_target_is_kept(outcome):
    samples = {user: [] for user in "abcd"}
    for user, history, target in outcome.samples():
        samples[user].append((history, target))
    assert samples["a"] == [(["i1"], "i2"), (["i1", "i2"], "i3")]
    for user in "abcd":
        ordered = [item for _, item, _ in sorted(rows_of(user), key=lambda row: row[2])]
        for history, target in samples[user]:
            assert history == ordered[: len(history)]
            assert ordered[len(history)] == target


def test_popularity_is_counted_on_training_events(outcome):
    counts = dict(zip(outcome.items.ids.to_pylist(), outcome.items.counts.tolist(), strict=True))
    assert counts == {"i1": 4, "i2": 3, "i3": 1, "i4": 0, "i5": 0, "i7": 0, "i8": 0, "i9": 1}
    everything = sum(item == "i9" for _, item, _ in LOG)
    assert everything == 4  # three of them are held out


def test_ids_are_numbered_by_popularity(outcome):
    assert outcome.items.counts.tolist() == sorted(outcome.items.counts.tolist(), reverse=True)
    assert outcome.items.ids.to_pylist()[:2] == ["i1", "i2"]


def test_validation_is_neither_trained_on_nor_tested(outcome):
    trained = {user: [] for user in "abcd"}
    for user, history, target in outcome.samples():
        trained[user] += [*history, target]
    valid, test = outcome.queries("valid"), outcome.queries("test")
    assert valid["a"][1] == {"i4"}
    assert valid["a"][0] == ["i1", "i2", "i3"]
    assert test["a"][0] == ["i1", "i2", "i3", "i4"]
    assert "i4" not in trained["a"]
    assert "i5" not in trained["a"]
    for user in "abcd":
        roles = [event[-1] for event in outcome.lines()[user]]
        assert roles[-2:] == [1, 2]
        assert set(roles[:-2]) <= {0}


def test_a_target_is_not_its_own_negative():
    user, items = torch.tensor([[2.0]]), torch.tensor([[3.0], [1.0]])
    target, negatives, expected = torch.tensor([5]), torch.tensor([5, 6]), torch.zeros(2)
    loss = sampled_softmax(user, items[:1], items, target, negatives, expected, 1.0)
    without = sampled_softmax(user, items[:1], items[1:], target, negatives[1:], expected[1:], 1.0)
    assert loss.item() == pytest.approx(without.item())
    careless = torch.logsumexp(torch.tensor([6.0, 6.0, 2.0]), 0) - 6.0
    assert careless.item() > loss.item() + 0.1
