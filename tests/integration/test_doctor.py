"""The doctor on finished runs: it finds nothing on clean ones, and each check finds the fault planted for it.

Every fault is planted in the files of a run, or in the code that the check is about; the oracle is the plant.
"""

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import doctor, evaluate, index, pipeline
from raysys.data import samples, short_long
from raysys.data.history import last_positions
from raysys.data.interactions import Entries
from raysys.distributed.checkpoints import catalog_of, from_bytes, to_bytes
from raysys.distributed.doctor import examine
from raysys.evaluation.doctor.check import ORDER
from raysys.manifest import read_manifest
from raysys.models import build_model
from raysys.models import sdm as sdm_model
from raysys.models.mind import Mind
from raysys.nn import losses
from raysys.nn.negatives import NegativeSampler
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.line import prepare_here
from tests.reference.logs import planted_log, run_file

SDM = """name = "sdm"
embedding_dim = 16
num_heads = 2
num_negatives = 20
history_length = 9
long_features = ["item", "group"]
next_items = 2"""
TRAINING = "epochs = 8\nbatch_size = 64\nlearning_rate = 0.01\nseed = 3"


def finish(folder, **sections):
    """Return a finished run as (run file, output folder)."""
    path = run_file(planted_log(folder), training=TRAINING, **sections)
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    return path, folder / "out"


@pytest.fixture(scope="session")
def mind(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_mind"))


@pytest.fixture(scope="session")
def sdm(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_sdm"), model=SDM, session="last_n = 3")


@pytest.fixture(scope="session")
def item_cf(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_item_cf"), model='name = "item_cf"\nhistory_length = 6')


@pytest.fixture
def broken(mind, tmp_path):
    """A copy of the run, to plant a fault in."""
    return copied(mind, tmp_path)


def copied(run, tmp_path):
    path, out = run
    shutil.copytree(out, tmp_path / "out")
    return path, tmp_path / "out"


def checks_of(run, *overrides):
    """Return name -> check of an examined run."""
    path, out = run
    return {check.name: check for check in examine(load_run(str(path), overrides), Folder(out)).checks}


def rewrite(out: Path, name: str, change) -> None:
    """Replace a Parquet file of a stage by what `change` makes of its table."""
    table = change(pq.read_table(out / name))
    pq.write_table(table, out / name)
    sign(out / name.split("/")[0])


def sign(stage: Path) -> None:
    """Write the sizes of the files into the manifest, so that the stage counts as intact."""
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest["files"] = {name: (stage / name).stat().st_size for name in manifest["files"]}
    (stage / "manifest.json").write_text(json.dumps(manifest))


def each_sequence(out: Path, change) -> None:
    for part in sorted((out / "features" / "sequences").iterdir()):
        rewrite(out, f"features/sequences/{part.name}", change)


def with_lists(table: pa.Table, name: str, change) -> pa.Table:
    """Return the table with `change(row)` in place of a column of lists."""
    place = table.schema.get_field_index(name)
    values = [change(row) for row in table.to_pylist()]
    return table.set_column(
        place, table.schema.field(place), pa.array(values, table.schema.field(place).type)
    )


def with_vectors(table: pa.Table, change) -> pa.Table:
    place = table.schema.get_field_index("vector")
    values = change(np.array(table.column("vector").to_pylist(), np.float32))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return table.set_column(place, "vector", flat)


def edit_weights(out: Path, change) -> None:
    weights = from_bytes((out / "checkpoint" / "weights.pt").read_bytes())
    change(weights)
    (out / "checkpoint" / "weights.pt").write_bytes(to_bytes(weights))
    sign(out / "checkpoint")


@pytest.mark.parametrize("name", ["mind", "sdm", "item_cf"])
def test_a_clean_run_has_no_fault_and_every_check_has_its_line(name, request, capsys):
    path, out = request.getfixturevalue(name)
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    table = Folder(out).read_json("doctor.json")
    assert [check["name"] for check in table["checks"]] == list(ORDER)
    states = {check["name"]: check["state"] for check in table["checks"]}
    assert "fault" not in states.values()
    lines = [line for line in shown if line.startswith(("ok  ", "warning  ", "fault  ", "not checked  "))]
    assert [line[13:].split()[0] for line in lines] == list(ORDER)
    assert shown[-1].startswith(f"{len(ORDER)} checks: ")
    always = {
        "stages_fit",
        "stored_order",
        "held_out_events",
        "future_items",
        "history_truncation",
        "reserved_items",
    }
    assert {states[check] for check in always} == {"ok"}
    of_vectors = [
        "accidental_hits", "sampler_order", "logq_correction", "exported_vectors", "training_similarity",
        "index_order", "same_user_same_vectors", "vectors_find_targets",
    ]  # fmt: skip
    assert {states[check] for check in of_vectors} == {"not checked" if name == "item_cf" else "ok"}
    assert states["short_long_apart"] == ("ok" if name == "sdm" else "not checked")
    assert states["training_matrix"] == ("ok" if name == "item_cf" else "not checked")
    assert states["saturated_gate"] == ("ok" if name == "sdm" else "not checked")


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


def padding_first(table):
    first = table.slice(0, 1).set_column(1, "item_idx", pa.array([0], pa.int32()))
    return pa.concat_tables([first, table])


def unknown_lists(table):
    ids = table.column("item_id").to_pylist()
    return table.set_column(2, "item_id", pa.array([None, "nothing", *ids[2:]], pa.string()))


def padded_neighbours(table):
    return with_lists(table, "neighbour_idx", lambda row: [0, *row["neighbour_idx"][1:]])


def with_padding_targets(table):
    return with_lists(table, "item_idx", lambda row: [*row["item_idx"][:-1], 0])


@pytest.mark.parametrize(
    ("run", "name", "place", "change", "wrong"),
    [
        ("mind", "vectors/items.parquet", "vectors/items.parquet", padding_first, 1),
        (
            "mind",
            "evaluation/recommendations.parquet",
            "evaluation/recommendations.parquet",
            unknown_lists,
            2,
        ),
        ("item_cf", "table/items.parquet", "table/items.parquet", padded_neighbours, 60),
    ],
)
def test_padding_in_what_holds_items_is_found(request, tmp_path, run, name, place, change, wrong):
    path, out = copied(request.getfixturevalue(run), tmp_path)
    rewrite(out, name, change)
    check = checks_of((path, out))["reserved_items"]
    assert check.state == "fault"
    assert check.figures[place] == wrong
    assert f"make {name} again" in check.remedy


def test_padding_in_targets_is_found(broken):
    _, out = broken
    each_sequence(out, with_padding_targets)
    found = checks_of(broken)
    check = found["reserved_items"]
    assert check.state == "fault"
    assert check.figures["features/sequences"] == 120
    assert check.figures["test targets"] == found["stored_order"].figures["users"]


def test_padding_among_negatives_is_found(mind):
    def draw(self, step):
        item_idx, expected = own(self, step)
        return np.where(np.arange(len(item_idx)) == 0, 0, item_idx), expected

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", draw):
        check = checks_of(mind)["reserved_items"]
    assert check.state == "fault"
    assert check.figures["negatives"] > 0


LOSSES = ("sampled_softmax", "mixed", "in_batch", "gbce", "bpr", "full_softmax")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("score", ["label_aware", "served"])
def test_no_loss_is_under_false_suspicion(mind, tmp_path, loss, score):
    """Weights of another loss: what a loss scores and leaves out does not depend on them."""
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    text = text.replace('loss = "sampled_softmax"', f'loss = "{loss}"')
    text = text.replace("temperature = 1.0", "temperature = 0.5").replace("label_aware", score)
    (out / "checkpoint" / "run.toml").write_text(text)
    sign(out / "checkpoint")
    found = checks_of((path, out))
    untold = loss == "full_softmax" or (loss == "gbce" and score == "label_aware")
    assert found["accidental_hits"].state == ("not checked" if loss == "full_softmax" else "ok")
    no_single = untold and score == "label_aware"
    assert found["training_similarity"].state == ("not checked" if no_single else "ok")
    corrects = loss in ("sampled_softmax", "mixed")
    assert found["logq_correction"].state == ("ok" if corrects else "not checked")


@pytest.mark.parametrize("loss", ["sampled_softmax", "in_batch", "mixed"])
def test_a_loss_without_its_mask_is_found(mind, tmp_path, loss):
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    (out / "checkpoint" / "run.toml").write_text(text.replace('"sampled_softmax"', f'"{loss}"'))
    sign(out / "checkpoint")

    def unmasked(positive, scores, less, accidental, hardness):
        return own(positive, scores, less, torch.zeros_like(accidental), hardness)

    own = losses._softmax_losses
    with mock.patch.object(losses, "_softmax_losses", unmasked):
        check = checks_of((path, out))["accidental_hits"]
    assert check.state == "fault"
    assert check.figures["hits"] > 0
    assert "losses.py" in check.remedy


def test_accidental_hits_are_as_many_as_the_sampler_makes_expect(mind):
    figures = checks_of(mind)["accidental_hits"].figures
    # a Poisson count within six of its standard deviations
    assert abs(figures["hits"] - figures["expected_hits"]) < 6 * figures["expected_hits"] ** 0.5


@pytest.mark.parametrize("sampler", ["uniform", "log_uniform", "popularity"])
def test_no_sampler_is_under_false_suspicion_and_one_by_id_is(mind, tmp_path, sampler):
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    text = text.replace('sampler = "popularity"', f'sampler = "{sampler}"')
    (out / "checkpoint" / "run.toml").write_text(text)
    sign(out / "checkpoint")
    found = checks_of((path, out))
    assert found["sampler_order"].state == found["logq_correction"].state == "ok"
    if sampler != "log_uniform":
        return

    def by_id(self, step):
        item_idx, expected = own(self, step)
        return self.num_candidates + 3 - item_idx, expected

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", by_id):
        found = checks_of((path, out))
    assert found["sampler_order"].state == "fault"
    assert found["sampler_order"].figures["rank_correlation"] < 0
    assert found["logq_correction"].state == "ok"


def test_a_correction_that_is_not_what_was_drawn_is_found(mind):
    def uncorrected(self, step):
        item_idx, expected = own(self, step)
        return item_idx, np.zeros_like(expected)

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", uncorrected):
        found = checks_of(mind)
    assert found["logq_correction"].state == "fault"
    assert found["sampler_order"].state == "ok"


def test_a_correction_with_the_wrong_sign_is_found(mind):
    def turned(positive, scores, less, accidental, hardness):
        return own(positive, scores, None if less is None else -less, accidental, hardness)

    own = losses._softmax_losses
    with mock.patch.object(losses, "_softmax_losses", turned):
        check = checks_of(mind)["logq_correction"]
    assert check.state == "fault"
    assert check.figures["shift"] == pytest.approx(-1.0, abs=1e-3)


def unit_length(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_of_length_one_for_a_model_of_inner_products_are_found(broken):
    _, out = broken
    rewrite(out, "vectors/items.parquet", lambda table: with_vectors(table, unit_length))
    found = checks_of(broken)
    assert found["exported_vectors"].state == "fault"
    assert found["exported_vectors"].figures["differ"] == 60
    assert found["training_similarity"].state == "fault"
    assert "model.normalize" in found["training_similarity"].remedy


def test_an_index_that_compares_otherwise_than_the_loss_is_found(broken):
    path, out = broken
    flags = ["--run", str(path), "--out", str(out)]
    assert index.main([*flags, "--set", 'index.metric="cosine"']) == 0
    check = checks_of(broken)["index_order"]
    assert check.state == "fault"
    assert 'index.metric = "model"' in check.remedy


def test_a_damaged_shard_is_found(broken):
    _, out = broken
    shard = out / "index" / "shard-00001.faiss"
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.write_bytes(data)
    check = checks_of(broken)["index_order"]
    assert check.state == "fault"
    assert "jobs/index.py" in check.remedy


def test_a_model_that_gives_no_numbers_is_found(broken):
    _, out = broken
    edit_weights(
        out,
        lambda weights: [value.fill_(float("nan")) for name, value in weights.items() if "layers" in name],
    )
    found = checks_of(broken)
    assert found["same_user_same_vectors"].state == "fault"
    assert found["vectors_find_targets"].state == "fault"
    assert found["index_order"].state == "not checked"


def test_an_approximate_index_is_no_fault(broken):
    path, out = broken
    assert index.main(["--run", str(path), "--out", str(out), "--set", 'index.kind="HNSW8"']) == 0
    assert checks_of(broken, 'index.kind="HNSW8"')["index_order"].state in ("ok", "warning")


def test_vectors_that_depend_on_the_batch_are_found(mind):
    def shared(self, batch):
        vectors, active = own(self, batch)
        return vectors + vectors.mean(0, keepdim=True), active

    def drawn(self, batch):
        vectors, active = own(self, batch)
        return vectors + torch.randn_like(vectors), active

    own = Mind.encode_users
    for encode, way in ((shared, "alone"), (drawn, "asked_twice")):
        with mock.patch.object(Mind, "encode_users", encode):
            check = checks_of(mind)["same_user_same_vectors"]
        assert check.state == "fault"
        assert check.figures[way] > 1e-2


def test_padding_that_takes_part_is_found(sdm):
    def unmasked(query, vectors, mask):
        return own(query, vectors, torch.ones_like(mask))

    own = sdm_model.attend
    with mock.patch.object(sdm_model, "attend", unmasked):
        check = checks_of(sdm)["same_user_same_vectors"]
    assert check.state == "fault"
    assert check.figures["with_more_padding"] > 1e-2


def test_shuffled_vectors_are_at_chance(broken):
    path, out = broken

    def shuffled(vectors):
        return np.random.default_rng(0).permutation(vectors)

    rewrite(out, "vectors/items.parquet", lambda table: with_vectors(table, shuffled))
    for job in (index, evaluate):
        assert job.main(["--run", str(path), "--out", str(out)]) == 0
    found = checks_of(broken)
    assert found["vectors_find_targets"].state == "fault"
    assert found["chance_level"].state == "fault"
    assert found["chance_level"].figures["low"] < found["vectors_find_targets"].figures["chance"] + 0.1


def test_an_untrained_model_is_told_from_a_trained_one(broken):
    path, out = broken
    run, features = load_run(str(path)), Folder(out / "features")
    catalog = catalog_of(features, read_manifest(features, "features", "prepare"))
    model = build_model("mind", run.model, catalog, run.training.loss, run.training.seed)
    edit_weights(out, lambda weights: weights.update(model.state_dict()))
    check = checks_of(broken)["untrained_self"]
    assert check.state == "fault"
    assert check.figures["moved"] == 0
    assert "jobs/train.py" in check.remedy


def test_interests_that_are_one_are_found(broken):
    _, out = broken

    def equal(weights):
        last = max(name for name in weights if name.startswith("layers.weights."))
        weights[last].zero_()  # what is left is the bias, the same for every interest

    edit_weights(out, equal)
    check = checks_of(broken)["collapsed_interests"]
    assert check.state == "fault"
    assert check.figures["pairwise_cosine_mean"] == pytest.approx(1.0, abs=1e-5)
    assert "model." in check.remedy


def test_a_gate_that_is_open_for_everyone_is_a_warning(sdm, tmp_path):
    path, out = copied(sdm, tmp_path)

    def opened(weights):
        weights[max(name for name in weights if name.startswith("gate.biases"))].fill_(50.0)

    edit_weights(out, opened)
    check = checks_of((path, out))["saturated_gate"]
    assert check.state == "warning"
    assert check.figures["open"] == 1.0


def test_a_loss_that_is_not_finite_is_found(broken):
    _, out = broken
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    state["curve"][-1]["train/loss"] = float("nan")
    (out / "checkpoint" / "state.json").write_text(json.dumps(state))
    sign(out / "checkpoint")
    check = checks_of(broken)["learning_curve"]
    assert check.state == "fault"
    assert "not finite" in check.found


def test_stages_of_other_inputs_are_found(broken):
    _, out = broken
    assert checks_of(broken, "training.seed=9")["stages_fit"].state == "warning"
    edit_weights(out, lambda weights: None)
    manifest = json.loads((out / "checkpoint" / "manifest.json").read_text())
    manifest["info"]["epochs"] = 99
    (out / "checkpoint" / "manifest.json").write_text(json.dumps(manifest))
    check = checks_of(broken)["stages_fit"]
    assert check.state == "fault"
    assert "vectors/ was made from another checkpoint/" in check.found
    assert "jobs/export.py" in check.remedy


def test_a_fault_is_one_line_on_stderr_and_exit_code_2(broken, capsys):
    path, out = broken
    rewrite(out, "vectors/items.parquet", padding_first)
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    table = Folder(out).read_json("doctor.json")
    faults = [check["name"] for check in table["checks"] if check["state"] == "fault"]
    assert "reserved_items" in faults
    assert f"{len(faults)} faults, the first: {faults[0]}" in shown.err
    assert all(f"fault        {name}" in shown.out for name in faults)


def test_weights_of_another_version_are_one_clear_line(broken, capsys):
    path, out = broken
    edit_weights(out, lambda weights: weights.pop("items.item"))
    assert doctor.main(["--run", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run jobs/train.py again" in error


def test_no_features_is_one_clear_line_and_missing_stages_are_named(broken, tmp_path, capsys):
    path, out = broken
    assert doctor.main(["--run", str(path), "--out", str(tmp_path / "empty")]) == 2
    assert "run jobs/prepare.py" in capsys.readouterr().err
    for stage, job in (
        ("index", "index"),
        ("evaluation", "evaluate"),
        ("vectors", "export"),
        ("checkpoint", "train"),
    ):
        shutil.rmtree(out / stage)
        found = checks_of(broken)
        reasons = {check.looked_at for check in found.values() if check.state == "not checked"}
        assert any(f"run jobs/{job}.py" in reason for reason in reasons)
        assert "fault" not in {check.state for check in found.values()}


def test_a_log_that_is_gone_or_another_is_said(mind):
    path, _ = mind
    gone = checks_of(mind, f'data.events="{path.parent}/nothing.parquet"')
    assert gone["stored_order"].state == "not checked"
    assert "no file found" in gone["stored_order"].looked_at
    other = checks_of(mind, f'data.events="{path.parent}/items.parquet"')
    assert "changed" in other["stored_order"].looked_at
    assert other["future_items"].state == "ok"
    changed = checks_of(mind, "session.gap_s=77")
    assert "another [data]" in changed["held_out_events"].looked_at
