"""Mistakes found in public MIND code, one test each. Every check holds for the package and for its routing
written again (`Again`), and fails for the same code with the mistake.

    row  mistake                                              test_...
      1  routing logits shared by all users                   logits_are_not_shared_by_users
      2  logits persist over calls                            logits_do_not_persist_over_calls
      3  softmax over the history                             softmax_is_over_interests_not_over_the_history
      4  gradient not stopped                                 gradient_passes_through_the_last_round_only
                                                              gradient_all_passes_through_every_round
      5  round count hard-wired                               any_number_of_rounds_trains_and_matters
      6  logits replaced, not added to                        agreement_is_added_to_the_logits
      7  no squash between rounds                             every_round_squashes
      8  padding soaks up weight                              padding_soaks_up_no_weight
      9  another rule for the number of interests             number_of_interests_is_floor_of_log2
     10  inactive interests not zeroed, attended, served      inactive_interests_take_no_part
                                                              inactive_interests_are_not_attended
                                                              inactive_interests_are_not_served
     11  real power of a negative score                       negative_scores_are_not_raised_to_a_power
     12  power 100 and argmax                                 default_choice_is_the_largest_score
     13  random start when serving, start not saved           a_user_has_the_same_vectors_in_every_call
                                                              ..._in_every_process, start_is_part_of_the_state
     14  history ignored                                      every_item_of_the_history_counts

    remarks on layers, start, normalisation and loss: the tests at the end
"""

import hashlib
import itertools
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from raysys.models.mind import Mind, MindConfig
from raysys.nn.attention import label_aware_attention
from raysys.nn.capsule import BehaviourToInterestRouting, num_active_interests, squash
from raysys.nn.embedding import unit_length
from raysys.retrieval.index import ExactIndex
from raysys.retrieval.vectors import VectorRetriever, encode_catalogue
from tests.reference import mind as reference
from tests.reference.world import NUM_ITEMS, pad_left, small_batch, small_catalog, take_rows

SMALL = {"embedding_dim": 6, "num_interests": 3, "history_length": 30, "hidden_dims": (10,)}

RULES = {
    "ceil of log2": lambda n: math.ceil(math.log2(max(n, 1))),
    "log2 of n + 1": lambda n: math.floor(math.log2(n + 1)),
    "natural logarithm": lambda n: math.floor(math.log(max(n, 1))),
    "fixed": lambda n: 4,
}


class Again(BehaviourToInterestRouting):
    """The routing of the package written again, with room for a mistake."""

    mistake = ""
    kept = None

    def route(self, mapped_BTD, mask_BT, **_):
        length, mistake = mapped_BTD.shape[1], self.mistake
        if mistake == "one item only":
            mask_BT = mask_BT & (torch.arange(length) == length - 1)
        active_BK = self.active(mask_BT)
        start_KT = self.start_TK[:length].flip(0).T
        if mistake == "drawn at every call":
            start_KT = torch.randn_like(start_KT)
        if mistake == "kept between calls" and self.kept is not None:
            start_KT = self.kept
        logits_BKT = start_KT.expand(len(mapped_BTD), -1, -1)
        if mistake != "inactive ones take part":
            logits_BKT = logits_BKT.masked_fill(~active_BK[:, :, None], -torch.inf)
        for step in range(self.iterations):
            weights_BKT = self.weights(logits_BKT, mask_BT)
            if step == self.iterations - 1 or (mistake == "late rounds do nothing" and step == 2):
                break
            summed_BKD = weights_BKT @ mapped_BTD
            interests_BKD = summed_BKD if mistake == "no squash between rounds" else squash(summed_BKD)
            if mistake == "unit length between rounds":
                interests_BKD = unit_length(summed_BKD)
            agreement_BKT = interests_BKD @ mapped_BTD.transpose(1, 2)
            if mistake == "shared by the batch":
                agreement_BKT = agreement_BKT.mean(0, keepdim=True)
            before_BKT = logits_BKT
            if mistake == "weight plus agreement":
                before_BKT = weights_BKT.masked_fill(~active_BK[:, :, None], -torch.inf)
            if mistake in ("agreement only", "scaled cosine"):
                before_BKT = torch.zeros_like(logits_BKT).masked_fill(~active_BK[:, :, None], -torch.inf)
            if mistake == "scaled cosine":
                agreement_BKT = 20 * unit_length(interests_BKD) @ unit_length(mapped_BTD).transpose(1, 2)
            logits_BKT = before_BKT + agreement_BKT
        if mistake == "kept between calls":
            self.kept = logits_BKT.detach().nan_to_num(neginf=0.0).mean(0)
        through_all = self.gradient == "all" and mistake != "gradient stops anyway"
        if not through_all and mistake != "gradient not stopped":
            weights_BKT = weights_BKT.detach()
        if mistake == "few rounds train nothing" and self.iterations < 3:
            mapped_BTD = mapped_BTD.detach()
        return squash(weights_BKT @ mapped_BTD), active_BK, weights_BKT.transpose(1, 2)

    def weights(self, logits_BKT, mask_BT):
        if self.mistake == "softmax over the history":
            return logits_BKT.masked_fill(~mask_BT[:, None], -torch.inf).softmax(2).nan_to_num(0.0)
        if self.mistake == "padding in the softmax":
            return (logits_BKT.softmax(2) * mask_BT[:, None]).nan_to_num(0.0)
        return logits_BKT.softmax(1) * mask_BT[:, None]

    def active(self, mask_BT):
        rule = RULES.get(self.mistake, partial(reference.num_active, num_interests=self.num_interests))
        counts = [max(1, min(self.num_interests, rule(n))) for n in mask_BT.sum(1).tolist()]
        return torch.arange(self.num_interests) < torch.tensor(counts)[:, None]


def build(mistake=None, *, loss="sampled_softmax", seed=0, **fields):
    """MIND in float64; `mistake` None has the routing of the package, "" that of `Again`."""
    config = MindConfig(**{**SMALL, **fields})
    model = Mind(config, small_catalog(), loss=loss, seed=seed)
    if mistake is not None:
        dim = config.embedding_dim
        routing = Again(
            dim,
            dim,
            num_interests=config.num_interests,
            history_length=config.history_length,
            iterations=config.routing_iterations,
            gradient=config.routing_gradient,
            seed=seed,
        )
        if mistake == "outside the state":
            routing.register_buffer("start_TK", routing.start_TK, persistent=False)
        routing.mistake = mistake
        model.routing = routing
    return model.double()


def fails_with(check, *mistakes):
    """Assert that `check`, given a function that makes models, holds, but not with any of the mistakes."""
    check(build)
    check(partial(build, ""))
    for mistake in mistakes:
        with pytest.raises(AssertionError):
            check(partial(build, mistake))


def users(**options):
    """A batch in float64."""
    batch = small_batch(**options)
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def differs(a, b):
    return (a - b).abs().max() > 1e-6


def test_logits_are_not_shared_by_users():
    """Row 1."""

    def check(make):
        model, batch = make(), users()
        together, _ = model.encode_users(batch)
        for row in range(len(together)):
            alone, _ = model.encode_users(take_rows(batch, [row]))
            torch.testing.assert_close(alone[0], together[row])

    fails_with(check, "shared by the batch")


def test_logits_do_not_persist_over_calls():
    """Row 2: neither from training to the next call nor from one answer to the next."""

    def check(make):
        model, batch = make(), users()
        first, _ = model.encode_users(batch)
        model(batch)["loss"].backward()
        torch.testing.assert_close(model.encode_users(batch)[0], first)
        torch.testing.assert_close(model.eval().encode_users(batch)[0], first)

    fails_with(check, "kept between calls")


def test_softmax_is_over_interests_not_over_the_history():
    """Row 3."""

    def check(make):
        batch = users()
        torch.testing.assert_close(make().couplings(batch).sum(2), (batch["history"] != 0).double())

    fails_with(check, "softmax over the history")


def routed(model, batch):
    """Behaviours, mask and a fixed direction for the sum of the interests."""
    history = batch["history"]
    upstream = torch.randn(
        len(history), model.routing.num_interests, 6, generator=torch.Generator().manual_seed(1)
    ).double()
    return model.items(history).detach(), history != 0, upstream


def gradient_of_map(model, batch):
    vectors, mask, upstream = routed(model, batch)
    (gradient,) = torch.autograd.grad(
        (model.routing(vectors, mask)[0] * upstream).sum(), model.routing.map_LD
    )
    return gradient


def test_gradient_passes_through_the_last_round_only():
    """Row 4: the weights of the last round are constants."""

    def check(make):
        model, batch = make(routing_iterations=3), users()
        vectors, mask, upstream = routed(model, batch)
        constant = model.routing(vectors, mask)[2].detach().transpose(1, 2)
        interests = squash(constant @ (vectors @ model.routing.map_LD))
        (expected,) = torch.autograd.grad((interests * upstream).sum(), model.routing.map_LD)
        torch.testing.assert_close(gradient_of_map(model, batch), expected)

    fails_with(check, "gradient not stopped")


def test_gradient_all_passes_through_every_round():
    """Row 4, the option: the gradient is the derivative, by central differences (error about 1e-9)."""

    def check(make):
        model, batch = make(routing_gradient="all"), users()
        vectors, mask, upstream = routed(model, batch)
        way = torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).double()
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                interests = model.routing.route(vectors @ (model.routing.map_LD + step * way), mask)[0]
            values.append((interests * upstream).sum())
        slope = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close((gradient_of_map(model, batch) * way).sum(), slope, rtol=1e-6, atol=1e-7)

    fails_with(check, "gradient stops anyway")


def test_any_number_of_rounds_trains_and_matters():
    """Row 5: with two rounds the map is trained as well, and the fourth and fifth still do something."""

    def check(make):
        batch, vectors = users(), []
        for rounds in range(1, 6):
            model = make(routing_iterations=rounds)
            assert model.routing.iterations == rounds
            vectors.append(model.encode_users(batch)[0])
            model(batch)["loss"].backward()
            gradient = model.routing.map_LD.grad
            assert gradient is not None
            assert gradient.abs().max() > 1e-6
        assert all(differs(fewer, more) for fewer, more in itertools.pairwise(vectors))

    fails_with(check, "late rounds do nothing", "few rounds train nothing")


def equals_the_reference(make):
    """Routing weights against tests/reference/mind.py."""
    model, batch = make(routing_iterations=3), users()
    weights, items = model.couplings(batch), model.items(batch["history"]).detach().numpy()
    start, shared_map = model.routing.start_TK.numpy(), model.routing.map_LD.detach().numpy()
    for row, history in enumerate(batch["history"]):
        n = int((history != 0).sum())
        k = reference.num_active(n, 3)
        _, expected = reference.route(items[row, len(history) - n :], shared_map, start[:n][::-1], 3, k)
        found = weights[row, len(history) - n :, :k].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_agreement_is_added_to_the_logits():
    """Row 6: not put in their place, nor added to the weights, nor a cosine."""
    fails_with(equals_the_reference, "agreement only", "weight plus agreement", "scaled cosine")


def test_every_round_squashes():
    """Row 7."""
    fails_with(equals_the_reference, "no squash between rounds", "unit length between rounds")


def test_padding_soaks_up_no_weight():
    """Row 8."""

    def check(make):
        model, batch = make(), users()
        for columns in (1, 20):
            padded = pad_left(batch, columns)
            torch.testing.assert_close(model.encode_users(padded)[0], model.encode_users(batch)[0])
            torch.testing.assert_close(model(padded)["loss"], model(batch)["loss"])

    fails_with(check, "padding in the softmax")


def test_number_of_interests_is_floor_of_log2():
    """Row 9: K'_u = max(1, min(K, floor(log2 n)))."""
    lengths = (0, 1, 2, 3, 4, 7, 8, 50)

    def check(make):
        history = users(lengths=lengths, width=50)
        _, active = make(num_interests=8, history_length=50).encode_users(history)
        assert active.sum(1).tolist() == [1, 1, 1, 1, 2, 2, 3, 5]
        assert (active.int().diff(dim=1) <= 0).all()  # the first ones

    fails_with(check, *RULES)
    for most in (1, 2, 4):
        expected = [min(most, k) for k in (1, 1, 1, 1, 2, 2, 3, 5)]
        assert num_active_interests(torch.tensor(lengths), most).tolist() == expected


def test_inactive_interests_take_no_part():
    """Row 10: they are zero and hold no weight, so they do not become the mean of the history."""

    def check(make):
        model, batch = make(), users()
        vectors, active = model.encode_users(batch)
        assert vectors[~active].abs().sum() == 0
        assert model.couplings(batch).transpose(1, 2)[~active].abs().sum() == 0

    fails_with(check, "inactive ones take part")


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, math.inf])
def test_inactive_interests_are_not_attended(power):
    """Row 10: an inactive interest scores 0, which beats every negative score of the others."""
    interests = torch.tensor([[[-0.5], [-2.0], [0.0]]])
    target, active = torch.ones(1, 1), torch.tensor([[True, True, False]])
    _, weights = label_aware_attention(interests, target, active, power)
    assert weights[0, 2] == 0
    assert weights.sum() == 1
    _, careless = label_aware_attention(interests, target, torch.ones_like(active), power)
    assert careless[0, 2] > 0


class Fixed:
    """A model of given vectors."""

    def __init__(self, vectors, active, items):
        self.vectors, self.active, self.items = vectors, active, items

    def encode_users(self, batch):
        return self.vectors, self.active

    def encode_items(self, item_idx):
        return self.items[item_idx]


def served(model, k):
    index = ExactIndex("inner_product", model.items.shape[1])
    for item_idx, vectors in encode_catalogue(model, len(model.items)):
        index.add(item_idx, vectors)
    return VectorRetriever(model, index).retrieve({}, k)


def test_inactive_interests_are_not_served():
    """Row 10: the zero vector would find every item with score 0, above what the active interest finds."""
    items = torch.tensor([[0.0], [0.0], [-3.0], [-1.0], [-2.0]])
    vectors, active = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[True, False]])
    found = served(Fixed(vectors, active, items), 3)
    assert found.item_idx.tolist() == [[3, 4, 2]]
    assert found.score.tolist() == [[-1.0, -2.0, -3.0]]
    careless = served(Fixed(vectors, torch.ones_like(active), items), 3)
    assert careless.score.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("power", [0.5, 1.7, 2.0, 4.0])
def test_negative_scores_are_not_raised_to_a_power(power):
    """Row 11: a fractional power of a negative score is NaN, an even one makes the worst the best."""
    scores = torch.tensor([[-1.5, 0.5, 1.0]])
    weights = label_aware_attention(
        scores[..., None], torch.ones(1, 1), torch.ones(1, 3, dtype=torch.bool), power
    )[1]
    assert weights.argmax() == 2
    assert weights.argmin() == 0
    raw = scores.pow(power).softmax(1)
    assert raw.isnan().any() or raw.argmax() == 0


@pytest.mark.parametrize(
    ("scores", "best"), [((-0.9, 0.5, 0.3), 1), ((0.3, 0.35, 0.1), 1), ((0.5, 2.5, 2.6), 2)]
)
def test_default_choice_is_the_largest_score(scores, best):
    """Row 12: argmax of score^100 takes the most opposed one, or the first of zeros or infinities."""
    assert MindConfig().label_power == math.inf
    row = torch.tensor([scores])
    active = torch.ones(1, 3, dtype=torch.bool)
    vector, weights = label_aware_attention(
        row[..., None], torch.ones(1, 1), active, MindConfig().label_power
    )
    assert weights.argmax() == best
    assert vector.item() == pytest.approx(scores[best])
    assert row.pow(100).argmax() != best
    _, soft = label_aware_attention(row[..., None], torch.ones(1, 1), active, 100.0)
    assert torch.isfinite(soft).all()
    assert soft[0, best] == soft.max()


def test_a_user_has_the_same_vectors_in_every_call():
    """Row 13: whatever the call, the batch, the padding, the mode and the global random state."""

    def check(make):
        model, batch = make(), users()
        vectors, _ = model.encode_users(batch)
        torch.manual_seed(5)
        torch.testing.assert_close(model.encode_users(batch)[0], vectors)
        torch.testing.assert_close(model.eval().encode_users(batch)[0], vectors)
        torch.testing.assert_close(model.encode_users(pad_left(batch, 3))[0], vectors)
        torch.testing.assert_close(model.encode_users(take_rows(batch, [5]))[0], vectors[5:])
        torch.testing.assert_close(make().encode_users(batch)[0], vectors)

    fails_with(check, "drawn at every call")


PRINT_DIGEST = """
import hashlib, torch
torch.set_num_threads(1)
from raysys.models.mind import Mind, MindConfig
from tests.reference.world import small_batch, small_catalog
config = MindConfig(embedding_dim=6, num_interests=3, history_length=7, hidden_dims=(10,))
model = Mind(config, small_catalog())
vectors = model.encode_users(small_batch())[0]
print(hashlib.sha256(vectors.detach().numpy().tobytes()).hexdigest())
"""


def test_a_user_has_the_same_vectors_in_every_process():
    """Row 13."""
    done = subprocess.run([sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True)
    vectors, _ = build(history_length=7).float().encode_users(small_batch())
    assert done.stdout.strip() == hashlib.sha256(vectors.detach().numpy().tobytes()).hexdigest()


def test_start_is_part_of_the_state():
    """Row 13: loading the weights into another model gives the same vectors."""

    def check(make):
        model, other, batch = make(seed=1), make(seed=2), users()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.encode_users(batch)[0], model.encode_users(batch)[0])

    fails_with(check, "outside the state")


def test_every_item_of_the_history_counts():
    """Row 14."""

    def check(make):
        model, batch = make(), users()
        vectors, _ = model.encode_users(batch)
        for column in range(9):
            changed = {**batch, "history": batch["history"].clone()}
            changed["history"][-1, column] = 2 + (int(batch["history"][-1, column]) + 3) % (NUM_ITEMS - 2)
            assert differs(model.encode_users(changed)[0][-1], vectors[-1])

    fails_with(check, "one item only")


def test_a_single_linear_layer_is_enough():
    """Remark on row 9: a user network of one layer must not end the construction."""
    model, batch = build(hidden_dims=()), users()
    assert len(model.layers.weights) == 1
    model(batch)["loss"].backward()
    assert torch.isfinite(model.encode_users(batch)[0]).all()


def test_every_weight_is_initialised(monkeypatch):
    """Remark on row 9: memory that is allocated and never filled is filled with NaN here."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(math.nan))
    assert torch.empty(3).isnan().all()
    model = build()
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if not name.startswith("items.values_"):  # a missing number of an item is NaN
            assert torch.isfinite(values).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("power", [0.5, 2.0, math.inf])
def test_empty_histories_are_finite_in_every_precision(dtype, power):
    """Remark: 0 / 0 in squash, in the softmax of no item or in the power of a zero score."""
    model = build(label_power=power, normalize=True, profile_features=()).to(dtype)
    batch = small_batch(lengths=(0, 0, 1, 4))
    loss = model(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(model.encode_users(batch)[0]).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("num_interests", [1, 4])
def test_padding_is_never_recommended_with_one_interest_or_several(num_interests):
    """Remark on row 9: item 0 dropped on the path of several vectors and left in on that of one."""
    model = build(num_interests=num_interests).float()
    index = ExactIndex("inner_product", 6)
    for item_idx, vectors in encode_catalogue(model, NUM_ITEMS):
        index.add(item_idx, vectors)
    found = VectorRetriever(model, index).retrieve(small_batch(), NUM_ITEMS)
    real = found.item_idx[found.item_idx >= 0].reshape(6, -1)
    assert np.sort(real, axis=1).tolist() == [list(range(2, NUM_ITEMS))] * 6


def loss_by_index(model, batch, index):
    """The full softmax loss from what an index answers: the best interest, and all items under it."""
    vectors, active = (values.detach().numpy() for values in model.encode_users(batch))
    losses = []
    for row, target in enumerate(batch["target"].tolist()):
        answers = index.search(vectors[row][active[row]], index.num_items)
        scores = [
            dict(zip(items, values, strict=True))
            for items, values in zip(answers.item_idx.tolist(), answers.score.tolist(), strict=True)
        ]
        best = max(scores, key=lambda of: of[target])
        logits = torch.tensor([best[item] for item in sorted(best)]) / model.config.temperature
        losses.append(functional.cross_entropy(logits, torch.tensor(sorted(best).index(target))).item())
    return float(np.mean(losses))


def index_of(num_items, encode):
    index = ExactIndex("inner_product", 6)
    item_idx = np.arange(2, num_items)
    index.add(item_idx, encode(torch.from_numpy(item_idx)).detach().numpy())
    return index


@pytest.mark.parametrize("normalize", [False, True])
def test_training_and_index_use_one_similarity(normalize):
    """Normalisation: a raw product in the loss and a cosine in the index, or only one side scaled."""
    model = build(loss="full_softmax", normalize=normalize, temperature=0.2).float()
    batch = small_batch()
    expected = model(batch)["loss"].item()
    exported = index_of(NUM_ITEMS, model.encode_items)
    assert loss_by_index(model, batch, exported) == pytest.approx(expected, rel=1e-5)
    other = index_of(NUM_ITEMS, model.items if normalize else lambda j: unit_length(model.items(j)))
    assert loss_by_index(model, batch, other) != pytest.approx(expected, rel=1e-3)


def test_normalize_scales_users_and_items_alike():
    """Normalisation of user vectors only, so that long item vectors win whatever the user."""
    model, batch = build(normalize=True), users()
    vectors, active = model.encode_users(batch)
    torch.testing.assert_close(vectors[active].norm(dim=1), torch.ones(int(active.sum())).double())
    items = model.encode_items(torch.arange(2, NUM_ITEMS))
    torch.testing.assert_close(items.norm(dim=1), torch.ones(NUM_ITEMS - 2).double())
    assert differs(model.items(torch.arange(2, NUM_ITEMS)).norm(dim=1), items.norm(dim=1))


@pytest.mark.parametrize("loss", ["sampled_softmax", "full_softmax"])
def test_temperature_reaches_the_loss(loss):
    """A temperature that is accepted and never used."""
    batch = users()
    warm, cold = (build(loss=loss, temperature=t)(batch)["loss"] for t in (1.0, 0.1))
    assert differs(warm, cold)
