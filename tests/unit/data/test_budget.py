"""Budgets: counts per user, and draws that are fair."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.budget import (
    BLOCK,
    SAMPLE_COUNTS,
    count_samples,
    draw,
    num_samples,
    part_samples,
    sample_counts_table,
)
from raysys.data.hashing import hash_text
from raysys.data.parquet import write_table
from raysys.data.shapes import SampleShape
from raysys.storage import Folder

COUNTS = {"target": {"1": 2, "4": 1}, "event": {"1": 3, "2": 2, "5": 1}, "session_event": {"2": 1}}


def test_counts_of_users_by_hand():
    offsets = np.array([0, 4, 5, 5, 8])
    session = np.array([0, 0, 1, 1, 0, 0, 0, 1])
    train = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
    has_history = np.array([0, 1, 1, 1, 0, 0, 1, 1], bool)
    assert count_samples(offsets, session, train, has_history) == {
        "target": {"2": 2},  # two users with two each
        "event": {"1": 1, "3": 2},
        "session_event": {"2": 2},  # the third event of each user is alone in its session
    }


@pytest.mark.parametrize(
    ("shape", "budget", "expected"),
    [
        (SampleShape(), 0, 6),
        (SampleShape(), 3, 5),
        (SampleShape(), 1, 3),
        (SampleShape(kind="sequence"), 1, 3),
        (SampleShape(kind="ratings"), 0, 12),
        (SampleShape(kind="ratings"), 2, 9),
        (SampleShape(kind="pairs"), 0, 9),
        (SampleShape(kind="pairs"), 3, 7),
        (SampleShape(kind="pairs", by_session=True), 0, 2),
    ],
)
def test_samples_of_an_epoch_by_hand(shape, budget, expected, tmp_path):
    assert num_samples(COUNTS, shape, budget) == expected
    features = Folder(tmp_path)
    write_table(features, SAMPLE_COUNTS, sample_counts_table({"a": COUNTS, "b": {}}))
    found = part_samples(features, {"part_samples": {"a": 6, "b": 0}}, shape, budget)
    assert found == {"a": expected, "b": 0}


def test_every_sample_of_a_user_is_equally_likely():
    """2000 draws of 3 out of 10; each is in 600 of them, standard deviation 20.5; 5 of these are allowed."""
    owner, place = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    hashes = hash_text(pa.array(["a", "b"]))
    times = np.zeros((2, 10), dtype=int)
    together = 0
    for seed in range(2000):
        rows = draw(owner, place, hashes, 3, seed)
        assert len(rows) == 6
        times[owner[rows], place[rows]] += 1
        together += set(place[rows[:3]]) == set(place[rows[3:]])
    assert abs(times - 600).max() < 5 * 20.5
    assert together < 50  # one in 120 by chance, 17 in 2000: users are drawn apart


def test_one_user_with_very_many_samples_among_others():
    sizes = np.array([2, 3 * BLOCK + 5, 1, 7])
    owner = np.repeat(np.arange(4), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    hashes = hash_text(pa.array(["a", "b", "c", "d"]))
    rows = draw(owner, place, hashes, 5, 1)
    assert np.bincount(owner[rows]).tolist() == [2, 5, 1, 5]
    assert np.all(np.diff(rows) > 0)
    alone = draw(owner[2:-8] - 1, place[2:-8], hashes[1:2], 5, 1)
    assert place[2:-8][alone].tolist() == place[rows[2:7]].tolist()
