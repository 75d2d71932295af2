"""The exported user encoder against the model itself, within 1e-6, whatever the batch."""

import subprocess
import sys

import pytest
import torch

from raysys.models.mind import Mind, MindConfig
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.program import example_users, export_user_encoder, load_program, program_bytes
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue
from tests.reference.mind_model import shaken
from tests.reference.world import LENGTHS, NUM_ITEMS, last_columns, small_batch, small_catalog

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


def exported(model):
    length = model.config.history_length
    example = example_users(model.profile.features, length, model.config.recency == "gap")
    program = export_user_encoder(model, example, length)
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


ALONE = """
import sys, torch
encode = torch.export.load(sys.argv[1]).module()
batch, expected = torch.load(sys.argv[2], weights_only=True)
assert torch.equal(encode(batch)[0], expected)
assert not [name for name in sys.modules if name.startswith("raysys")]
"""


def test_runs_without_the_package(small, tmp_path):
    model, program, _ = small
    batch = users(model, 4, 5)
    (tmp_path / "users.pt2").write_bytes(program_bytes(program))
    torch.save((batch, model.encode_users(batch)[0].detach()), tmp_path / "case.pt")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "users.pt2"), str(tmp_path / "case.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's own exporter
@pytest.mark.parametrize("fields", [{}, RECOMMENDED], ids=["paper", "recommended"])
def test_onnx_equals_the_model(fields, tmp_path):
    # float32 in another runtime: sums of other order
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed; pip install raysys[onnx]")
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed; pip install raysys[onnx]"
    )
    model = shaken(build(**fields)).eval()
    program, _ = exported(model)
    torch.onnx.export(program, dynamo=True).save(str(tmp_path / "users.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "users.onnx"))
    for rows, columns in ((1, 1), (2, 7), (6, 5)):
        batch = users(model, rows, columns)
        inputs = {
            wanted.name: next(value for name, value in batch.items() if wanted.name.endswith(name)).numpy()
            for wanted in session.get_inputs()
        }
        assert len(inputs) == len(batch)
        vectors, active = session.run(None, inputs)
        expected, expected_active = model.encode_users(batch)
        torch.testing.assert_close(torch.from_numpy(vectors), expected.detach(), atol=1e-5, rtol=0)
        assert active.tolist() == expected_active.tolist()
