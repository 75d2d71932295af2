"""The exported user encoder against the model itself, within 1e-6, whatever the batch."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.models.mind import Mind, MindConfig
from raysys.models.sdm import Sdm
from raysys.models.sdm_config import SdmConfig
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.program import (
    Columns,
    example_users,
    export_user_encoder,
    free_columns,
    load_program,
    program_bytes,
)
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue
from tests.reference.mind_model import shaken
from tests.reference.world import (
    LENGTHS,
    NUM_ITEMS,
    last_columns,
    small_batch,
    small_catalog,
    take_rows,
)

SESSION = SessionConfig(max_items=4, long_term_max=5)
"""What session and sets of `small_batch` fit into."""

SMALL = {"embedding_dim": 6, "num_interests": 3, "history_length": 7, "hidden_dims": (10,)}
RECOMMENDED = {
    "recency": "slot",
    "residual": True,
    "squash_last": False,
    "latest_items": 5,
    "train_score": "served",
}


def build(catalog=None, **fields):
    return Mind(MindConfig(**{**SMALL, **fields}), catalog or small_catalog(), seed=2)


def users(model, rows, columns, **options):
    """What the encoder reads: rows without history (the first), with a part of it, and full ones."""
    lengths = [min(length, columns) for length in LENGTHS][:rows]
    batch = small_batch(lengths=lengths, width=max(columns, 2), **options)
    batch = last_columns(batch, columns)
    times = {"history_at"} if model.config.recency == "gap" else set()
    names = {"history", *times, *(f"profile_{feature.name}" for feature in model.profile.features)}
    return {name: value for name, value in batch.items() if name in names}


def exported(model, session=SESSION):
    shape = model.samples(model.config, session)
    program = export_user_encoder(model, example_users(shape, model.profile.features), shape)
    return program, load_program(program_bytes(program))


@pytest.fixture(scope="module")
def small():
    """A model, its program, and the module of the program read back."""
    model = build().eval()
    return model, *exported(model)


@pytest.mark.parametrize(
    "fields",
    [
        {"dropout": 0.5},
        {"adaptive_interests": False, "routing_gradient": "all", "routing_iterations": 1},
        {"normalize": True, "hidden_dims": (), "profile_features": ("likes",), "history_length": 2},
        {"history_length": 1, "num_interests": 1},
        {"recency": "slot", "residual": True, "squash_last": False},
        {"recency": "gap"},
        {"recency": "gap", "history_length": 1, "latest_items": 1, "routing_start": "farthest_point"},
        {"latest_items": 3},
        {"routing_start": "position", "num_interests": 7, "adaptive_interests": False},
        {"routing_start": "farthest_point", "learnt_quota": 0.1, "adaptive_interests": False},
        {
            "recency": "gap",
            "residual": True,
            "squash_last": False,
            "latest_items": 9,
            "routing_start": "farthest_point",
            "learnt_quota": 0.1,
            "history_dropout": 0.5,
            "train_score": "served",
            "normalize": True,
        },
    ],
)
def test_equals_the_model_for_every_size(fields):
    model = shaken(build(**fields))
    _, encode = exported(model)
    assert model.training  # as it was
    model.eval()
    longest = model.config.history_length
    for columns in sorted({1, min(2, longest), max(1, longest - 1), longest}):
        for rows in (1, 2, 6):
            batch = users(model, rows, columns)
            with torch.no_grad():
                vectors, active = encode(batch)
                expected, expected_active = model.encode_users(batch)
            assert vectors.shape == (rows, model.config.num_interests, 6)
            torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
            assert torch.equal(active, expected_active)


def test_a_catalog_without_features_is_enough():
    model = build(small_catalog(features=False)).eval()
    _, encode = exported(model)
    batch = users(model, 4, 7)
    assert set(batch) == {"history"}
    torch.testing.assert_close(encode(batch)[0], model.encode_users(batch)[0], atol=1e-6, rtol=0)


def test_all_rows_may_be_padding(small):
    model, _, encode = small
    batch = users(model, 3, 5)
    batch["history"][:] = 0
    vectors, active = encode(batch)
    torch.testing.assert_close(vectors, model.encode_users(batch)[0], atol=1e-6, rtol=0)
    assert active.tolist() == [[True, False, False]] * 3


def test_what_does_not_fit_is_refused(small):
    model, _, encode = small
    batch = users(model, 3, 7)
    with pytest.raises((RuntimeError, AssertionError)):
        encode({**batch, "history": torch.ones(3, 8, dtype=torch.int64)})
    with pytest.raises((ValueError, RuntimeError)):
        encode({"history": batch["history"]})


def test_retrieves_what_the_model_retrieves(small):
    model, _, encode = small
    index = ExactIndex("inner_product", 6)
    for item_idx, vectors in encode_catalogue(model, NUM_ITEMS):
        index.add(item_idx, vectors)

    class Program:
        def encode_users(self, batch):
            return encode(batch)

        def encode_items(self, item_idx):
            raise AssertionError("unused")

    batch = users(model, 6, 7)
    served, expected = (VectorRetriever(which, index).retrieve(batch, 10) for which in (Program(), model))
    assert served.item_idx.tolist() == expected.item_idx.tolist()


def build_sdm(**fields):
    sets = ("item", "cate", "tags", "event_store")
    fields = {"embedding_dim": 6, "num_heads": 3, "long_features": sets, **fields}
    return Sdm(SdmConfig(**fields), small_catalog(), seed=2)


def sessions(inputs, rows=7, short=4, sets=(5,)):
    """What an encoder of the inputs reads: users with nothing (the first), with a session, with both terms.

    Args:
        short: columns of the session.
        sets: columns of the sets, in turn.
    """
    batch = small_batch(lengths=(0, 9, 1, 5, 2, 7, 3))
    batch["long_tags"] = torch.clamp(batch["long_cate"] + 1, max=5) * (batch["long_cate"] > 0)
    batch = take_rows({name: batch[name] for name in inputs}, list(range(rows)))
    columns = {name: short for name in inputs if name.startswith("short")}
    names = sorted(name for name in inputs if name.startswith("long_"))
    columns |= {name: sets[number % len(sets)] for number, name in enumerate(names)}
    return {name: value[:, -columns[name] :] if name in columns else value for name, value in batch.items()}


def inputs_of(model, session=SESSION):
    return sorted(example_users(model.samples(model.config, session), model.profile.features))


GATE = {"event_features": ("store",)}
SHORT = {"fusion": "short"}
EVERY = {"train_positions": "every", "residual": True, "lstm_layers": 2, "lstm_residual": 1}


@pytest.mark.parametrize(
    "fields",
    [
        GATE,
        SHORT,
        EVERY,
        {"fusion": "long", "dropout": 0.5},
        {"fusion": "concat", "profile_features": (), "user_attention": False, "history_dropout": 0.5},
    ],
)
def test_a_session_model_is_equal_for_every_size(fields):
    model = build_sdm(**fields)
    _, encode = exported(model)
    assert model.training  # as it was
    model.eval()
    for rows in (1, 2, 7):
        for short, sets in ((1, (1,)), (2, (5, 1)), (3, (2, 3, 4)), (4, (5,))):
            batch = sessions(inputs_of(model), rows, short, sets)
            with torch.no_grad():
                vectors, active = encode(batch)
                expected, expected_active = model.encode_users(batch)
            assert vectors.shape == (rows, 1, 6)
            torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
            assert torch.equal(active, expected_active)


@pytest.mark.parametrize(
    "session",
    [SessionConfig(last_n=1, long_term_max=1), SessionConfig(last_n=2, long_term_max=2)],
    ids=["one", "two"],
)
def test_the_shortest_sessions_and_sets_that_can_be_configured(session):
    model = build_sdm(**GATE).eval()
    _, encode = exported(model, session)
    for columns in {1, session.last_n}:
        batch = sessions(inputs_of(model, session), 7, columns, (columns,))
        torch.testing.assert_close(encode(batch)[0], model.encode_users(batch)[0], atol=1e-6, rtol=0)
    for name in ("short", "long_tags"):
        with pytest.raises((RuntimeError, AssertionError)):
            encode({**batch, name: torch.ones(7, session.last_n + 1, dtype=torch.int64)})


@pytest.fixture(scope="module")
def small_sdm():
    """As `small`."""
    model = build_sdm(**GATE).eval()
    return model, *exported(model)


@pytest.mark.parametrize("empty", [("short",), ("long_",), ("short", "long_")])
def test_session_and_sets_may_be_empty(small_sdm, empty):
    model, _, encode = small_sdm
    batch = sessions(inputs_of(model))
    batch = {name: value * (not name.startswith(empty)) for name, value in batch.items()}
    vectors, _ = encode(batch)
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors, model.encode_users(batch)[0], atol=1e-6, rtol=0)


def test_a_longer_session_or_set_is_refused(small_sdm):
    model, _, encode = small_sdm
    batch = sessions(inputs_of(model))
    longer = {name: torch.ones(7, 6, dtype=torch.int64) for name in batch if name.startswith("long_")}
    longer["short"] = torch.ones(7, 5, dtype=torch.int64)
    for name, value in longer.items():
        changed = {**batch, name: value}
        if name == "short":
            changed["short_store"] = value
        with pytest.raises((RuntimeError, AssertionError)):
            encode(changed)
    with pytest.raises((RuntimeError, AssertionError)):  # columns of another session
        encode({**batch, "short_store": batch["short_store"][:, 1:]})


def test_columns_and_inputs_follow_from_the_shape():
    shape = SampleShape(
        history_length=7,
        times=True,
        user_idx=True,
        example_age=True,
        event_features=("store",),
        session=SessionConfig(max_items=4, long_term_max=5),
        long_features=("item", "cate"),
    )
    assert free_columns(shape) == [
        Columns(("history", "history_store", "history_at"), 7, ordered=True),
        Columns(("short", "short_store", "short_at"), 4, ordered=True),
        Columns(("long_item",), 5, ordered=False),
        Columns(("long_cate",), 5, ordered=False),
    ]
    example = example_users(shape, small_catalog().user_features)
    profile = {"profile_age", "profile_likes", "profile_income"}
    free = {name for columns in free_columns(shape) for name in columns.names}
    assert set(example) == {*free, "user_idx", "example_age", *profile}
    assert example["example_age"].dtype == example["profile_income"].dtype == torch.float32
    assert example["profile_likes"].shape == (3, 2)
    for session, reach, longest in (
        (SessionConfig(max_items=9, last_n=2), 0, 2),
        (SessionConfig(max_items=9), 3, 3),
        (SessionConfig(max_items=9), 30, 9),
    ):
        assert free_columns(SampleShape(history_length=0, session=session, reach=reach)) == [
            Columns(("short",), longest, ordered=True)
        ]


class Recurrent(nn.Module):
    """The last state of a recurrent layer over the history; zeros before its first item stay zeros."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(NUM_ITEMS, 6, padding_idx=0)
        self.layer = nn.GRU(6, 6, bias=False, batch_first=True)

    def encode_users(self, batch):
        states = self.layer(self.items(batch["history"]))[0]
        return states[:, -1:], torch.ones_like(batch["history"][:, -1:], dtype=torch.bool)


def test_a_recurrent_model_takes_every_length_of_the_history():
    model, shape = Recurrent(), SampleShape(history_length=7, profile_features=())
    program = export_user_encoder(model, example_users(shape, ()), shape)
    encode = load_program(program_bytes(program))
    history = small_batch(width=9)["history"]
    for columns in (1, 2, 6, 7):
        batch = {"history": history[:, -columns:]}
        torch.testing.assert_close(encode(batch)[0], model.encode_users(batch)[0], atol=1e-6, rtol=0)
    with pytest.raises((RuntimeError, AssertionError)):
        encode({"history": history[:, -8:]})


ALONE = """
import sys, torch
sys.modules["raysys"] = None  # importing it fails
encode = torch.export.load(sys.argv[1]).module()
batch, expected = torch.load(sys.argv[2], weights_only=True)
assert (encode(batch)[0] - expected).abs().max() <= float(sys.argv[3])
assert not [name for name in sys.modules if name.startswith("raysys.")]
"""


def run_alone(program, batch, expected, folder, tolerance):
    (folder / "users.pt2").write_bytes(program_bytes(program))
    torch.save((batch, expected.detach()), folder / "case.pt")
    files = [str(folder / "users.pt2"), str(folder / "case.pt")]
    command = [sys.executable, "-c", ALONE, *files, str(tolerance)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_runs_without_the_package(small, tmp_path):
    model, program, _ = small
    batch = users(model, 4, 5)
    run_alone(program, batch, model.encode_users(batch)[0], tmp_path, tolerance=0)


def test_a_session_model_runs_without_the_package(small_sdm, tmp_path):
    model, program, _ = small_sdm
    batch = sessions(inputs_of(model), 5, 3, (2, 5))
    run_alone(program, batch, model.encode_users(batch)[0], tmp_path, tolerance=1e-6)


def onnx_session(model, folder):
    """Return the program of a model in another runtime."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed; pip install raysys[onnx]")
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed; pip install raysys[onnx]"
    )
    program, _ = exported(model)
    torch.onnx.export(program, dynamo=True).save(str(folder / "users.onnx"))
    return runtime.InferenceSession(str(folder / "users.onnx"))


def check_onnx(session, model, batch):
    # float32 in another runtime: sums of other order
    inputs = {
        wanted.name: next(value for name, value in batch.items() if wanted.name.endswith(name)).numpy()
        for wanted in session.get_inputs()
    }
    assert len(inputs) == len(batch)
    vectors, active = session.run(None, inputs)
    expected, expected_active = model.encode_users(batch)
    torch.testing.assert_close(torch.from_numpy(vectors), expected.detach(), atol=1e-5, rtol=0)
    assert active.tolist() == expected_active.tolist()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's own exporter
@pytest.mark.parametrize("fields", [{}, RECOMMENDED], ids=["paper", "recommended"])
def test_onnx_equals_the_model(fields, tmp_path):
    model = shaken(build(**fields)).eval()
    session = onnx_session(model, tmp_path)
    for rows, columns in ((1, 1), (2, 7), (6, 5)):
        check_onnx(session, model, users(model, rows, columns))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("fields", [GATE, EVERY], ids=["gate", "every"])
def test_onnx_equals_a_session_model(fields, tmp_path):
    model = build_sdm(**fields).eval()
    session = onnx_session(model, tmp_path)
    for rows, short, sets in ((1, 1, (1,)), (2, 4, (5, 1)), (7, 3, (2, 3))):
        check_onnx(session, model, sessions(inputs_of(model), rows, short, sets))
