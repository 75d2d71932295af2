"""Population-based training: who takes over from whom, and how values move."""

import numpy as np
import pytest

from raysys.tuning.population import draw, ends, explore, moves, step
from raysys.tuning.space_config import Parameter
from raysys.tuning.trials import Trial
from tests.unit.tuning.spaces import planted_base, space_of

METRIC = "valid/ndcg@10"
SPACE = """base = "run.toml"
[search]
metric = "{metric}"
algorithm = "random"
scheduler = "pbt"
trials = 8
{search}
[space]
"training.learning_rate" = {{ type = "float", min = 1e-3, max = 0.05, scale = "log" }}
"model.train_score" = {{ type = "choice", values = ["served", "label_aware"] }}
"model.label_power" = {{ type="choice", values=[1.0, inf], when={{"model.train_score"=["label_aware"]}} }}
"model.num_negatives" = {{ type = "int", min = 10, max = 40 }}
"""
LITERALS = {
    "training.learning_rate": "0.01",
    "model.train_score": '"label_aware"',
    "model.label_power": "inf",
    "model.num_negatives": "20",
}
RATE = Parameter(type="float", min=0.001, max=0.05, scale="log")
COUNT = Parameter(type="int", min=1, max=9)
CHOICE = Parameter(type="choice", values=(32, 64, 128))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return planted_base(tmp_path_factory.mktemp("population"))


def space(folder, metric=METRIC, search=""):
    return space_of(folder, SPACE.format(metric=metric, search=search))


def members(*scores, metric=METRIC, literals=LITERALS):
    return [
        Trial(
            number=number, kind="search", literals=dict(literals), seed=1, of=number,
            curve=[{metric: 0.0}, {metric: score}],
        )
        for number, score in enumerate(scores)
    ]  # fmt: skip


def test_the_last_quarter_takes_over_from_the_first(folder):
    found = moves(space(folder), members(0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.4, 0.6), 2)
    assert [move.number for move in found] == [5, 1]
    assert {move.of for move in found} <= {2, 4}
    assert [move.score for move in found] == [0.2, 0.1]


def test_of_a_metric_whose_smaller_value_is_better_the_largest_take_over(folder):
    metric = "valid/gini@10"
    found = moves(space(folder, metric), members(0.5, 0.1, 0.9, 0.3, metric=metric), 2)
    assert [(move.number, move.of) for move in found] == [(2, 1)]


def test_all_members_can_be_a_donor_or_a_taker_but_never_both(folder):
    wide = space(folder, search="exploit_share = 0.5")
    for count in (2, 3, 5, 8):
        found = moves(wide, members(*np.linspace(0, 1, count)), 2)
        assert len(found) == count // 2
        assert not {move.number for move in found} & {move.of for move in found}


def test_equal_trials_stay_as_they_are_and_one_that_is_behind_takes_no_part(folder):
    assert moves(space(folder), members(0.5, 0.5, 0.5, 0.5), 2) == []
    late = members(0.1, 0.5, 0.9)
    del late[0].curve[1]
    assert [(move.number, move.of) for move in moves(space(folder), late, 2)] == [(1, 2)]


def test_moves_depend_on_seed_epoch_and_curves_and_on_no_order(folder):
    of_all = members(0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.4, 0.6)
    first = moves(space(folder), of_all, 2)
    assert moves(space(folder), of_all[::-1], 2) == first
    assert moves(space(folder, search="seed = 1"), of_all, 2) != first
    for trial in of_all:
        trial.curve.append(trial.curve[-1])
    assert moves(space(folder), of_all, 3) != first


def test_explored_values_lie_in_the_space_and_go_together(folder):
    known, random = space(folder, search="resample = 0.5"), np.random.default_rng(0)
    values = members(0.1)[0].values
    seen = [explore(known, values, random) for _ in range(200)]
    for found in seen:
        assert all(known.parameters[key].holds(value) for key, value in found.items())
        assert ("model.label_power" in found) == (found["model.train_score"] == "label_aware")
        known.run(found, 0)
    assert len({found["training.learning_rate"] for found in seen}) > 50
    assert {found["model.train_score"] for found in seen} == {"served", "label_aware"}


def test_without_resampling_every_value_moves_one_step(folder):
    known, random = space(folder, search="resample = 0.0"), np.random.default_rng(0)
    values = members(0.1)[0].values
    for _ in range(50):
        found = explore(known, values, random)
        assert round(found["training.learning_rate"] / 0.01, 6) in (0.8, 1.2)
        assert found["model.num_negatives"] in (16, 24)


@pytest.mark.parametrize(
    ("parameter", "value", "down", "up"),
    [
        (RATE, 0.01, 0.008, 0.012),
        (RATE, 0.045, 0.036, 0.05),
        (RATE, 0.001, 0.001, 0.0012),
        (COUNT, 5, 4, 6),
        (COUNT, 2, 1, 3),
        (COUNT, 1, 1, 2),
        (COUNT, 9, 7, 9),
        (CHOICE, 64, 32, 128),
        (CHOICE, 32, 32, 64),
        (CHOICE, 128, 64, 128),
    ],
)
def test_a_step_is_a_factor_or_a_neighbour_and_stays_inside(parameter, value, down, up):
    assert step(parameter, value, up=False) == pytest.approx(down)
    assert step(parameter, value, up=True) == pytest.approx(up)
    assert isinstance(step(parameter, value, up=True), type(value))


def test_drawn_values_fill_the_space_evenly_on_its_scale():
    random = np.random.default_rng(0)
    counts = np.bincount([draw(COUNT, random) for _ in range(9000)], minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 850
    rates = np.array([draw(RATE, random) for _ in range(4000)])
    assert rates.min() >= 0.001
    assert rates.max() <= 0.05
    assert np.median(rates) == pytest.approx(np.sqrt(0.001 * 0.05), rel=0.1)
    assert {draw(CHOICE, random) for _ in range(100)} == {32, 64, 128}
    log_count = Parameter(type="int", min=1, max=100, scale="log")
    drawn = [draw(log_count, random) for _ in range(4000)]
    assert {min(drawn), max(drawn)} == {1, 100}
    assert np.mean(np.array(drawn) < 10) == pytest.approx(0.5, abs=0.05)


def test_ends_stand_for_all_values():
    assert ends(CHOICE) == (32, 64, 128)
    assert ends(COUNT) == (1, 9)
