"""The gradient of a look-up: that of an embedding, and that of counting by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from raysys.nn.lookup import look_up

V, D = 37, 5


def _grads(index: torch.Tensor, threads: int) -> list[torch.Tensor]:
    """Return the gradients of both ways, for the same upstream gradient."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(V, D, generator=generator)
    weight = torch.randn(*index.shape, D, generator=generator)
    found = []
    for way in (look_up, lambda i, t: functional.embedding(i, t, padding_idx=0)):
        table = start.clone().requires_grad_()
        (way(index, table) * weight).sum().backward()
        assert table.grad is not None
        found.append(table.grad)
    return found


@pytest.mark.parametrize("shape", [(0,), (1,), (64,), (300, 50), (3, 1), (2, 7, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_and_gradients_are_those_of_an_embedding(shape: tuple[int, ...], threads: int) -> None:
    before = torch.get_num_threads()
    index = torch.from_numpy((np.random.default_rng(0).random(shape) ** 3 * V).astype(np.int64))
    table = torch.randn(V, D, requires_grad=True)
    try:
        torch.testing.assert_close(look_up(index, table), table.detach()[index], rtol=0, atol=0)
        ours, theirs = _grads(index, threads)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_gradient_is_the_sum_over_the_places_of_a_row() -> None:
    index = torch.tensor([[3, 0, 3], [1, 3, 0]])
    table = torch.zeros(4, 2, requires_grad=True)
    weight = torch.arange(12.0).reshape(2, 3, 2)
    (look_up(index, table) * weight).sum().backward()
    expected = np.zeros((4, 2))
    for place, row in np.ndenumerate(index.numpy()):
        if row != 0:  # padding
            expected[row] += weight.numpy()[place]
    assert table.grad is not None
    np.testing.assert_array_equal(table.grad.numpy(), expected)


def test_a_gradient_that_is_not_contiguous_counts_as_any_other() -> None:
    index = torch.tensor([[3, 1, 3], [1, 3, 2]])
    table = torch.zeros(4, 2, requires_grad=True)
    look_up(index, table).transpose(0, 1).sum().backward()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [0.0, 2.0, 1.0, 3.0]


def test_without_a_gradient_nothing_is_kept_for_one() -> None:
    table = torch.zeros(4, 2, requires_grad=True)
    with torch.no_grad():
        assert look_up(torch.tensor([1]), table).grad_fn is None
    assert look_up(torch.tensor([1]), table.detach()).grad_fn is None
