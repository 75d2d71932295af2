"""SDM on planted rules: what comes next is known, from the order of the session or from the long term.

Items are a row and a column of a grid, their row is a feature of theirs, and all of them are equally popular.

    order      the row of the last item but one, the column of the last; the long term tells nothing
    long term  the row of the user's set, the column of the last item of the session

Oracles: a model that sees the session's last two items without their order is right half of the time at most,
and answers a reversed session as before; one that sees the session alone knows one row in `ROWS`, one that
sees the long term alone one column in `COLUMNS`; a list of popular items holds any answer by chance.
"""

import numpy as np
import pytest
import torch

from raysys.catalog import Catalog
from raysys.models import build_model
from raysys.models.sdm_config import SdmConfig
from raysys.nn.loss_inputs import LossInputs
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue
from raysys.schema import Feature
from raysys.training import TrainingConfig, build_optimizer, train_steps

ROWS, COLUMNS, LENGTH, USERS, STEPS = 6, 6, 4, 500, 400
NUM_ITEMS = ROWS * COLUMNS + 2
# As printed the vector of a session starts so small that the noise of few negatives hides it.
AS_PRINTED = {"loss": "full_softmax"}
WITH_RESIDUALS = {"loss": "sampled_softmax", "lstm_residual": 1, "attention_residual": True}
EVERY_STEP = {"loss": "full_softmax", "train_positions": "every"}


def item_of(row, column):
    return 2 + row * COLUMNS + column


def planted(rule, seed, users=USERS):
    """Return a batch, and what would follow the session with its last two items swapped.

    The last two items differ in row and column; the long term is three items of one row, and that row.
    """
    random = np.random.default_rng(seed)
    row = random.integers(0, ROWS, (users, LENGTH))
    column = random.integers(0, COLUMNS, (users, LENGTH))
    row[:, -1] = (row[:, -2] + random.integers(1, ROWS, users)) % ROWS
    column[:, -1] = (column[:, -2] + random.integers(1, COLUMNS, users)) % COLUMNS
    own = random.integers(0, ROWS, users)
    long_column = random.permuted(np.tile(np.arange(COLUMNS), (users, 1)), axis=1)[:, :3]
    batch = {
        "short": item_of(row, column),
        "long_item": item_of(own[:, None], long_column),
        "long_row": own[:, None] + 2,
    }
    by_order = rule == "order"
    batch["target"] = item_of(row[:, -2] if by_order else own, column[:, -1])
    swapped = item_of(row[:, -1] if by_order else own, column[:, -2])
    return {name: np.ascontiguousarray(values) for name, values in batch.items()}, swapped


def grid():
    """Return the catalog: equally popular items with their row as a feature."""
    counts = np.full(NUM_ITEMS, 10, np.int64)
    counts[:2] = 0
    row = np.concatenate([[0, 1], np.repeat(np.arange(ROWS) + 2, COLUMNS)]).astype(np.int32)
    feature = Feature(name="row", entity="item", kind="id", size=ROWS + 2)
    return Catalog(
        num_items=NUM_ITEMS,
        num_users=USERS + 2,
        item_counts=counts,
        item_features=(feature,),
        item_values={"row": row},
    )


def trained(rule, loss="full_softmax", **fields):
    catalog = grid()
    config = SdmConfig(
        embedding_dim=16, num_heads=2, long_features=("item", "row"), num_negatives=20, **fields
    )
    training = TrainingConfig(learning_rate=0.01)
    model = build_model("sdm", config, catalog, loss, seed=1)
    inputs = LossInputs(loss, catalog.item_counts, config.num_negatives, sampler="uniform", seed=2)

    def batches():
        for step in range(STEPS):
            batch, _ = planted(rule, 1000 + step, users=256)
            arrays = {**batch, **inputs.arrays(step, batch)}
            yield step, {name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()}

    torch.manual_seed(0)
    train_steps(model, build_optimizer(model, training), batches(), training, lambda step, totals: False)
    return model.eval()


def first_answers(model, batch):
    """The item that the index finds first for each user."""
    index = ExactIndex("inner_product", 16)
    for item_idx, vectors in encode_catalogue(model, NUM_ITEMS):
        index.add(item_idx, vectors)
    inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
    return VectorRetriever(model, index).retrieve(inputs, 1).item_idx[:, 0]


def hits(model, batch, answers):
    return float((first_answers(model, batch) == answers).mean())


def popular_hits(rule, answers):
    """The share of users whose answer is the most frequent target of training."""
    targets = np.concatenate([planted(rule, 1000 + step, users=256)[0]["target"] for step in range(STEPS)])
    return float((answers == np.bincount(targets).argmax()).mean())


@pytest.fixture(
    scope="module", params=[AS_PRINTED, WITH_RESIDUALS, EVERY_STEP], ids=["paper", "residuals", "every"]
)
def by_order(request):
    return trained("order", **request.param)


@pytest.fixture(scope="module", params=[AS_PRINTED, WITH_RESIDUALS], ids=["paper", "residuals"])
def by_long_term(request):
    return trained("long term", **request.param)


def test_the_order_of_the_session_is_found(by_order):
    batch, _ = planted("order", 99)
    found = hits(by_order, batch, batch["target"])
    assert found > 0.9  # without the order: one half at most
    assert found > popular_hits("order", batch["target"]) + 0.8


def test_a_swapped_session_has_the_swapped_answer(by_order):
    batch, swapped = planted("order", 99)
    short = np.concatenate([batch["short"][:, :-2], batch["short"][:, :-3:-1]], axis=1)
    assert hits(by_order, {**batch, "short": short}, swapped) > 0.9
    assert hits(by_order, {**batch, "short": short}, batch["target"]) < 0.05
    reversed_whole = np.ascontiguousarray(batch["short"][:, ::-1])
    assert hits(by_order, {**batch, "short": reversed_whole}, batch["target"]) < 0.15


def test_the_long_term_is_found_beside_the_session(by_long_term):
    batch, swapped = planted("long term", 99)
    found = hits(by_long_term, batch, batch["target"])
    assert found > 0.9
    assert found > popular_hits("long term", batch["target"]) + 0.8
    short = np.concatenate([batch["short"][:, :-2], batch["short"][:, :-3:-1]], axis=1)
    assert hits(by_long_term, {**batch, "short": short}, swapped) > 0.9


def test_the_answer_follows_the_sets(by_long_term):
    """Each user with the long term of the next one."""
    batch, _ = planted("long term", 99)
    moved = {name: np.roll(batch[name], 1, axis=0) for name in ("long_item", "long_row")}
    answers = item_of(moved["long_row"][:, 0] - 2, (batch["target"] - 2) % COLUMNS)
    assert hits(by_long_term, {**batch, **moved}, answers) > 0.9


@pytest.mark.parametrize("term", ["short", "long"])
def test_neither_term_suffices_alone(term):
    """A sixth is what each can know; the margin to both terms is 0.6 at least."""
    batch, _ = planted("long term", 99)
    assert hits(trained("long term", fusion=term), batch, batch["target"]) < 0.3
