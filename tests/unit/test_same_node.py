"""Sums through shared memory equal sums computed in one place, on every rank to the bit."""

import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from tests.reference.shared_sums import LENGTHS, WORLD, rank_main, rank_without_memory, values

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")


def test_sums_are_exact_alike_on_all_ranks_and_nothing_is_left(tmp_path: Path) -> None:
    multiprocessing.spawn(rank_main, args=(str(tmp_path),), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(WORLD)]
    for turn, length in enumerate(LENGTHS * 40):
        exact = torch.stack([values(rank, turn, length) for rank in range(WORLD)]).sum(0)
        for found in ranks:
            torch.testing.assert_close(found["found"][turn], exact, rtol=1e-6, atol=1e-6)
            assert torch.equal(found["found"][turn], ranks[0]["found"][turn])
    for found in ranks:
        assert found["double"].tolist() == [3.0] * 5
        assert found["left"] == []


def test_a_rank_that_cannot_map_the_memory_is_an_error_on_all(tmp_path: Path) -> None:
    multiprocessing.spawn(rank_without_memory, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        messages = torch.load(tmp_path / f"rank{rank}.pt")
        assert len(messages) == 2
        assert all("cannot map" in message for message in messages)
