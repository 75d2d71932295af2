"""Steps of training on one device: the schedule of the step size and where it is applied."""

import itertools
import math

import pytest
import torch

from raysys.errors import TrainingError
from raysys.training import LOWEST_RATE, build_optimizer, learning_rate, train_steps
from raysys.training_config import TrainingConfig


def rates(total=40, **fields):
    config = TrainingConfig(learning_rate=0.2, **fields)
    return [learning_rate(config, step, total) for step in range(total)]


def test_a_constant_rate():
    assert rates() == [0.2] * 40


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [1, 4, 10])
def test_the_warm_up_rises_in_equal_steps_to_the_rate(schedule, warmup):
    found = rates(schedule=schedule, warmup_steps=warmup)
    assert found[:warmup] == pytest.approx([0.2 * (step + 1) / warmup for step in range(warmup)])
    assert found[warmup - 1] == found[warmup] == max(found) == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", [0, 5])
def test_the_cosine_falls_to_a_hundredth_at_the_last_step(warmup):
    found = rates(total=41, schedule="cosine", warmup_steps=warmup)
    falling = found[warmup:]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert found[-1] == pytest.approx(0.2 * LOWEST_RATE)
    assert LOWEST_RATE == 0.01
    last = len(falling) - 1
    for step, rate in enumerate(falling):
        share = (1 + math.cos(math.pi * step / last)) / 2
        assert rate == pytest.approx(0.2 * (0.01 + 0.99 * share))


@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_a_warm_up_as_long_as_training_is_all_there_is(total):
    found = rates(total=total, schedule="cosine", warmup_steps=4)
    assert found == pytest.approx([0.05, 0.1, 0.15, 0.2][:total])


def test_steps_after_the_last_keep_the_lowest_rate():
    config = TrainingConfig(learning_rate=0.2, schedule="cosine")
    assert learning_rate(config, 100, 40) == pytest.approx(0.002)


class Line(torch.nn.Module):
    """Its gradient is always one, so a step of plain descent is the step size."""

    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"loss": self.at * batch["scale"], "twice": 2 * self.at}


def steps(rate=None, first=0, count=4, scale=1.0):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    batch = {"scale": torch.tensor(scale), "target": torch.zeros(3)}
    batches = ((step, batch) for step in range(first, first + count))

    def after(step, totals):
        seen.append((step, model.at.item()))
        return step == 2

    totals = train_steps(model, optimizer, batches, TrainingConfig(), after, rate=rate)
    return seen, totals


def test_each_step_takes_its_own_rate():
    seen, totals = steps(lambda step: 0.1 * (step + 1))
    assert [step for step, _ in seen] == [0, 1, 2]  # stopped by the callback
    assert [at for _, at in seen] == pytest.approx([-0.1, -0.3, -0.6])
    assert totals.samples == 9
    assert totals.means()["twice"] == pytest.approx(2 * totals.means()["loss"])


def test_without_a_schedule_the_optimiser_keeps_its_rate():
    assert [at for _, at in steps()[0]] == [-1.0, -2.0, -3.0]


def test_a_loss_that_is_not_finite_moves_nothing():
    with pytest.raises(TrainingError, match="step 5, rank 0: the loss is nan"):
        steps(first=5, scale=math.nan)


def test_the_optimiser_starts_from_the_configured_rate():
    optimizer = build_optimizer(Line(), TrainingConfig(learning_rate=0.3, weight_decay=0.1))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.3, 0.1)]
