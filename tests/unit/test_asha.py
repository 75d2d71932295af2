"""Early stopping: who is ended at a rung, and who never is."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raysys.distributed.asha import Asha, scheduler_of
from raysys.distributed.searcher import NUMBER
from raysys.tuning.trials import Trial
from tests.reference.logs import run_file
from tests.unit.tuning.spaces import SPACE, planted_base, space_of

METRIC = "valid/ndcg@10"
ASHA = SPACE.replace("trials = 5", "trials = 5\nmax_epochs = 9\nreduction_factor = 3.0")


@pytest.fixture
def folder(tmp_path):
    return planted_base(tmp_path)


def decide(scheduler, number, score, metric=METRIC):
    trial = SimpleNamespace(trial_id=str(number), config={NUMBER: number})
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": 1, metric: score})


def earlier(number, score):
    return Trial(
        number=number,
        kind="search",
        literals={},
        seed=1,
        status="finished",
        curve=[{METRIC: score}],
        of=number,
    )


def test_who_lags_at_a_rung_is_ended_but_never_the_untuned(folder):
    scheduler = scheduler_of(space_of(folder, ASHA), [earlier(1, 0.3), earlier(2, 0.4), earlier(3, 0.5)])
    assert isinstance(scheduler, Asha)
    assert decide(scheduler, 4, 0.6) == TrialScheduler.CONTINUE
    assert decide(scheduler, 5, 0.1) == TrialScheduler.STOP
    assert decide(scheduler, 0, 0.1) == TrialScheduler.CONTINUE


def test_of_a_metric_whose_smaller_value_is_better_the_large_are_ended(folder):
    metric = "valid/gini@10"
    scheduler = scheduler_of(space_of(folder, ASHA, f"search.metric={metric}"), [])
    for number, score in enumerate((0.5, 0.4, 0.3), 1):
        decide(scheduler, number, score, metric)
    assert decide(scheduler, 4, 0.2, metric) == TrialScheduler.CONTINUE
    assert decide(scheduler, 5, 0.9, metric) == TrialScheduler.STOP


def test_without_epochs_or_by_wish_nobody_is_ended(folder):
    assert isinstance(scheduler_of(space_of(folder, SPACE, "search.scheduler=none"), []), FIFOScheduler)
    run_file(folder, model='name = "item_cf"', training="seed = 3")
    counting = (
        SPACE.partition("[space]")[0] + '[space]\n"model.decay" = { type = "float", min = 0.5, max = 1.0 }\n'
    )
    assert isinstance(scheduler_of(space_of(folder, counting), []), FIFOScheduler)
