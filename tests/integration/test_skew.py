"""One user with five sixths of a log and one item with a tenth of it: exact counts, bounded training.

The log is planted, so that every count has a closed form: event n of a user is of the hot item where n is a
multiple of 10, the giant's events are 10 seconds apart and those of the others a day.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import train
from raysys.data.budget import part_samples
from raysys.data.epochs import EpochPlan, epoch_batches
from raysys.data.shapes import SampleShape
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.datasets import prepare
from raysys.run import load_run
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder
from tests.reference.line import prepare_here

pytestmark = pytest.mark.usefixtures("ray_cluster")

GIANT, USERS, EACH = 300_000, 6_000, 10
TOTAL = GIANT + USERS * EACH
HELD_OUT = 2
BUDGET = 50
START = 1_600_000_000
RUN = """
[data]
events = "log/*.parquet"
[data.columns]
user = "user"
item = "item"
time = "time"
[model]
name = "mind"
embedding_dim = 8
hidden_dims = [8]
history_length = 8
num_interests = 2
num_negatives = 10
[training]
epochs = 1
batch_size = 512
learning_rate = 0.01
samples_per_user = 50
[cluster]
workers = 0
object_store_mb = 150
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ray_cluster):
    """Return the folder of a run whose features are prepared from the skewed log, in seven files."""
    folder = tmp_path_factory.mktemp("skew")
    (folder / "log").mkdir()
    user = np.repeat(np.arange(USERS + 1), [GIANT, *[EACH] * USERS])
    number = np.concatenate([np.arange(GIANT), np.tile(np.arange(EACH), USERS)])
    step = np.where(user == 0, 10, 86_400)
    table = pa.table(
        {
            "user": user,
            "item": np.where(number % 10 == 0, 0, 1 + (number + user) % 997),
            "time": START + number * step,
        }
    ).take(pa.array(np.random.default_rng(0).permutation(TOTAL)))
    for file, rows in enumerate(np.array_split(np.arange(TOTAL), 7)):
        pq.write_table(table.slice(rows[0], len(rows)), folder / "log" / f"{file}.parquet")
    (folder / "run.toml").write_text(RUN)
    prepare(load_run(str(folder / "run.toml")), Folder(folder / "out"))
    return folder


def info_of(folder):
    return Folder(folder / "out" / "features").read_json("manifest.json")["info"]


def test_every_count_is_the_planted_one(prepared):
    info = info_of(prepared)
    train_events = TOTAL - HELD_OUT * (USERS + 1)
    expected = {
        "rows": TOTAL,
        "rejected": {},
        "dropped": {},
        "events": TOTAL,
        "users": USERS + 1,
        "items": 998,
        "sessions": GIANT // 50 + USERS * EACH,
        "train_events": train_events,
        "samples": train_events - (USERS + 1),
        "queries": {"valid": USERS + 1, "test": USERS + 1},
    }
    assert {name: info[name] for name in expected} == expected
    features = Folder(prepared / "out" / "features")
    items = Vocabulary.load(features / "vocabularies", "item")
    assert dict(zip(items.ids.to_pylist(), items.counts.tolist(), strict=True))["0"] == TOTAL // 10
    profile = features.read_json("profile.json")
    assert profile["concentration"]["busiest_user_share"] == round(GIANT / TOTAL, 6)
    assert profile["concentration"]["busiest_item_share"] == 0.1
    assert profile["events_per_user"]["max"] == GIANT
    assert profile["sessions_per_user"]["max"] == GIANT // 50
    assert "placeholder_user" in [mistake["code"] for mistake in profile["likely_mistakes"]]


def test_ray_writes_the_bytes_that_one_process_writes(prepared, tmp_path):
    there = prepared / "out" / "features"
    features, info = prepare_here(load_run(str(prepared / "run.toml")), tmp_path)
    assert info == info_of(prepared)
    for part in info["part_events"]:
        ours, theirs = (there / "sequences" / part).read_bytes(), features.read_bytes(f"sequences/{part}")
        assert ours == theirs, part


def test_a_budget_bounds_what_the_giant_adds_to_an_epoch(prepared):
    features, info = Folder(prepared / "out" / "features"), info_of(prepared)
    shape = SampleShape(history_length=8, times=True, user_idx=True)
    plan = EpochPlan(
        parts=part_samples(features, info, shape, BUDGET),
        events=info["part_events"],
        batch_size=50,  # divides the samples, and all files are one chunk: none is left over
        seed=3,
        shuffle_events=TOTAL,
        shape=shape,
        samples_per_user=BUDGET,
        newest_at=info["newest_train_at"],
    )
    assert sum(plan.parts.values()) == BUDGET + USERS * (EACH - HELD_OUT - 1)
    users = Vocabulary.load(features / "vocabularies", "user")
    giant = NUM_RESERVED + users.ids.to_pylist().index("0")
    drawn = []
    for epoch in (0, 1):
        batches = [batch for _, batch in epoch_batches(plan, epoch, features, 0, 0, 1)]
        assert len(batches) == plan.steps(epoch)
        own = np.concatenate([batch["user_idx"] for batch in batches]) == giant
        target_at = np.concatenate([batch["target_at"] for batch in batches])[own]
        number = (target_at - START) // 10
        assert len(number) == len(set(number.tolist())) == BUDGET
        assert 0 < number.min() <= number.max() < GIANT - HELD_OUT
        latest = np.concatenate([batch["history_at"][:, -1] for batch in batches])[own]
        np.testing.assert_array_equal(latest, target_at - 10)
        drawn.append(set(number.tolist()))
    assert len(drawn[0] & drawn[1]) <= 2  # 50 of 300,000 twice


def test_an_epoch_of_a_small_model_runs_through(prepared):
    arguments = ["--run", str(prepared / "run.toml"), "--out", str(prepared / "out"), "--address", "local"]
    assert train.main(arguments) == 0
    state = Folder(prepared / "out" / "checkpoint").read_json("state.json")
    assert state["global_step"] == (BUDGET + USERS * (EACH - HELD_OUT - 1)) // 512
