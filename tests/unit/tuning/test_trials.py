"""Trials on disk, their order, their spread over seeds, and the files that a search leaves."""

import math
import statistics

import pyarrow.parquet as pq
import pytest

from raysys.errors import ConfigError, TrainingError
from raysys.run import load_run
from raysys.storage import Folder
from raysys.tuning.outputs import best_of, leaderboard, write_outputs
from raysys.tuning.trials import Trial, open_search, ranked, read_trials, spreads, to_table
from tests.unit.tuning.spaces import SPACE, planted_base, space_of

METRIC = "valid/ndcg@10"


@pytest.fixture
def folder(tmp_path):
    return planted_base(tmp_path)


def trial(number, *scores, **changes):
    """A finished trial with these values of the metric."""
    curve = [{METRIC: score, "epoch": float(epoch)} for epoch, score in enumerate(scores, 1)]
    given = {
        "kind": "search",
        "literals": {"model.num_interests": str(1 + number % 4), "training.learning_rate": "0.01"},
        "seed": 7,
        "status": "finished",
        "of": number,
    }
    return Trial(number=number, **({"curve": curve} | given | changes))


def test_a_trial_survives_its_file(tmp_path):
    written = trial(
        3, 0.1, 0.2, literals={"model.label_power": "inf", "model.hidden_dims": "[8, 8]"}, seconds=2.5
    )
    written.save(Folder(tmp_path))
    trial(0, 0.3).save(Folder(tmp_path))
    first, again = read_trials(Folder(tmp_path))
    assert first.number == 0
    assert again == written
    assert again.values == {"model.label_power": math.inf, "model.hidden_dims": [8, 8]}


def test_trials_are_ranked_by_their_best_epoch_and_repeats_stand_apart():
    trials = [
        trial(0, 0.1, 0.3, 0.2),
        trial(1, 0.3),
        trial(2, 0.4, status="stopped"),
        trial(3, status="failed"),
        trial(4, 0.9, kind="repeat", of=1),
    ]
    assert [found.number for found in ranked(trials, METRIC)] == [2, 0, 1]


def test_of_a_metric_whose_smaller_value_is_better_the_smallest_is_the_best():
    metric = "valid/gini@10"

    def of(number, *scores, **changes):
        return trial(number, curve=[{metric: score} for score in scores], **changes)

    trials = [of(0, 0.5, 0.3, 0.4), of(1, 0.2, 0.6), of(2, 0.9)]
    assert [found.number for found in ranked(trials, metric)] == [1, 0, 2]
    assert trials[0].best(metric) == 0.3
    repeats = [of(3, 0.7, kind="repeat", of=1), of(4, 0.5, kind="repeat", of=0)]
    assert [spread.of for spread in spreads([*trials, *repeats], metric)] == [0, 1]
    assert best_of([*trials, *repeats], metric).number == 0


def test_spreads_are_mean_and_deviation_of_finished_repeats():
    scores = (0.30, 0.34, 0.29)
    repeats = [trial(5 + i, score, kind="repeat", of=1) for i, score in enumerate(scores)]
    others = [trial(9, 0.2, 0.5, kind="repeat", of=0), trial(10, 0.9, kind="repeat", of=0, status="running")]
    best, second = spreads([trial(0, 0.9), *repeats, *others], METRIC)
    assert (best.of, best.scores, best.deviation) == (0, (0.5,), 0.0)
    assert (second.of, second.scores) == (1, scores)
    assert second.mean == pytest.approx(statistics.mean(scores))
    assert second.deviation == pytest.approx(statistics.stdev(scores))


def test_the_best_is_the_one_with_the_best_mean_and_not_the_luckiest():
    trials = [trial(0, 0.2), trial(1, 0.9), trial(2, 0.8)]
    assert best_of(trials, METRIC).number == 1
    repeats = [trial(3, 0.3, kind="repeat", of=1), trial(4, 0.7, kind="repeat", of=2)]
    assert best_of([*trials, *repeats], METRIC).number == 2
    with pytest.raises(TrainingError, match="the loss is not finite"):
        best_of([trial(0, status="failed", error="the loss is not finite")], METRIC)


def test_the_table_has_a_row_per_trial_and_a_column_per_key():
    trials = [
        trial(0, 0.1, 0.3, 0.2, literals={"a": "1", "b": "inf", "c": '"x"', "d": "[1, 2]"}),
        trial(1, status="failed", error="no", literals={"a": "2"}),
    ]
    rows = to_table(trials, ["a", "b", "c", "d"], METRIC).to_pylist()
    assert rows[0]["best_epoch"] == 2
    assert rows[0][METRIC] == 0.3
    assert [rows[0][key] for key in "abcd"] == [1, math.inf, "x", "[1, 2]"]
    assert [rows[1][key] for key in "abcd"] == [2, None, None, None]
    assert rows[1] | {"status": "failed", "error": "no", METRIC: None, "epochs": 0} == rows[1]


def test_a_search_leaves_a_table_and_an_ordinary_run_file(folder, tmp_path):
    space, out = space_of(folder), Folder(tmp_path / "tune")
    values = {
        "model.num_interests": "2",
        "model.train_score": '"label_aware"',
        "model.label_power": "1.0",
        "training.learning_rate": "0.002",
    }
    trials = [trial(0, 0.1, literals=values | {"model.num_interests": "3"}), trial(1, 0.2, literals=values)]
    write_outputs(space, out, trials)
    run = load_run(f"{out.path}/best.toml")
    assert (run.model.num_interests, run.model.label_power, run.training.learning_rate) == (2, 1.0, 0.002)
    assert run.training.seed == space.base.training.seed
    assert run.features_digest == space.base.features_digest
    assert "0.2000 on the validation part" in out.read_bytes("best.toml").decode().splitlines()[0]
    assert pq.read_table(f"{out.path}/trials.parquet").num_rows == 2


def test_the_leaderboard_shows_the_best_and_always_the_untuned(folder):
    trials = [trial(number, number / 100) for number in range(20)]
    repeats = [trial(20, 0.5, kind="repeat", of=19), trial(21, 0.4, kind="repeat", of=0)]
    best, again = leaderboard(space_of(folder), [*trials, *repeats])
    names = [row[0].text for row in best.rows]
    assert names == [*map(str, range(19, 9, -1)), "0, untuned"]
    assert [row[0].text for row in again.rows] == ["19", "0, untuned"]
    assert [cell.text for cell in again.rows[0]] == ["19", "0.5000", "0.0000", "1"]


def test_a_search_that_is_there_is_gone_on_with_only_when_asked_and_if_it_is_the_same(folder, tmp_path):
    space, out = space_of(folder), Folder(tmp_path / "out")
    assert open_search(space, out, False) == []
    assert open_search(space, out, False) == []  # nothing was trained yet
    trial(0, 0.1).save(out / "tune")
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        open_search(space, out, False)
    assert len(open_search(space, out, True)) == 1
    other = space_of(folder, SPACE, "search.seed=5")
    with pytest.raises(ConfigError, match="of another space or base run"):
        open_search(other, out, True)
