"""VectorRetriever against brute force over all interests and items, in float64; exact on integer vectors."""

import numpy as np
import pytest
import torch

from raysys.errors import RetrievalError
from raysys.retrieval.candidates import Candidates, Ragged, fold_interests
from raysys.retrieval.index import IndexConfig, build_index
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue, serving

NUM_ITEMS, DIM = 60, 4


class TableModel(torch.nn.Module):
    """Fixed vectors: users come with the batch, items from a table; dropout shows the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.items = torch.randint(
            -3, 4, (NUM_ITEMS, DIM), generator=torch.Generator().manual_seed(0)
        ).float()
        self.dropout = torch.nn.Dropout(0.9)

    def encode_items(self, item_idx: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.items[item_idx])

    def encode_users(self, batch):
        return self.dropout(batch["vectors"]), batch["active"]


def make_batch(seed: int, users: int, interests: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-3, 4, (users, interests, DIM), generator=random).float()
    return {"vectors": vectors, "active": torch.rand(users, interests, generator=random) < 0.6}


def make_retriever() -> VectorRetriever:
    model = TableModel().train()
    index = build_index(IndexConfig(), "inner_product", DIM)
    for item_idx, vectors in encode_catalogue(model, NUM_ITEMS, block=17):
        index.add(item_idx, vectors)
    assert model.training
    return VectorRetriever(model, index)


def slow_answer(batch, seen: list[list[int]], k: int) -> list[list[int]]:
    items = TableModel().items.numpy().astype(np.float64)
    answers: list[list[int]] = []
    for user, active in zip(batch["vectors"].numpy(), batch["active"].numpy(), strict=True):
        best = {i: max(items[i] @ v for v in user[active]) for i in range(2, NUM_ITEMS) if active.any()}
        ranked = sorted(best, key=lambda i: (-best[i], i))
        left = [i for i in ranked if i not in seen[len(answers)]][:k]
        answers.append(left + [-1] * (k - len(left)))
    return answers


@pytest.mark.parametrize("interests", [1, 4])
@pytest.mark.parametrize("k", [5, 100])
def test_pitfall_every_interest_is_scored(interests: int, k: int):
    batch = make_batch(interests, 30, interests)
    found = make_retriever().retrieve(batch, k)
    assert found.item_idx.tolist() == slow_answer(batch, [[]] * 30, k)


@pytest.mark.parametrize("k", [5, 57])
def test_seen_items_are_left_out_without_losing_depth(k: int, monkeypatch):
    monkeypatch.setattr("raysys.retrieval.vectors._DEPTH_STEPS", (3, 9, 40))
    batch, random = make_batch(7, 25, 3), np.random.default_rng(0)
    seen = [random.choice(np.arange(2, NUM_ITEMS), n % 21, replace=False).tolist() for n in range(25)]
    found = make_retriever().retrieve(batch, k, Ragged.of_rows(seen))
    assert found.item_idx.tolist() == slow_answer(batch, seen, k)


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("k", [2, 5])
def test_interests_alone_equal_loops_and_fold_to_the_answer(k: int, filtered: bool, monkeypatch):
    monkeypatch.setattr("raysys.retrieval.vectors._DEPTH_STEPS", (3, 9, 40))
    batch, random = make_batch(7, 25, 3), np.random.default_rng(0)
    seen = [random.choice(np.arange(2, NUM_ITEMS), n % 21, replace=False).tolist() for n in range(25)]
    seen[4] = slow_answer(batch, [[]] * 25, 50)[4]  # only items at the bottom are left
    seen = seen if filtered else [[]] * 25
    found = make_retriever().find(batch, 5, Ragged.of_rows(seen) if filtered else None)
    alone = found.alone(k)
    places = np.arange(3)
    for place in places:
        only = {**batch, "active": batch["active"] & torch.from_numpy(places == place)}
        assert alone.item_idx[place::3].tolist() == slow_answer(only, seen, k)
    folded = fold_interests(alone, 3, batch["active"].numpy())
    assert folded.item_idx.tolist() == found.together().item_idx[:, :k].tolist()
    assert folded.score.tolist() == found.together().score[:, :k].tolist()


def test_only_active_interests_are_searched():
    batch = make_batch(3, 40, 5)

    class Counting:
        num_items = NUM_ITEMS - 2
        searched = 0

        def search(self, queries: np.ndarray, k: int) -> Candidates:
            self.searched += len(queries)
            item_idx = np.tile(np.arange(2, 2 + k), (len(queries), 1))
            return Candidates(item_idx, np.zeros(item_idx.shape, np.float32))

    counting = Counting()
    VectorRetriever(TableModel(), counting).retrieve(batch, 4)
    assert counting.searched == int(batch["active"].sum())


def test_users_without_an_active_interest_get_nothing():
    batch = make_batch(3, 4, 2)
    batch["active"][:] = False
    found = make_retriever().retrieve(batch, 3)
    assert (found.item_idx == -1).all()


def test_pitfall_padding_is_never_encoded():
    blocks = list(encode_catalogue(TableModel(), NUM_ITEMS, block=25))
    assert [len(item_idx) for item_idx, _ in blocks] == [25, 25, 8]
    np.testing.assert_array_equal(
        np.concatenate([item_idx for item_idx, _ in blocks]), np.arange(2, NUM_ITEMS)
    )
    np.testing.assert_array_equal(np.concatenate([v for _, v in blocks]), TableModel().items[2:].numpy())


def test_serving_restores_the_mode_after_an_error():
    model = TableModel().train()
    inside: list[bool] = []

    def fail() -> None:
        with serving(model):
            inside.append(model.training)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [False]
    assert model.training


def test_vectors_that_do_not_fit_are_refused():
    class Flat(TableModel):
        def encode_items(self, item_idx: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(item_idx) + 1, DIM)

        def encode_users(self, batch):
            return batch["vectors"][:, 0], batch["active"]

    class Diverged(TableModel):
        def encode_items(self, item_idx: torch.Tensor) -> torch.Tensor:
            return torch.full((len(item_idx), DIM), torch.nan)

    with pytest.raises(RetrievalError, match="encode_items gave"):
        list(encode_catalogue(Flat(), NUM_ITEMS))
    with pytest.raises(RetrievalError, match="58 of items 2 to 59"):
        list(encode_catalogue(Diverged(), NUM_ITEMS))
    with pytest.raises(RetrievalError, match="encode_users gave"):
        VectorRetriever(Flat(), make_retriever().index).retrieve(make_batch(0, 2, 2), 3)
