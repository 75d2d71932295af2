import itertools

import numpy as np
import pytest
import torch

from raysys.errors import ConfigError
from raysys.nn.capsule import BehaviourToInterestRouting, num_active_interests, squash
from tests.reference import mind as reference

LENGTHS = (0, 1, 3, 4, 7, 8, 12)
WIDTH = 12


def layer(**options):
    options = {"num_interests": 3, "history_length": WIDTH, **options}
    return BehaviourToInterestRouting(5, 4, **options).double()


def behaviours(lengths=LENGTHS, width=WIDTH, dim=5, seed=0, padding=0.0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(lengths), width, dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None], vectors, padding), mask


def expected_of(routing, vectors, mask, rounds):
    """(interests, weights) of the reference, in the padded layout."""
    start = routing.start_TK.numpy()
    interests = np.zeros((len(vectors), routing.num_interests, routing.map_LD.shape[1]))
    weights = np.zeros((*mask.shape, routing.num_interests))
    for row in range(len(vectors)):
        low = vectors[row, mask[row]].numpy()
        n = len(low)
        k = reference.num_active(n, routing.num_interests) if routing.adaptive else routing.num_interests
        got = reference.route(low, routing.map_LD.detach().numpy(), start[:n][::-1], rounds, k)
        interests[row, :k] = got[0]
        weights[row, mask.shape[1] - n :, :k] = got[1]
    return interests, weights


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
@pytest.mark.parametrize("gradient", ["last", "all"])
def test_pitfall_mind_06_routing_equals_the_reference_in_every_round(rounds, adaptive, gradient):
    routing = layer(iterations=rounds, adaptive=adaptive, gradient=gradient)
    vectors, mask = behaviours()
    interests, active, weights = routing(vectors, mask)
    expected_interests, expected_weights = expected_of(routing, vectors, mask, rounds)
    np.testing.assert_allclose(interests.detach().numpy(), expected_interests, atol=1e-12)
    np.testing.assert_allclose(weights.detach().numpy(), expected_weights, atol=1e-12)
    counts = [reference.num_active(n, 3) if adaptive else 3 for n in LENGTHS]
    assert active.sum(1).tolist() == counts


def test_pitfall_mind_01_users_do_not_share_logits():
    routing = layer()
    vectors, mask = behaviours()
    together = routing(vectors, mask)
    for row in range(len(LENGTHS)):
        alone = routing(vectors[row : row + 1], mask[row : row + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[row : row + 1], b)


def test_pitfall_mind_02_logits_do_not_live_on_between_calls():
    routing = layer()
    before = routing.start_TK.clone()
    vectors, mask = behaviours()
    first = routing(vectors, mask)[0]
    for _ in range(3):
        routing(vectors, mask)[0].sum().backward()
    assert torch.equal(routing(vectors, mask)[0], first)
    assert torch.equal(routing.start_TK, before)
    assert not routing.start_TK.requires_grad


def test_pitfall_mind_03_softmax_over_interests():
    vectors, mask = behaviours()
    weights = layer()(vectors, mask)[2]
    torch.testing.assert_close(weights.sum(2), mask.double())
    assert (weights.sum(1)[-1] - 1).abs().min() > 1e-2  # and not over the history


def test_pitfall_mind_04_gradient_passes_through_the_last_round_only():
    routing = layer(iterations=3)
    vectors, mask = behaviours()
    _, _, weights = routing(vectors, mask)
    upstream = torch.randn(
        len(LENGTHS), 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    (routing(vectors, mask)[0] * upstream).sum().backward()
    got = routing.map_LD.grad.clone()
    routing.map_LD.grad = None
    constant = weights.detach().transpose(1, 2)
    (squash(constant @ (vectors @ routing.map_LD)) * upstream).sum().backward()
    torch.testing.assert_close(got, routing.map_LD.grad)


def test_gradient_all_is_the_whole_derivative():
    routing = layer(iterations=3, gradient="all")
    vectors, mask = behaviours(lengths=(3, 8))

    def interests(shared_map):
        return routing.route(vectors @ shared_map, mask)[0]

    assert torch.autograd.gradcheck(interests, (routing.map_LD,))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("gradient", ["last", "all"])
def test_pitfall_mind_05_every_number_of_rounds_trains_the_map(rounds, gradient):
    routing = layer(iterations=rounds, gradient=gradient)
    routing(*behaviours())[0].square().sum().backward()
    assert torch.isfinite(routing.map_LD.grad).all()
    assert routing.map_LD.grad.abs().max() > 1e-3


def test_pitfall_mind_05_late_rounds_still_move_the_interests():
    vectors, mask = behaviours()
    outputs = [layer(iterations=rounds)(vectors, mask)[0] for rounds in range(1, 6)]
    for fewer, more in itertools.pairwise(outputs):
        assert (fewer - more).abs().max() > 1e-4


def test_gradient_options_agree_in_value_and_differ_in_gradient():
    vectors, mask = behaviours()
    gradients = {}
    values = {}
    for option in ("last", "all"):
        routing = layer(gradient=option)
        values[option] = routing(vectors, mask)[0]
        values[option].square().sum().backward()
        gradients[option] = routing.map_LD.grad
    assert torch.equal(values["last"], values["all"])
    assert (gradients["last"] - gradients["all"]).abs().max() > 1e-3


def test_pitfall_mind_07_squash_in_every_round():
    # two rounds by hand, the first one squashed; without that squash the weights differ
    routing = layer(iterations=2, adaptive=False)
    vectors, mask = behaviours(lengths=(WIDTH,))
    mapped = vectors[0] @ routing.map_LD.detach()
    start = routing.start_TK.flip(0)
    inner = start.softmax(1).T @ mapped
    squashed = torch.stack([torch.from_numpy(reference.squash(z.tolist())) for z in inner])
    weights = routing(vectors, mask)[2][0]
    torch.testing.assert_close(weights, (start + mapped @ squashed.T).softmax(1))
    assert (weights - (start + mapped @ inner.T).softmax(1)).abs().max() > 1e-2


@pytest.mark.parametrize("filler", [0.0, 100.0])
def test_pitfall_mind_08_padding_soaks_up_no_weight(filler):
    routing = layer()
    vectors, mask = behaviours(padding=filler)
    clean, _ = behaviours()
    interests, _, weights = routing(vectors, mask)
    assert weights[~mask].abs().sum() == 0
    torch.testing.assert_close(interests, routing(clean, mask)[0])


def test_more_or_fewer_columns_of_padding_change_nothing():
    routing = layer()
    vectors, mask = behaviours(lengths=(0, 2, 5))
    wide = routing(vectors, mask)
    narrow = routing(vectors[:, -5:], mask[:, -5:])
    torch.testing.assert_close(wide[0], narrow[0])
    torch.testing.assert_close(wide[2][:, -5:], narrow[2])
    empty = routing(vectors[:, :0], mask[:, :0])
    assert empty[0].abs().sum() == 0


def test_starting_logits_belong_to_positions_counted_from_the_latest_item():
    # items that swap places swap their starting logits, so order matters; the reference does the same
    routing = layer(iterations=1)
    vectors, mask = behaviours(lengths=(4,))
    swapped = vectors.clone()
    swapped[:, -1], swapped[:, -2] = vectors[:, -2], vectors[:, -1]
    weights, weights_swapped = routing(vectors, mask)[2], routing(swapped, mask)[2]
    torch.testing.assert_close(weights, weights_swapped)  # round one knows positions only
    assert (routing(vectors, mask)[0] - routing(swapped, mask)[0]).abs().max() > 1e-3
    torch.testing.assert_close(weights[0, -1, :2], routing.start_TK[0, :2].softmax(0))


def test_pitfall_mind_09_number_of_interests():
    lengths = torch.tensor([0, 1, 2, 3, 4, 7, 8, 50])
    assert num_active_interests(lengths, 8).tolist() == [1, 1, 1, 1, 2, 2, 3, 5]
    assert num_active_interests(lengths, 4).tolist() == [1, 1, 1, 1, 2, 2, 3, 4]
    assert num_active_interests(lengths, 1).tolist() == [1] * 8


def test_pitfall_mind_09_powers_of_two_are_exact():
    powers = torch.tensor([2**e + d for e in range(2, 62) for d in (-1, 0, 1)])
    expected = [reference.num_active(n, 100) for n in powers.tolist()]
    assert num_active_interests(powers, 100).tolist() == expected


def test_pitfall_mind_10_inactive_interests_are_zero():
    vectors, mask = behaviours()
    interests, active, weights = layer()(vectors, mask)
    assert interests[~active].abs().sum() == 0
    assert weights.transpose(1, 2)[~active].abs().sum() == 0
    assert (interests[active].norm(dim=1) > 0).sum() == active.sum() - 1  # but for the empty history


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adaptive", [True, False])
def test_empty_history_is_finite_and_zero(dtype, adaptive):
    routing = layer(adaptive=adaptive, gradient="all").to(dtype)
    vectors, mask = behaviours(lengths=(0, 0, 6))
    interests, _, weights = routing(vectors.to(dtype), mask)
    assert interests.dtype == weights.dtype == dtype
    assert interests[:2].abs().sum() == 0
    interests.square().sum().backward()
    assert torch.isfinite(routing.map_LD.grad).all()


def test_bfloat16_is_near_float32():
    # 8 bits of mantissa and sums over 12 items: 3 % of a length below one
    vectors, mask = behaviours()
    exact = layer()(vectors, mask)[0]
    rough = layer().to(torch.bfloat16)(vectors.to(torch.bfloat16), mask)[0]
    assert (exact - rough.double()).abs().max() < 0.03


def test_pitfall_mind_13_start_is_seeded_and_saved():
    torch.manual_seed(0)
    first = layer(seed=4)
    torch.manual_seed(1)
    again = layer(seed=4)
    assert torch.equal(first.start_TK, again.start_TK)
    assert torch.equal(first.map_LD, again.map_LD)
    assert not torch.equal(first.start_TK, layer(seed=5).start_TK)
    assert "start_TK" in first.state_dict()
    assert float(layer(history_length=5000, sigma=3.0).start_TK.std()) == pytest.approx(3.0, rel=0.03)


def test_squash_by_hand():
    # |z| = 5: 25/26 of the direction
    out = squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(out[0], torch.tensor([0.6, 0.8], dtype=torch.float64) * 25 / 26)
    assert out[1].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squash_has_a_finite_gradient_at_and_near_zero(dtype):
    vectors = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-6, 1e-6]], dtype=dtype, requires_grad=True)
    squash(vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()
    assert vectors.grad[0].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_interests": 0}, "num_interests: found 0, expected >= 1"),
        ({"iterations": 0}, "routing_iterations: found 0, expected >= 1"),
        ({"history_length": 0}, "history_length: found 0, expected >= 1"),
        ({"sigma": 0.0}, "routing_sigma: found 0.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        layer(**options)
