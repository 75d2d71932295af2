"""Batches of every shape through Ray Data: to the bit those that are cut from the files."""

import numpy as np
import pytest

from raysys.data.budget import part_samples
from raysys.data.epochs import EpochPlan, epoch_batches
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.distributed.datasets import prepare
from raysys.distributed.feed import ray_data_batches
from raysys.manifest import read_manifest
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

SHAPES = {
    "next_item": SampleShape(history_length=8),
    "next_items": SampleShape(history_length=8, next_items=3, example_age=True, times=True, user_idx=True),
    "sets": SampleShape(history_length=0, session=SessionConfig(last_n=2), long_features=("item",)),
    "sequence": SampleShape(kind="sequence", history_length=5, windows="random", times=True),
    "pairs": SampleShape(kind="pairs", window=2),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory, ray_cluster):
    folder = planted_log(tmp_path_factory.mktemp("planted"))
    return prepare(load_run(str(run_file(folder))), Folder(folder))


@pytest.mark.parametrize(("name", "budget"), [*((name, 0) for name in SHAPES), ("next_item", 2)])
def test_batches_through_ray_data_are_those_of_the_files(features, name, budget):
    info, shape = read_manifest(features, "features", "prepare").info, SHAPES[name]
    plan = EpochPlan(
        parts=part_samples(features, info, shape, budget),
        events=info["part_events"],
        batch_size=32,
        seed=3,
        shuffle_events=max(info["part_events"].values()) * 2,
        shape=shape,
        samples_per_user=budget,
        newest_at=info["newest_train_at"],
    )
    first = min(3, plan.steps(1) - 1)
    wanted = list(epoch_batches(plan, 1, features, first, 1, 2))
    found = list(ray_data_batches(plan, 1, features, first, 1, 2))
    assert [step for step, _ in found] == [step for step, _ in wanted] != []
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert list(ours) == list(theirs)
        for column, values in theirs.items():
            assert ours[column].dtype == values.dtype
            assert ours[column].flags.writeable  # torch shares the memory
            np.testing.assert_array_equal(ours[column], values)
