"""A space file is read into parameters and trials that go together, and refuses what cannot be searched."""

import math
import re

import pytest

from raysys.errors import ConfigError
from raysys.tuning.space import load_space, of_literals, to_literals
from tests.reference.logs import planted_log, run_file
from tests.unit.tuning.spaces import SPACE, planted_base, space_of


@pytest.fixture
def folder(tmp_path):
    return planted_base(tmp_path)


def with_key(line):
    return SPACE + line + "\n"


def test_the_untuned_values_are_those_of_the_base_run(folder):
    space = space_of(folder)
    values = space.untuned()
    assert values == {
        "model.num_interests": 3,
        "model.train_score": "label_aware",
        "model.label_power": math.inf,
        "training.learning_rate": 0.01,
    }
    run = space.run(values, space.base.training.seed)
    assert run.training_digest == space.base.training_digest


def test_a_conditional_key_is_drawn_only_under_its_condition(folder):
    space = space_of(folder)
    served = space.draw(lambda key, parameter: "served" if key == "model.train_score" else 1)
    assert "model.label_power" not in served
    assert space.run(served, 0).model.label_power == math.inf  # the base run's
    mixed = space.draw(lambda key, parameter: "label_aware" if key == "model.train_score" else 1.0)
    assert mixed["model.label_power"] == 1.0


def test_a_condition_may_name_a_key_that_is_not_searched(folder):
    text = with_key(
        '"model.num_negatives" = { type = "choice", values = [20, 40], when = { "training.loss" = ["bpr"] } }'
    )
    assert "model.num_negatives" not in space_of(folder, text).untuned()
    assert "model.num_negatives" in space_of(folder, text, "training.loss=bpr").untuned()


def test_trials_train_for_the_epochs_and_the_metric_of_the_search(folder):
    space = space_of(
        folder, SPACE, "search.max_epochs=7", "search.metric=valid/recall@20", "training.epochs=4"
    )
    assert space.base.training.epochs == 7
    assert space.base.training.metric == "recall@20"
    assert space_of(folder, SPACE, "training.epochs=4").base.training.epochs == 4


def test_another_base_run_may_take_the_place_of_the_named_one(folder):
    (folder / "other").mkdir()
    planted_log(folder / "other")
    other = run_file(folder / "other", training="epochs = 2\nlearning_rate = 0.02")
    path = folder / "space.toml"
    path.write_text(SPACE)
    space = load_space(str(path), (), str(other))
    assert space.untuned()["training.learning_rate"] == 0.02
    assert str(space.base.data.events) == str(folder / "other" / "events.parquet")


def test_seeds_come_from_the_search_and_the_values(folder):
    space, other = space_of(folder), space_of(folder, SPACE, "search.seed=1")
    values = space.untuned()
    changed = values | {"model.num_interests": 1}
    assert space.seed_of(values) == space.seed_of(dict(values))
    assert len({space.seed_of(values), space.seed_of(changed), other.seed_of(values)}) == 3
    assert len({space.repeat_seed(number) for number in range(5)}) == 5


def test_the_digest_knows_what_decides_the_trials_and_not_how_many_there_are(folder):
    digest = space_of(folder).digest
    assert space_of(folder, SPACE, "search.trials=50", "search.max_minutes=3").digest == digest
    assert space_of(folder, SPACE, "cluster.workers=2").digest == digest
    for override in ("search.seed=1", "search.algorithm=random", "training.batch_size=128"):
        assert space_of(folder, SPACE, override).digest != digest
    assert space_of(folder, SPACE.replace("max = 4", "max = 5")).digest != digest


def test_values_survive_the_way_through_a_file(folder):
    values = {"a": math.inf, "b": [1, 2], "c": 'say "x"', "d": True, "e": 0.1, "f": 3}
    assert of_literals(to_literals(values)) == values


@pytest.mark.parametrize(
    ("metric", "mode", "goal"),
    [
        ("valid/gini@10", "auto", "min"),
        ("valid/popularity_bias@5", "min", "min"),
        ("valid/coverage@10", "max", "max"),
        ("valid/mrr", "auto", "max"),
    ],
)
def test_the_goal_is_what_the_metric_is_for(folder, metric, mode, goal):
    search = space_of(folder, SPACE, f"search.metric={metric}", f"search.mode={mode}").search
    assert search.goal == goal


@pytest.mark.parametrize(
    ("metric", "mode", "said"),
    [
        ("valid/ndcg@10", "min", "search.mode: found 'min', but of valid/ndcg@10 a larger value is better"),
        ("valid/gini@10", "max", "search.mode: found 'max', but of valid/gini@10 a smaller value is better"),
        ("valid/intra_list_diversity@1", "auto", "search.metric: found 'valid/intra_list_diversity@1'"),
        ("test/ndcg@10", "auto", "search.metric: found 'test/ndcg@10'"),
    ],
)
def test_a_goal_that_makes_things_worse_is_refused(folder, metric, mode, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        space_of(folder, SPACE, f"search.metric={metric}", f"search.mode={mode}")


PBT = ("search.scheduler=pbt", "search.algorithm=random")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("search.scheduler=pbt",), "search.algorithm: found 'tpe', pbt draws its population"),
        ((*PBT, "search.trials=1"), "search.trials: found 1, a population has at least 2"),
        ((*PBT, "search.total_epochs=9"), "search.total_epochs: pbt has no such limit"),
        ((*PBT, "search.exploit_share=0.6"), "search.exploit_share: found 0.6, expected above 0"),
        ((*PBT, "search.resample=1.5"), "search.resample: found 1.5"),
        ((*PBT, "search.exploit_epochs=0"), "search.exploit_epochs: found 0"),
    ],
)
def test_what_a_population_cannot_be_is_refused(folder, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        space_of(folder, SPACE, *overrides)


def test_under_pbt_keys_of_features_are_refused_and_nobody_stops_early(folder):
    text = with_key('"session.gap_s" = { type = "choice", values = [600, 60] }')
    with pytest.raises(ConfigError, match=r'space\.session\.gap_s: scheduler = "pbt" changes values while'):
        space_of(folder, text, *PBT)
    assert space_of(folder, SPACE, *PBT, "training.patience=2").base.training.patience == 0
    assert space_of(folder, SPACE, "training.patience=2").base.training.patience == 2


@pytest.mark.parametrize(
    ("line", "overrides", "said"),
    [
        (
            '"training.learning_rate" = { type = "float", min = 1e-4, max = 0.1 }',
            (),
            "item_cf counts and reads [model]",
        ),
        (
            '"model.decay" = { type = "float", min = 0.5, max = 1.0 }',
            PBT,
            "item_cf counts, and pbt is about training",
        ),
    ],
)
def test_of_a_counting_model_only_its_own_keys_are_searched(folder, line, overrides, said):
    run_file(folder, model='name = "item_cf"', training="seed = 3")
    text = SPACE.partition("[space]")[0] + f"[space]\n{line}\n"
    with pytest.raises(ConfigError, match=re.escape(said)):
        space_of(folder, text, *overrides)


def test_session_keys_ask_for_features_of_their_own(folder):
    text = with_key('"session.gap_s" = { type = "choice", values = [600, 60, 3600] }')
    runs = space_of(folder, text).feature_runs()
    assert sorted(run.session.gap_s for run in runs.values()) == [60, 600, 3600]
    assert next(iter(runs.values())).session.gap_s == 600  # the base run's first


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"model.num_interest" = { type = "int", min = 1, max = 4 }', "did you mean model.num_interests?"),
        (
            '"model.dropout" = { type = "float", min = 0.1, max = 0.5 }',
            "the base run has 0.0, which is outside",
        ),
        ('"model.dropout" = { type = "float", min = 0.5, max = 0.1 }', "expected below max"),
        ('"model.dropout" = { type = "float", min = 0, max = 0.5, scale = "log" }', "log needs it above 0"),
        ('"model.dropout" = { type = "choice" }', "values: missing"),
        ('"model.dropout" = { type = "choice", values = [0.0], min = 0 }', "has values instead"),
        ('"model.dropout" = { type = "float", min = 0, max = 1, values = [1] }', "has min and max instead"),
        ('"model.history_length" = { type = "int", min = 1.5, max = 9 }', "expected a whole number"),
        ('"model.dropout" = { type = "floot", min = 0, max = 1 }', "expected one of int, float, choice"),
        ('"model.dropout" = 3', 'expected "section.key"'),
        ('"training.seed" = { type = "int", min = 0, max = 9 }', "cannot be searched"),
        ('"training.epochs" = { type = "int", min = 1, max = 9 }', "cannot be searched"),
        ('"data.min_rating" = { type = "int", min = 1, max = 9 }', "cannot be searched"),
        ('"split.kind" = { type = "choice", values = ["time"] }', "cannot be searched"),
        ('"session.gap_s" = { type = "int", min = 60, max = 600 }', 'use type = "choice"'),
        (
            '"model.dropout" = { type = "choice", values = [0.0], when = { "model.residual" = [true], '
            '"model.recency" = ["slot"] } }\n"model.residual" = { type = "choice", values = [true, false] }',
            "stands below it",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_key(folder, line, said):
    with pytest.raises(ConfigError) as caught:
        space_of(folder, with_key(line))
    assert said in str(caught.value)
    assert line.partition('"')[2].partition('"')[0] in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.metric=ndcg@10", "expected valid/"),
        ("search.metric=valid/luck@10", "expected valid/"),
        ("search.trials=0", "search.trials: found 0"),
        ("search.reduction_factor=1", "search.reduction_factor"),
        ("search.scheduler=hyperband", "search.scheduler: found 'hyperband'"),
        ("search.trails=3", "did you mean search.trials?"),
        ("model.num_interests=9", "widen the space"),
    ],
)
def test_a_search_that_cannot_be_is_refused(folder, override, said):
    with pytest.raises(ConfigError) as caught:
        space_of(folder, SPACE, override)
    assert said in str(caught.value)


def test_a_held_out_session_keeps_session_keys_out(folder):
    run_file(folder, split='unit = "session"')
    with pytest.raises(ConfigError, match="decides what is held out"):
        space_of(folder, with_key('"session.gap_s" = { type = "choice", values = [600, 60] }'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "base: missing"),
        ('base = "run.toml"', "[space]: missing"),
        ('base = "nowhere.toml"\n[space]\n"model.dropout" = {type="choice", values=[0.0]}', "no such file"),
        ('base = "run.toml"\nspaces = 1', "did you mean space?"),
        ("base = ", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_space_is_refused(folder, text, said):
    with pytest.raises(ConfigError) as caught:
        space_of(folder, text)
    assert said in str(caught.value)
