"""Arithmetic of a plan by hand-worked figures, what it suggests, and what it says of runs that do not fit."""

import json
from dataclasses import replace

import pytest

from raysys.errors import ConfigError
from raysys.planning import stages
from raysys.planning.machine import Machine, described, this_machine
from raysys.planning.page import page, seconds, size
from raysys.planning.parameters import ModelSize, Parameter
from raysys.planning.plan import Inputs, make_plan
from raysys.planning.sizes import Sizes, stored_bytes
from raysys.planning.training import Probed, score_bytes, training_time, worker_memory
from tests.reference.line import run_of

GB = 10**9
SIZES = Sizes(
    source="a test", is_exact=True, rows=2_000_000, events=1_000_000, users=10_000, items=998,
    train_events=900_000, samples=800_000, queries=5_000, parts=4, largest_part=250_000,
    event_bytes=10, item_bytes=20, user_bytes=30,
)  # fmt: skip
MODEL = ModelSize(
    (Parameter("items.item", (1000, 64), 4, True), Parameter("layers.weight", (64, 64), 4, False)), 100
)
PARAMETERS = 4 * (1000 * 64 + 64 * 64)
PROBED = Probed(
    samples_per_s=1000, step_s=1.0, load_s=1e-6, start_bytes=300, data_bytes=50.0, data_peak_bytes=80.0,
    step_bytes=PARAMETERS + 1000, valid_s=2.0, valid_user_s=0.01,
)  # fmt: skip
MACHINE = Machine(name="a test", cpus=4, memory=64 * GB)


def run(**sections):
    training = {"batch_size": 1000, "epochs": 3, **sections.pop("training", {})}
    return run_of(
        "none.parquet", model={"name": "mind", **sections.pop("model", {})}, training=training, **sections
    )


def inputs(machine=MACHINE, probed=None, sizes=SIZES, model=MODEL, **sections):
    return Inputs(
        run=run(**sections),
        machine=machine,
        sizes=sizes,
        model=model,
        chunk_events=500_000,
        probed=probed or {},
    )


def test_memory_of_a_worker_by_hand():
    found = worker_memory(run(), MODEL, SIZES, 500_000, 1, {1: PROBED})
    assert (found.parameters, found.gradients) == (PARAMETERS, PARAMETERS)
    assert found.optimizer == 2 * PARAMETERS + 4 * 2  # and the numbers of two parameters' steps
    assert found.buffers == 100 + 8 * 1000  # and the sampler's cumulative probabilities, float64
    assert (found.data, found.data_peak) == (25_000_000, 40_000_000)
    assert found.validation == 2 * 4 * 1000 * 64 + 2 * 8 * 1000
    model = 4 * PARAMETERS + 8 + 8100
    assert found.host == found.start + model + 40_000_000  # to read the next chunk takes more than a step
    large = worker_memory(run(), MODEL, SIZES, 1000, 1, {1: PROBED})
    assert large.host == large.start + model + 50_000 + max(
        PARAMETERS + 1000, large.checkpoint, large.validation
    )


def test_temporaries_of_tables_do_not_shrink_with_the_share_of_a_batch():
    four = worker_memory(run(), MODEL, SIZES, 1000, 4, {1: PROBED})
    assert four.step == PARAMETERS + 250


def test_on_a_gpu_the_data_stay_on_the_node():
    settings = {"cluster": {"use_gpu": True, "workers": 1}}
    found = worker_memory(run(**settings), MODEL, SIZES, 1000, 1, {1: PROBED})
    assert found.gpu == found.model + found.step
    assert found.host == found.start + max(found.data + found.validation + found.checkpoint, found.data_peak)


@pytest.mark.parametrize(
    ("loss", "model", "candidates"),
    [
        ("full_softmax", {}, 998),
        ("sampled_softmax", {"num_negatives": 100}, 100),
        ("in_batch", {}, 1000),
        ("mixed", {"num_negatives": 100}, 1100),
        ("sampled_softmax", {"num_negatives": 100, "train_score": "served", "num_interests": 3}, 300),
    ],
)
def test_scores_of_the_loss(loss, model, candidates):
    assert score_bytes(run(training={"loss": loss}, model=model), 998, 2) == 4 * 500 * candidates


def test_time_by_hand():
    probed = {1: PROBED, 2: replace(PROBED, step_s=0.6)}
    one = training_time(run(), MODEL, SIZES, 1, 1, probed)
    # 800 steps of a second, reading, and two checkpoints at 300 MB/s
    epoch = 800 + 1_000_000 * 1e-6 + 2 * (3 * PARAMETERS + 8) / 300e6
    assert one.epoch_s == pytest.approx(epoch, rel=1e-12)
    assert one.samples_per_s == pytest.approx(800_000 / epoch, rel=1e-12)
    assert one.total_s == pytest.approx(3 * (epoch + 2.0 + 5_000 * 0.01), rel=1e-12)
    assert training_time(run(), MODEL, SIZES, 2, 1, probed).is_measured
    eight = training_time(run(), MODEL, SIZES, 8, 4, probed)
    step = 0.6 * 2 / 8 + 2 * PARAMETERS / 1e9
    assert eight.epoch_s - 800 * step == pytest.approx(epoch - 800, rel=1e-6)
    assert not eight.is_measured
    assert training_time(run(), MODEL, SIZES, 2, 1, {}) is None


def test_stored_bytes_are_told_apart():
    files = {"events/a": 1, "sequences/a": 2, "items.parquet": 4, "vocabularies/item.parquet": 8}
    files |= {"vocabularies/user.parquet": 16, "vocabularies/item_genre.parquet": 32, "profile.json": 64}
    assert stored_bytes(files) == {"event_bytes": 67, "item_bytes": 44, "user_bytes": 16}
    assert SIZES.feature_bytes == 60


def test_more_workers_are_suggested_where_they_are_faster():
    slow, fast = replace(PROBED, step_s=0.97), replace(PROBED, step_s=0.4)
    workers = make_plan(inputs(probed={1: PROBED, 4: slow})).suggestions[0]
    assert (workers.key, workers.value) == ("cluster.workers", 1)
    workers = make_plan(inputs(probed={1: PROBED, 4: fast})).suggestions[0]
    assert workers.value == 4
    assert "4: 2,4" in workers.reason  # samples/s of four: 1000 / 0.4, less what reading takes


def test_shards_and_replicas_follow_vectors_and_nodes():
    small = {s.key: s.value for s in make_plan(inputs()).suggestions}
    assert (small["index.shards"], small["index.replicas"]) == (1, 1)
    many = replace(SIZES, items=10_000_000)
    large = make_plan(inputs(replace(MACHINE, nodes=4), sizes=many)).suggestions
    found = {s.key: s.value for s in large}
    assert (found["index.shards"], found["index.replicas"]) == (8, 2)  # half of 16 CPUs; a node may be lost
    tight = make_plan(inputs(replace(MACHINE, memory=4 * GB), sizes=many)).suggestions
    shards = next(s.value for s in tight if s.key == "index.shards")
    # each is loaded from a file of 264 bytes per item, three times there at once, in a quarter of the memory
    assert 3 * 264 * 10_000_000 / shards <= 0.25 * 0.95 * 4 * GB < 3 * 264 * 10_000_000 / shards * 2


def test_a_batch_that_is_too_large_is_made_smaller():
    few = make_plan(inputs(sizes=replace(SIZES, samples=700)))
    batch = next(s for s in few.suggestions if s.key == "training.batch_size")
    assert (batch.value, batch.now) == (512, 1000)
    assert "do not fill one batch" in few.problems[0]
    with pytest.raises(ConfigError, match="the run does not fit: 700 training samples do not fill one batch"):
        few.check()


def test_a_step_that_is_too_large_asks_for_a_smaller_batch_only_where_that_helps():
    def batch(probed, memory):
        machine = replace(MACHINE, memory=memory)
        found = make_plan(inputs(machine, probed={1: probed}, training={"batch_size": 1024})).suggestions
        return next(s for s in found if s.key == "training.batch_size")

    # 3.8 GB are usable, less 150 MB of Ray and 25 MB of data: half of 6 GB fits, a 32nd of 6,000 GB does not
    assert batch(replace(PROBED, step_bytes=6 * GB), 4 * GB).value == 512
    kept = batch(replace(PROBED, step_bytes=6000 * GB), 4 * GB)
    assert (kept.value, kept.now) == (1024, 1024)
    assert "would not make it fit" in kept.reason


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        (
            {"model": ModelSize((Parameter("items.item", (10**8, 64), 4, True),))},
            "set model.embedding_dim = 24",
        ),
        ({"probed": {1: replace(PROBED, data_peak_bytes=200_000.0)}}, "set training.shuffle_events = "),
        ({"probed": {1: replace(PROBED, step_bytes=100 * GB)}}, "smaller training.batch_size"),
    ],
)
def test_what_does_not_fit_is_told_with_figures_and_remedy(changed, remedy):
    plan = make_plan(inputs(**changed))
    assert [line for line in plan.problems if line.startswith("train needs ") and remedy in line]
    assert "60.8 GB are usable" in plan.problems[0]  # 95 % of 64 GB
    with pytest.raises(ConfigError, match=r"^the run does not fit: train needs"):
        plan.check()
    assert "DOES NOT FIT" in page(plan)
    assert not plan.to_table()["fits"]


def test_an_index_that_does_not_fit_asks_for_codes_or_shards():
    plan = make_plan(inputs(sizes=replace(SIZES, items=500_000_000)))
    line = next(line for line in plan.problems if line.startswith("index needs"))
    assert 'index.kind = "IVF1024,PQ16"' in line
    assert "index.shards = 2" in line


def test_memory_that_others_use_and_missing_gpus_are_told():
    busy = make_plan(inputs(replace(MACHINE, free_memory=GB // 2)))
    assert any("0.5 GB are free now" in line for line in busy.warnings)
    assert not busy.problems
    none = make_plan(inputs(cluster={"use_gpu": True, "workers": 2}))
    assert any("wants 2 GPUs, there are 0" in line for line in none.problems)
    crowded = make_plan(inputs(cluster={"workers": 8}))
    assert any("cluster.workers = 8 share 4 CPUs" in line for line in crowded.warnings)
    full = make_plan(replace(inputs(), free_disk=1000))
    assert any("GB of disk" in line for line in full.problems)


def test_memory_of_preparing_grows_with_the_log_and_its_partitions():
    small = stages.preparing(SIZES, MACHINE, GB)
    assert stages.preparing(replace(SIZES, rows=3_000_000), MACHINE, GB) - small == 65 * 1_000_000
    assert stages.preparing(replace(SIZES, largest_part=250_001), MACHINE, GB) - small == 4 * 600


def test_a_counting_model_has_a_matrix_and_no_index():
    table = run_of("none.parquet", model={"name": "item_cf", "num_neighbours": 10})
    probed = {1: Probed(samples_per_s=1e5, data_bytes=0.5, products=100.0, products_per_s=1e7)}
    plan = make_plan(
        Inputs(run=table, machine=MACHINE, sizes=SIZES, model=ModelSize(()), chunk_events=1, probed=probed)
    )
    assert plan.counted["matrix"] == 40 * 450_000 + 8 * (10_000 + 998 + 4)
    assert plan.counted["table"] == 8 * 998 * 11
    assert plan.serving is None
    assert "Counting" in page(plan)
    assert json.loads(json.dumps(plan.to_table()))["index"] is None


def test_the_page_and_the_table_hold_every_section():
    plan = make_plan(inputs(probed={1: PROBED, 4: PROBED}))
    text = page(plan)
    for expected in (
        "table items.item",
        "optimiser",
        "Index",
        "On disk",
        "Memory of a node",
        "Time",
        "Suggested",
    ):
        assert expected in text
    assert text.endswith("The run fits.")
    table = json.loads(json.dumps(plan.to_table()))
    assert table["parameters"][0] == {
        "name": "items.item", "shape": [1000, 64], "element_bytes": 4, "is_table": True, "bytes": 256_000,
    }  # fmt: skip
    assert {"machine", "sizes", "worker", "node_bytes", "disk_bytes", "times", "fits"} <= table.keys()


def test_units():
    assert [size(n) for n in (12, 1500, 2_340_000, 56_000_000_000, 150e9, 2e12)] == [
        "12 B", "1.5 kB", "2.3 MB", "56.0 GB", "150 GB", "2.0 TB",
    ]  # fmt: skip
    assert [seconds(n) for n in (1.25, 150, 9000)] == ["1.2 s", "2 min", "2.5 h"]


def test_machines():
    here = this_machine()
    assert here.cpus >= 1
    assert 0 < here.usable < here.memory
    assert described(here) == here
    other = described(here, nodes=3, cpus=8, memory_gb=1.5, gpus=2, gpu_memory_gb=80.0)
    assert (other.nodes, other.cpus, other.memory, other.gpus) == (3, 8, 1_500_000_000, 2)
    assert other.free_memory == 0
    for flag, value in (("nodes", 0), ("cpus", 0), ("memory_gb", 0.0), ("gpus", -1), ("gpu_memory_gb", -1.0)):
        with pytest.raises(ConfigError, match=f"^--{flag.replace('_', '-')}: found "):
            described(here, **{flag: value})
