"""Mistakes found in public SDM code, one test each. Every check holds for the package and for the functions
concerned written again (`*_again`), and fails for the same code with the mistake.

    row  mistake                                              test_...
      1  user attention without a mask, padding averaged in   padding_soaks_up_no_weight
      2  self-attention masks query rows, not keys            self_attention_masks_keys_not_queries
      3  empty set: NaN, or uniform over padding              an_empty_set_or_session_adds_nothing
    4-7  session and long-term sets                           tests/unit/data/test_short_long_pitfalls.py
      8  another attention than the dot product as printed    attention_is_the_plain_product_with_the_profile
      9  one similarity in training, another in the index     training_and_index_use_one_similarity
     10  per-position targets without a causal mask           no_step_sees_a_later_item
                                                              every_step_has_the_items_that_follow_it
"""

import math
from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from raysys.models import sdm
from raysys.models.sdm_config import SdmConfig
from raysys.nn import session
from raysys.nn.embedding import unit_length
from raysys.nn.self_attention import MultiHeadSelfAttention
from raysys.retrieval.index import ExactIndex
from tests.reference.mind_model import array, doubled
from tests.reference.sdm import Reference
from tests.reference.world import LENGTHS, NUM_ITEMS, pad_left, small_batch, small_catalog

SMALL = {"embedding_dim": 6, "num_heads": 3, "long_features": ("item", "cate", "event_store")}


def softmax_again(mistake, logits, mask):
    if mistake == "no mask":
        return logits.softmax(-1)
    if mistake == "mask after the softmax":
        return logits.softmax(-1) * mask
    if mistake == "-inf for every entry":
        return logits.masked_fill(~mask, -torch.inf).softmax(-1)
    if mistake == "uniform over padding":
        return logits.masked_fill(~mask, -1e30).softmax(-1)
    powers = (logits - logits.amax(-1, keepdim=True)).exp() * mask
    return powers / powers.sum(-1, keepdim=True).clamp(min=1e-30)


def logits_again(mistake, query_BD, keys_BTD):
    if mistake == "concat attention":
        return torch.tanh(keys_BTD + query_BD[:, None]).sum(2)
    if mistake == "scaled product":
        return (keys_BTD @ query_BD[:, :, None]).squeeze(2) / math.sqrt(query_BD.shape[1])
    if mistake == "one query for all users":
        query_BD = torch.ones_like(query_BD)
    return (keys_BTD @ query_BD[:, :, None]).squeeze(2)


def attend_again(mistake, query_BD, keys_BTD, mask_BT):
    weights_BT = softmax_again(mistake, logits_again(mistake, query_BD, keys_BTD), mask_BT)
    vector_BD = (weights_BT[:, None, :] @ keys_BTD).squeeze(1)
    if mistake == "keys added back, averaged over padding too":
        vector_BD = (vector_BD[:, None] + keys_BTD).mean(1)
    if mistake == "query added back":
        vector_BD = vector_BD + query_BD
    return vector_BD, weights_BT


def prefixes_again(mistake, query_BD, keys_BTD, mask_BT):
    places = torch.arange(keys_BTD.shape[1])
    seen_TT = places[:, None] >= places
    if mistake == "user attention over the whole session":
        seen_TT = torch.ones_like(seen_TT)
    logits_BT = logits_again(mistake, query_BD, keys_BTD)
    return softmax_again(mistake, logits_BT[:, None], seen_TT & mask_BT[:, None]) @ keys_BTD


class HeadsAgain(MultiHeadSelfAttention):
    mistake = ""

    def forward(self, x_BTD, mask_BT):
        outputs, size = [], x_BTD.shape[2] // self.num_heads
        places = torch.arange(x_BTD.shape[1])
        seen_BTT = mask_BT[:, None, :].expand(-1, len(places), -1)
        if self.mistake == "query rows masked":
            seen_BTT = mask_BT[:, :, None].expand(-1, -1, len(places))
        if self.causal and self.mistake != "self-attention sees later steps":
            seen_BTT = seen_BTT & (places[:, None] >= places)
        if self.mistake == "no mask in the self-attention":
            seen_BTT = torch.ones_like(seen_BTT)
        for part in zip(*(inner.split(size) for inner in self.inner.chunk(3)), strict=True):
            query, key, value = (functional.linear(x_BTD, weight) for weight in part)
            logits = query @ key.transpose(1, 2)
            if self.mistake == "scaled self-attention":
                logits = logits / math.sqrt(size)
            outputs.append(softmax_again("", logits, seen_BTT) @ value)
        found = functional.linear(torch.cat(outputs, 2), self.output)
        return found + x_BTD if self.mistake == "input added back" else found


def targets_again(mistake, short_BS, target_Bn):
    """The next n items of each step; every user has a session."""
    steps = torch.zeros(*short_BS.shape, target_Bn.shape[1], dtype=torch.int64)
    for row, items in enumerate(short_BS.tolist()):
        session = [item for item in items if item]
        following = [*session, *target_Bn[row].tolist()]
        for step in range(len(session)):
            first = step if mistake == "a step's own item is its target" else step + 1
            first = len(session) if mistake == "the last step's targets everywhere" else first
            count = 1 if mistake == "one target a step" else target_Bn.shape[1]
            found = following[first : first + count]
            steps[row, step, : len(found)] = torch.tensor(found)
    return steps


class Again(sdm.Sdm):
    mistake = ""

    def encode_items(self, item_idx):
        vectors = super().encode_items(item_idx)
        if self.mistake == "raw items in the index":
            return self.items(item_idx)
        if self.mistake == "a second table in the index":
            return vectors.roll(1, 0)
        return unit_length(vectors) if self.mistake == "cosine in the index" else vectors

    def encode_users(self, batch):
        vectors, active = super().encode_users(batch)
        return (unit_length(vectors) if self.mistake == "cosine in the index" else vectors), active


@contextmanager
def planted(mistake):
    """Put the functions written again in the place of those of the package, inside the block."""
    again = {
        "attend": partial(attend_again, mistake),
        "attend_to_prefixes": partial(prefixes_again, mistake),
        "targets_of_steps": partial(targets_again, mistake),
        "Sdm": type("Sdm", (Again,), {"mistake": mistake}),
    }
    heads = type("Heads", (HeadsAgain,), {"mistake": mistake})
    with mock.patch.multiple(sdm, **again), mock.patch.object(session, "MultiHeadSelfAttention", heads):
        yield


def fails_with(check, *mistakes):
    """Assert that `check` holds, for the functions written again too, but not with any of the mistakes."""
    check()
    with planted(""):
        check()
    for mistake in mistakes:
        with planted(mistake), pytest.raises(AssertionError):
            check()


def build(lengths=LENGTHS, **fields):
    """A model and a batch in float64; the parameters are large, so that attention is far from uniform."""
    model = sdm.Sdm(SdmConfig(**{**SMALL, **fields}), small_catalog(), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return doubled(model, small_batch(lengths=lengths))


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def equals_the_reference(model, batch):
    """Users and weights against tests/reference/sdm.py, to 1e-10."""
    vectors, _ = model.encode_users(batch)
    found, expected = model.fusion(batch), Reference(model, small_catalog())
    for row in range(len(vectors)):
        vector, weights, _ = expected.user(batch, row)
        np.testing.assert_allclose(array(vectors[row, 0]), vector, atol=1e-10)
        for name, wanted in weights.items():
            np.testing.assert_allclose(array(found[name][row][batch[name][row] != 0]), wanted, atol=1e-10)


@pytest.mark.parametrize("term", ["short", "long"])
def test_padding_soaks_up_no_weight(term):
    """Row 1: of session and sets alike."""

    def check():
        model, batch = build(fusion=term)
        for columns in (1, 20):
            close(model.encode_users(pad_left(batch, columns))[0], model.encode_users(batch)[0])
        for name, weights in model.fusion(batch).items():
            real = batch[name] != 0
            assert weights[~real].abs().sum() == 0
            close(weights.sum(1), real.any(1).double())

    fails_with(check, "no mask", "mask after the softmax", "keys added back, averaged over padding too")


def test_self_attention_masks_keys_not_queries():
    """Row 2: a real step that attends to padding changes with the width of the batch."""

    def check():
        model, batch = build(fusion="short")
        close(model.encode_users(pad_left(batch, 3))[0], model.encode_users(batch)[0])
        equals_the_reference(model, batch)

    fails_with(check, "query rows masked", "no mask in the self-attention")


def test_an_empty_set_or_session_adds_nothing():
    """Row 3: users without any event, and with a session alone."""

    def check():
        model, batch = build(lengths=(0, 2, 4))
        assert not any(batch[name].any() for name in batch if name.startswith("long_"))
        equals_the_reference(model, batch)
        for name, weights in model.fusion(batch).items():
            if name != "gate":
                close(weights.sum(1), (batch[name] != 0).any(1).double())
        model(batch)["loss"].backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)

    fails_with(check, "-inf for every entry", "uniform over padding")


def test_attention_is_the_plain_product_with_the_profile():
    """Row 8: alpha_k = softmax(h_k . e_u) of session and sets; softmax(Q^T K) among the steps."""

    def check():
        equals_the_reference(*build())

    fails_with(
        check, "concat attention", "scaled product", "one query for all users", "query added back",
        "scaled self-attention", "input added back",
    )  # fmt: skip


def loss_by_index(model, batch):
    """The full softmax loss from the scores that the index gives to every item."""
    index, items = ExactIndex("inner_product", 6), np.arange(2, NUM_ITEMS)
    index.add(items, model.encode_items(torch.from_numpy(items)).detach().numpy())
    users, active = model.encode_users(batch)
    assert active.all()
    found = index.search(users[:, 0].detach().numpy(), len(items))
    logits = np.take_along_axis(found.score, np.argsort(found.item_idx, axis=1), 1)
    logits = torch.from_numpy(logits) / model.config.temperature
    return functional.cross_entropy(logits, batch["target"] - 2).item()


@pytest.mark.parametrize("normalize", [False, True])
def test_training_and_index_use_one_similarity(normalize):
    """Row 9: to 1e-5, as the index is float32."""

    def check():
        config = SdmConfig(**SMALL, normalize=normalize, temperature=0.2)
        model, batch = sdm.Sdm(config, small_catalog(), loss="full_softmax"), small_batch()
        assert loss_by_index(model, batch) == pytest.approx(model(batch)["loss"].item(), rel=1e-5)

    fails_with(
        check,
        "raw items in the index" if normalize else "cosine in the index",
        "a second table in the index",
    )


def test_no_step_sees_a_later_item():
    """Row 10: with targets at every position the items to come are answers."""

    def check():
        model, batch = build(train_positions="every", lengths=(9, 9, 9))
        steps = model._users(batch, None, every=True)
        for place in range(4):
            short = batch["short"].clone()
            short[:, place] = 2 + short[:, place] % (NUM_ITEMS - 2)
            changed = model._users({**batch, "short": short}, None, every=True)
            close(changed[:, :place], steps[:, :place])
            assert ((changed - steps)[:, place:].abs().amax(2) > 1e-6).all()

    fails_with(check, "self-attention sees later steps", "user attention over the whole session")


def test_every_step_has_the_items_that_follow_it():
    """Row 10: n of them, within the session and then from the targets; to 1e-6, as the weights of several
    targets are float32."""

    def check():
        model, batch = build(train_positions="every", next_items=3, lengths=(1, 2, 3, 9))
        batch["target"] = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 10, 0], [11, 12, 13]])
        expected = Reference(model, small_catalog()).loss(batch)
        assert model(batch)["loss"].item() == pytest.approx(expected, abs=1e-6)

    fails_with(
        check,
        "a step's own item is its target",
        "the last step's targets everywhere",
        "one target a step",
    )
