"""Epochs: chunks, steps, and files that are not what the manifest says."""

import hashlib
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.data.epochs import EpochPlan, ahead, chunk_batches, epoch_batches, read_samples
from raysys.data.history import load_item_columns
from raysys.data.shapes import SampleShape
from raysys.errors import DataError
from raysys.storage import Folder


def write(folder, users_per_part, length=5):
    """Each part holds users of `length` events; every item is another one."""
    parts = Folder(folder)
    item = 2
    counts = {}
    for part, users in enumerate(users_per_part):
        name = f"part-{part:05d}.parquet"
        lists = [list(range(item + n * length, item + (n + 1) * length)) for n in range(users)]
        item += users * length
        table = pa.table(
            {
                "user_id": [f"{part}/{n}" for n in range(users)],
                "item_idx": pa.array(lists, pa.list_(pa.int32())),
                "cut": pa.array([list(range(length))] * users, pa.list_(pa.int32())),
                "role": pa.array([[0] * length] * users, pa.list_(pa.int8())),
            }
        )
        with parts.open_output(f"sequences/{name}") as file:
            pq.write_table(table, file)
        counts[name] = users * length
    return counts


def plan_of(events, **changes):
    values = {
        "parts": {name: count // 5 * 4 for name, count in events.items()},
        "events": events,
        "batch_size": 8,
        "seed": 0,
        "shuffle_events": 100,
        "shape": SampleShape(history_length=3),
        **changes,
    }
    return EpochPlan(**values)


def test_chunks_hold_every_file_once_and_stay_below_the_limit(tmp_path):
    events = write(tmp_path, [4, 4, 4, 4, 4, 30, 4])
    plan = plan_of(events, shuffle_events=45)
    for epoch in range(4):
        chunks = plan.chunks(epoch)
        assert sorted(name for chunk in chunks for name in chunk.parts) == sorted(events)
        for chunk in chunks:
            held = sum(events[name] for name in chunk.parts)
            assert held <= 45 or len(chunk.parts) == 1  # a large file is a chunk of its own
            assert chunk.stop - chunk.start == sum(plan.parts[name] for name in chunk.parts) // 8
        assert [chunk.start for chunk in chunks[1:]] == [chunk.stop for chunk in chunks[:-1]]
        assert plan.steps(epoch) == chunks[-1].stop
    assert len({tuple(chunk.parts for chunk in plan.chunks(epoch)) for epoch in range(4)}) > 1


def test_the_order_of_the_manifests_table_does_not_matter(tmp_path):
    events = write(tmp_path, [4, 4, 4])
    turned = dict(reversed(events.items()))
    assert plan_of(events).chunks(1) == plan_of(turned).chunks(1)


def test_batches_are_full_and_histories_short(tmp_path):
    events = write(tmp_path, [4, 4])
    batches = list(epoch_batches(plan_of(events), 0, Folder(tmp_path), 0, rank=1, world=2))
    assert [step for step, _ in batches] == [0, 1, 2, 3]
    for _, batch in batches:
        assert batch["target"].shape == (4,)
        assert batch["history"].shape[1] <= 3
        last = batch["history"][:, -1]
        assert np.array_equal(last, batch["target"] - 1)  # the item right before the target


def test_every_sample_comes_once_where_batches_fit(tmp_path):
    events = write(tmp_path, [4, 4])
    batches = epoch_batches(plan_of(events), 2, Folder(tmp_path), 0, 0, 1)
    targets = sorted(target for _, batch in batches for target in batch["target"].tolist())
    samples = read_samples(plan_of(events), sorted(events), Folder(tmp_path), 2)
    assert targets == sorted(samples.target.tolist())
    assert len(set(targets)) == 32


def test_resuming_reads_no_chunk_that_is_over(tmp_path):
    events = write(tmp_path, [4, 4, 4])
    plan = plan_of(events, shuffle_events=20)
    first, second, third = plan.chunks(0)
    for name in first.parts + second.parts:
        (tmp_path / "sequences" / name).unlink()
    steps = [step for step, _ in epoch_batches(plan, 0, Folder(tmp_path), second.stop, 0, 1)]
    assert steps == list(range(third.start, third.stop))
    assert list(epoch_batches(plan, 0, Folder(tmp_path), third.stop, 0, 1)) == []


def test_too_few_samples_for_one_batch(tmp_path):
    plan = plan_of(write(tmp_path, [1]))
    with pytest.raises(
        DataError, match=r"4 training samples do not fill one batch of 8; lower training\.batch_size"
    ):
        plan.steps(0)


def test_files_with_another_number_of_samples_than_the_manifest_says(tmp_path):
    events = write(tmp_path, [4])
    plan = plan_of(events, parts=dict.fromkeys(events, 99))
    with pytest.raises(
        DataError, match=r"16 training samples in 1 sequence files, the manifest says 99; run jobs/pre"
    ):
        next(chunk_batches(plan, plan.chunks(0)[0], Folder(tmp_path), 0, 0, 1))


def test_the_seeded_order_and_content_of_next_item_batches_have_not_changed(tmp_path):
    """The digest was taken before samples had shapes; a refactoring must leave the loss curve as it is."""
    plan = plan_of(write(tmp_path, [4, 7, 5, 1, 9]), shuffle_events=60, seed=7)
    digest = hashlib.sha256()
    for epoch in range(3):
        for step, batch in epoch_batches(plan, epoch, Folder(tmp_path), 0, 1, 2):
            columns = [(name, values.tolist(), str(values.dtype)) for name, values in batch.items()]
            digest.update(repr((step, columns)).encode())
    assert digest.hexdigest() == "0298762e223808b57adbd153d61119af0b3a0b652d1a1d761ffcadcb285c926a"


def test_a_budget_bounds_every_user_and_draws_anew(tmp_path):
    events = write(tmp_path, [4, 4])
    parts = dict.fromkeys(events, 8)  # four users with four samples each, two of which are drawn
    plan = plan_of(events, parts=parts, samples_per_user=2)
    targets = []
    for epoch in range(3):
        batches = list(epoch_batches(plan, epoch, Folder(tmp_path), 0, 0, 1))
        targets.append(sorted(t for _, batch in batches for t in batch["target"].tolist()))
        users = [(target - 2) // 5 for target in targets[-1]]  # items are numbered user after user
        assert {users.count(user) for user in range(8)} == {2}
        resumed = list(epoch_batches(plan, epoch, Folder(tmp_path), 1, 0, 1))
        assert [batch["target"].tolist() for _, batch in resumed] == [
            batch["target"].tolist() for _, batch in batches[1:]
        ]
    assert len({tuple(own) for own in targets}) == 3


def test_a_column_that_the_files_do_not_have(tmp_path):
    plan = plan_of(write(tmp_path, [4]), shape=SampleShape(kind="ratings"))
    with pytest.raises(
        DataError, match="no column user_idx, rating, which the model's samples need; name it"
    ):
        next(chunk_batches(plan, plan.chunks(0)[0], Folder(tmp_path), 0, 0, 1))


def test_a_long_term_feature_that_the_items_do_not_have_or_that_is_a_number(tmp_path):
    folder = Folder(tmp_path)
    table = pa.table({"item_idx": [0, 1], "price": [0.5, 1.5]})
    with folder.open_output("items.parquet") as file:
        pq.write_table(table, file)
    with pytest.raises(DataError, match="no feature brand, which the model's long-term sets need"):
        load_item_columns(folder, ["brand"])
    with pytest.raises(DataError, match="price: numbers have no sets of distinct values"):
        load_item_columns(folder, ["price"])
    assert load_item_columns(folder, []) == {}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_items_made_ahead_are_the_items_in_order(count, depth):
    assert list(ahead(iter(range(count)), depth)) == list(range(count))


def test_an_error_of_an_item_made_ahead_comes_at_its_place():
    def items():
        yield from range(3)
        raise DataError("the fourth")

    made = ahead(items())
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="the fourth"):
        next(made)


def test_no_more_than_the_depth_is_made_ahead_and_nothing_goes_on_after_the_end():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    taken = ahead(items(), depth=2)
    assert next(taken) == 0
    taken.close()
    assert made == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
