"""The parts of the doctor that need no run: timelines worked out by hand, statistics with planted answers."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.data.splits import SplitConfig
from raysys.errors import DataError
from raysys.evaluation.doctor.census import Census
from raysys.evaluation.doctor.check import Diagnosis, judged, not_checked
from raysys.evaluation.doctor.history_checks import (
    Sampled,
    Shown,
    Stored,
    cold_start,
    future_items,
    split_leakage,
)
from raysys.evaluation.doctor.item_checks import likely_mistakes, reserved_items
from raysys.evaluation.doctor.negative_checks import (
    DRAWS,
    expected_prob,
    logq_correction,
    rank_correlation,
    sampler_order,
)
from raysys.evaluation.doctor.outcome_checks import (
    chance_level,
    chance_of_hit,
    learning_curve,
    saturated_gate,
)
from raysys.evaluation.doctor.probes import margin_of
from raysys.evaluation.doctor.ranking import Users, best_targets, standing
from raysys.evaluation.doctor.timeline import LoggedEvent, build_timeline, expected_inputs
from raysys.training_config import TrainingConfig

TRAIN, VALID, TEST, HISTORY, CONTEXT = range(5)


def events(*rows):
    """Return logged events of (item, seconds), at the place where they stand."""
    return [LoggedEvent(item, at * 10**9, 0, None, None, place) for place, (item, at) in enumerate(rows)]


def test_a_timeline_by_hand_orders_ties_and_holds_out_whole_sessions():
    logged = [
        LoggedEvent(9, 900 * 10**9, 0, "c", None, 0),
        LoggedEvent(5, 100 * 10**9, 2, "a", None, 1),
        LoggedEvent(4, 100 * 10**9, 1, "a", None, 2),
        LoggedEvent(7, 500 * 10**9, 0, "b", None, 3),
        LoggedEvent(6, 500 * 10**9, 0, None, None, 4),
        LoggedEvent(8, 900 * 10**9, 0, "d", None, 5),
    ]
    split = SplitConfig(unit="session")
    line = build_timeline(logged, SessionConfig(by_column=True, long_term_s=400), split, [])
    assert line.items == [4, 5, 7, 6, 9, 8]  # order settles 100 s, session 500 s with none last
    assert line.sessions == [0, 0, 1, 2, 3, 4]
    assert line.before == [0, 0, 2, 2, 4, 4]  # neither of two sessions of one second is before the other
    assert line.roles == [TRAIN, TRAIN, TRAIN, TRAIN, VALID, TEST]
    assert line.reach == [0, 0, 0, 0, 2, 2]
    assert [line.items[p] for p in line.shown("test", 5)] == [4, 5, 7, 6]


def test_long_sessions_are_cut_from_their_end_and_the_long_term_lies_before():
    line = build_timeline(
        events((2, 0), (3, 10), (2, 20), (4, 30), (5, 40), (6, 5000), (7, 5010)),
        SessionConfig(gap_s=100, max_items=3, long_term_s=25),
        SplitConfig(),
        [],
    )
    assert line.sessions == [0, 0, 1, 1, 1, 2, 2]
    shape = SampleShape(
        history_length=3,
        session=SessionConfig(gap_s=100, max_items=3, long_term_s=25),
        long_features=("item",),
    )
    assert expected_inputs(line, "train", 4, shape) == {
        "history": [3, 2, 4],
        "short": [2, 4],
        "long_item": [2, 3],
    }
    assert expected_inputs(line, "valid", 5, shape) == {
        "history": [2, 4, 5],
        "short": [2, 4, 5],
        "long_item": [2, 3],
    }


def test_the_most_frequent_items_stand_last():
    line = build_timeline(
        events((2, 0), (3, 1), (2, 2), (4, 3), (9, 4), (9, 5)), SessionConfig(), SplitConfig(), []
    )
    shape = SampleShape(history_length=2, most_frequent_of=10)
    assert expected_inputs(line, "valid", 4, shape)["history"] == [4, 2]


@pytest.mark.parametrize(
    ("split", "stored", "roles"),
    [
        (SplitConfig(kind="time", valid_from="1970-01-01T00:00:02Z", test_from="1970-01-01T00:00:03Z"), [],
         [TRAIN, TRAIN, VALID, TEST]),
        (SplitConfig(kind="user", history_fraction=0.5), [HISTORY, HISTORY, TEST, TEST],
         [HISTORY, HISTORY, TEST, TEST]),
        (SplitConfig(kind="user", history_fraction=0.5), [HISTORY, TEST, TRAIN, TEST], [TRAIN] * 4),
        (SplitConfig(kind="random_target"), [TRAIN, VALID, TRAIN, TEST], [TRAIN, VALID, TRAIN, TEST]),
        (SplitConfig(kind="random_target"), [VALID, TEST, TEST, TRAIN], [TRAIN] * 4),
    ],
)  # fmt: skip
def test_roles_follow_from_the_split(split, stored, roles):
    line = build_timeline(events((2, 0), (3, 1), (4, 2), (5, 3)), SessionConfig(), split, stored)
    assert line.roles == roles


def test_a_future_item_is_told_from_an_old_one_that_comes_again():
    line = build_timeline(events((2, 0), (3, 1), (2, 2), (3, 3), (2, 4)), SessionConfig(), SplitConfig(), [])
    stored = {"u": Stored(line.items, line.at, line.roles)}
    census = Census(np.zeros(4, np.int64))

    def state(history):
        shown = [Shown("u", "train", 2, {"history": history}, [2])]
        return future_items(
            Sampled({"u": line}, stored, shown, SampleShape(history_length=2)), census, ""
        ).state

    assert state([2, 3]) == "ok"
    assert state([3]) == "ok"  # the newest, though not all of it: no business of this check
    assert state([3, 2]) == "fault"  # both are old items, but this is what stood there one event later
    assert state([3, 3]) == "fault"


def sequences(**columns):
    kinds = {"item_idx": pa.int32(), "at": pa.int64(), "role": pa.int8(), "cut": pa.int32()}
    return pa.table({name: pa.array(columns[name], pa.list_(kind)) for name, kind in kinds.items()})


def test_a_census_counts_by_hand():
    table = sequences(
        item_idx=[[2, 3, 2, 0], [4, 4]],
        at=[[1, 2, 2, 9], [5, 5]],
        role=[[TRAIN, TRAIN, VALID, TEST], [TRAIN, TEST]],
        cut=[[0, 1, 2, 4], [0, 0]],
    )
    census = Census.of(6, [table, table])
    assert census.train_counts.tolist() == [0, 0, 2, 2, 2, 0]
    assert (census.events, census.held_out, census.reserved) == (12, 6, 2)
    assert census.late_cuts == 2  # the fourth event of the first user sees itself
    assert census.leaked == 2  # the item of the second user, bought twice at one second
    assert (census.queries, census.empty_histories) == (4, 2)
    assert (census.test_targets, census.cold_targets) == (2, 0)
    assert split_leakage(census).state == "fault"
    assert cold_start(census).state == "warning"


def test_cold_targets_are_a_warning():
    table = sequences(item_idx=[[2, 5]], at=[[1, 2]], role=[[TRAIN, TEST]], cut=[[0, 1]])
    check = cold_start(Census.of(6, [table]))
    assert check.state == "warning"
    assert check.figures == {"cold_share": 1.0, "empty_share": 0.0}


COUNTS = np.concatenate([[0, 0], np.random.default_rng(1).permutation(np.arange(1, 200) ** 2)])


@pytest.mark.parametrize("sampler", ["uniform", "log_uniform", "popularity"])
def test_a_sampler_that_draws_as_it_says_is_ok_and_another_is_not(sampler):
    training = TrainingConfig(sampler=sampler)
    prob, random = expected_prob(training, COUNTS), np.random.default_rng(2)
    assert prob.sum() == pytest.approx(1.0, abs=1e-12)
    check = sampler_order(training, random.multinomial(DRAWS, prob), COUNTS)
    assert check.state == "ok"
    by_id = np.concatenate(
        [[0, 0], np.sort(prob[2:])[::-1] if sampler != "uniform" else COUNTS[2:] / COUNTS.sum()]
    )
    check = sampler_order(training, random.multinomial(DRAWS, by_id), COUNTS)
    assert check.state == "fault"
    assert check.figures["total_variation"] > 0.1


def test_a_log_uniform_sampler_shares_probability_among_equal_counts():
    prob = expected_prob(TrainingConfig(sampler="log_uniform"), np.array([0, 0, 5, 9, 5]))
    by_rank = np.log([2, 3 / 2, 4 / 3]) / math.log(4)
    expected = [0, 0, by_rank[1:].mean(), by_rank[0], by_rank[1:].mean()]
    np.testing.assert_allclose(prob, expected, atol=1e-12)


def test_the_correction_is_compared_with_what_was_drawn():
    training, steps = TrainingConfig(), 400
    prob = expected_prob(training, COUNTS)
    drawn = np.random.default_rng(3).multinomial(steps * 500, prob)
    with np.errstate(divide="ignore"):
        said = np.log(500 * prob)
    assert logq_correction(training, drawn, said, steps, COUNTS, 1.0).state == "ok"
    assert logq_correction(training, drawn, said, steps, COUNTS, 0.0).state == "fault"
    assert logq_correction(training, drawn, said + 0.3, steps, COUNTS, None).state == "fault"
    assert (
        logq_correction(TrainingConfig(loss="bpr"), drawn, said, steps, COUNTS, None).state == "not checked"
    )


def test_rank_correlation_is_spearmans():
    assert rank_correlation(np.array([1, 2, 3, 9]), np.array([1, 4, 9, 16])) == pytest.approx(1.0, abs=1e-12)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1.0, abs=1e-12)
    # ranks 1.5 1.5 3 and 1 2 3, worked out by hand: 1.5 / sqrt(1.5 * 2)
    assert rank_correlation(np.array([4, 4, 7]), np.array([1, 2, 3])) == pytest.approx(3**0.5 / 2, abs=1e-12)
    assert rank_correlation(np.ones(3), np.arange(3)) == 0.0


@pytest.mark.parametrize("difference", [-30.0, -2.0, 0.0, 3.5, 80.0])
def test_a_margin_is_the_inverse_of_the_loss(difference):
    assert margin_of(float(np.logaddexp(0.0, difference))) == pytest.approx(difference, rel=1e-9, abs=1e-9)


def test_the_chance_of_a_hit_is_that_of_all_draws():
    draws = list(itertools.combinations(range(6), 3))
    expected = sum(bool({0, 1} & set(draw)) for draw in draws) / len(draws)
    assert chance_of_hit(6, 2, 3) == pytest.approx(expected, abs=1e-12)
    assert chance_of_hit(3, 1, 9) == 1.0
    assert chance_of_hit(5, 0, 2) == 0.0


def test_the_standing_of_a_target_is_that_of_a_full_sort():
    random = np.random.default_rng(4)
    items, vectors = np.arange(2, 40), random.normal(size=(38, 5)).astype(np.float32)
    users = Users(
        random.normal(size=(7, 3, 5)).astype(np.float32),
        np.arange(3) < random.integers(1, 4, (7, 1)),
        [random.choice(items, 2, replace=False) for _ in range(7)],
        [np.array([2, 3, 4])] * 7,
    )
    known = {int(item): vector for item, vector in zip(items, vectors, strict=True)}
    blocks = [(items[:17], vectors[:17]), (items[17:], vectors[17:])]
    found = standing(users, best_targets(users, known), blocks, 40)
    for row in range(7):
        own = users.vectors[row][users.active[row]]
        scores = {item: float((own @ vector).max()) for item, vector in known.items()}
        goal = max(scores[item] for item in users.truth[row].tolist())
        given = {item: score for item, score in scores.items() if item not in (2, 3, 4)}
        assert found.above[row] == sum(score > goal for score in given.values())
        first = max(given, key=lambda item: given[item])
        assert found.winners[row] == int((own @ known[first]).argmax())


def curve(losses, values):
    return [{"train/loss": loss, "valid/ndcg@10": value} for loss, value in zip(losses, values, strict=True)]


@pytest.mark.parametrize(
    ("losses", "values", "state", "words"),
    [
        ([3.0, 2.0, 1.5], [0.2, 0.4, 0.3], "ok", ""),
        ([3.0, 2.0, math.nan], [0.2, 0.4, 0.3], "fault", "not finite"),
        ([3.0, 3.1], [0.3, 0.2], "warning", "does not fall"),
        ([3.0, 2.0], [0.002, 0.001], "fault", "at chance"),
        ([3.0, 2.0, 1.0, 0.5], [0.1, 0.2, 0.3, 0.4], "warning", "the last epoch is the best"),
    ],
)
def test_what_a_learning_curve_shows(losses, values, state, words):
    check = learning_curve(curve(losses, values), TrainingConfig(epochs=4), 1000)
    assert check.state == state
    assert words in check.found
    assert bool(check.remedy) == (state != "ok")
    # the gains of ten ranks by hand, over the candidates
    assert check.figures["chance"] == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, 11)) / 1000)


def test_under_a_schedule_the_last_epoch_may_be_the_best():
    training = TrainingConfig(epochs=2, schedule="cosine")
    assert learning_curve(curve([3.0, 2.0], [0.1, 0.2]), training, 1000).state == "ok"
    assert learning_curve([], training, 1000).state == "not checked"


def results(low, high, popular=0.1):
    return {
        "metrics": {"hit_rate@10": (low + high) / 2},
        "intervals": {"hit_rate@10": [low, high]},
        "baselines": {"random": {"hit_rate@10": 0.02}, "popular": {"hit_rate@10": popular}},
        "baseline_intervals": {"random": {"hit_rate@10": [0.01, 0.03]}},
        "protocol": {"queries": 10},
    }


def test_metrics_stand_above_chance_and_above_what_is_popular():
    assert chance_level(results(0.2, 0.3)).state == "ok"
    assert chance_level(results(0.05, 0.08)).state == "warning"
    assert "popular" in chance_level(results(0.05, 0.08)).remedy
    assert chance_level(results(0.02, 0.05)).state == "fault"


def test_a_gate_that_is_shut_is_a_warning():
    assert saturated_gate(np.full(50, 0.001)).state == "warning"
    assert saturated_gate(np.linspace(0.01, 0.9, 50)).state == "ok"
    assert saturated_gate(None).state == "not checked"


def test_recorded_mistakes_are_told():
    assert likely_mistakes({"likely_mistakes": []}).state == "ok"
    check = likely_mistakes({"likely_mistakes": [{"code": "duplicates", "text": "", "remedy": ""}]})
    assert (check.state, check.figures) == ("warning", {"mistakes": 1})
    assert "duplicates" in check.found
    assert likely_mistakes(None).state == "not checked"
    assert reserved_items({}).state == "not checked"


def test_a_diagnosis_sums_up_and_raises_its_first_fault():
    checks = [
        judged("a", "one", "nothing", "do it", figures={"x": 1.0, "y": math.nan}),
        judged("b", "two", "bad", "mend data.events", fault=True, figures={}),
        judged("c", "three", "odd", "look", warning=True, figures={}),
        not_checked("d", "index/ is missing"),
    ]
    diagnosis = Diagnosis(checks)
    assert diagnosis.summary == "4 checks: 1 ok, 1 warning, 1 fault, 1 not checked"
    assert diagnosis.text.splitlines()[-1] == diagnosis.summary
    assert checks[0].remedy == ""
    table = diagnosis.to_table()
    assert table["summary"] == {"ok": 1, "warning": 1, "fault": 1, "not_checked": 1}
    assert table["checks"][0]["figures"] == {"x": 1.0}
    with pytest.raises(DataError, match=r"1 fault: b: two: bad; mend data\.events"):
        diagnosis.raise_faults()
    Diagnosis(checks[:1]).raise_faults()
