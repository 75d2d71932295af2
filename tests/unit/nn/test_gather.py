"""Two gloo processes with half of the batch each equal one process with the whole batch."""

import pytest
import torch
from torch import multiprocessing

from raysys.nn.gather import gather_rows
from tests.reference.ranks import VARIANTS, WORLD, cases, global_batch, rank_main, tiny_model


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank got."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    multiprocessing.spawn(rank_main, args=(folder,), nprocs=WORLD)
    return [torch.load(f"{folder}/rank{rank}.pt") for rank in range(WORLD)]


def test_rows_come_in_the_order_of_the_ranks(ranks):
    rows = torch.arange(6.0).reshape(3, 2)
    for gathered, _, numbers in (found["gather"] for found in ranks):
        assert torch.equal(gathered, torch.cat([rows, rows + 10]))
        assert numbers.tolist() == [0, 7, 1, 7]
        assert numbers.dtype == torch.int64


def test_the_gradient_of_a_row_is_the_sum_over_the_ranks(ranks):
    # rank r asks (1 + r) i of row i
    for rank, (_, gradient, _) in enumerate(found["gather"] for found in ranks):
        asked = 3.0 * torch.arange(3 * rank, 3 * rank + 3)
        assert torch.equal(gradient, asked[:, None].expand(3, 2))


def test_without_a_group_rows_are_returned_as_they_are():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows


@pytest.mark.parametrize(("loss", "variant", "num_items"), cases())
def test_two_ranks_equal_one(ranks, loss, variant, num_items):
    # float64; sums in another order
    model = tiny_model(loss, VARIANTS[variant], num_items)
    value = model(global_batch(num_items))["loss"]
    value.backward()
    for found in ranks:
        loss_found, gradients = found[loss, variant, num_items]
        torch.testing.assert_close(loss_found, value.detach(), rtol=1e-12, atol=0)
        assert set(gradients) == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().max() > 0, name
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-13)
