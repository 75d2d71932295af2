"""Runs: sections, checks across them, anchored paths, digests, and the way back to TOML."""

from pathlib import Path

import pytest

from raysys import config
from raysys.errors import ConfigError
from raysys.run import SECTIONS, RunConfig, load_run, read_run

TABLES = {
    "data": {
        "events": "/log.parquet",
        "columns": {"user": "u", "item": "i", "time": "t"},
        "items": {"path": "/items.csv", "id": "i", "features": {"genre": {"kind": "multi_valued"}}},
    },
    "model": {"name": "mind"},
}


def run(**sections) -> RunConfig:
    merged = {name: {**TABLES.get(name, {}), **sections.get(name, {})} for name in {**TABLES, **sections}}
    return read_run(merged)


def test_a_run_needs_a_log_its_columns_and_a_model():
    assert run().model_name == "mind"
    for name in ("data", "model"):
        with pytest.raises(ConfigError, match=rf"\[{name}\]: missing section; a run file needs it"):
            read_run({key: value for key, value in TABLES.items() if key != name})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"dtaa": {}}, "dtaa: unknown section; did you mean data?"),
        ({"split": {"knid": "time"}}, "split.knid: unknown key; did you mean split.kind?"),
        (
            {"data": {"columns": {"user": "u", "item": "i"}}},
            "data.columns.time: missing; name the log's time",
        ),
        (
            {"data": {"columns": {"user": "", "item": "i", "time": "t"}}},
            "data.columns.user: found an empty name",
        ),
        ({"data": {"events": ""}}, "data.events: found nothing, expected a path"),
        ({"data": {"events": []}}, "data.events: found nothing, expected a path"),
        ({"data": {"keep_events": ["buy"]}}, "data.keep_events: needs columns.event, which is not set"),
        ({"data": {"min_rating": 3}}, "data.min_rating: needs columns.rating, which is not set"),
        ({"data": {"min_item_events": 0}}, "data.min_item_events: found 0, expected >= 1"),
        ({"data": {"min_user_events": 0}}, "data.min_user_events: found 0, expected >= 1"),
        ({"data": {"max_reject_fraction": 1.5}}, "data.max_reject_fraction: found 1.5, expected 0 to 1"),
        ({"data": {"partitions": -1}}, "data.partitions: found -1, expected >= 0"),
        ({"data": {"time_unit": "min"}}, "data.time_unit: found 'min', expected one of s, ms, us, ns, iso"),
        (
            {"data": {"columns": {"user": "u", "item": "i", "time": "t", "type": "p"}}},
            "data.columns.type: this name is taken",
        ),
        ({"session": {"gap_s": 0}}, "session.gap_s: found 0, expected >= 1"),
        ({"session": {"max_items": 0}}, "session.max_items: found 0, expected >= 1"),
        ({"session": {"last_n": -1}}, "session.last_n: found -1, expected >= 0"),
        ({"session": {"by_column": True}}, "session.by_column: needs data.columns.session, which is not set"),
        (
            {"split": {"target_events": ["buy"]}},
            "split.target_events: needs data.columns.event, which is not",
        ),
        (
            {
                "split": {"target_events": ["buy"]},
                "data": {
                    "columns": {"user": "u", "item": "i", "time": "t", "event": "e"},
                    "keep_events": ["view"],
                },
            },
            "split.target_events: found 'buy', which data.keep_events lacks",
        ),
        (
            {
                "evaluation": {"metrics": ["intra_list_diversity"]},
                "data": {"items": {"path": "i", "id": "i"}},
            },
            "evaluation.metrics: intra_list_diversity needs a categorical or multi_valued feature",
        ),
        ({"split": {"kind": "time"}}, "split.valid_from: missing"),
        (
            {"split": {"kind": "time", "valid_from": "x", "test_from": "2020-01-01"}},
            "split.valid_from: not an ISO",
        ),
        (
            {"split": {"kind": "time", "valid_from": "2020-01-02", "test_from": "2020-01-01"}},
            "split.valid_from: not before test_from",
        ),
        (
            {"split": {"kind": "user", "unit": "session"}},
            'split.unit: "session" is not defined for kind = "user"',
        ),
        (
            {"split": {"valid_fraction": 0}},
            "split.valid_fraction: found 0.0, expected a number between 0 and 1",
        ),
        (
            {"split": {"valid_fraction": 0.6, "test_fraction": 0.5}},
            "split.test_fraction: valid and test together",
        ),
        ({"split": {"history_fraction": 1}}, "split.history_fraction: found 1.0"),
        (
            {"training": {"batch_size": 10}, "cluster": {"workers": 4}},
            "training.batch_size: found 10, expected a mul",
        ),
        ({"training": {"batch_size": 0}}, "training.batch_size: found 0, expected >= 1"),
        ({"training": {"gbce_t": 1.5}}, "training.gbce_t: found 1.5, expected in [0, 1]"),
        (
            {"training": {"loss": "in_batch", "batch_size": 1}},
            "training.batch_size: found 1, expected >= 2 for the loss in_batch",
        ),
        ({"training": {"loss": "hinge"}}, "training.loss: found 'hinge', expected one of sampled_softmax"),
        ({"training": {"metric": "auc"}}, "training.metric: found 'auc', expected hit_rate@k"),
        ({"cluster": {"workers": -1}}, "cluster.workers: found -1, expected >= 0"),
        ({"cluster": {"workers": 0, "use_gpu": True}}, "cluster.use_gpu: needs cluster.workers >= 1"),
        ({"cluster": {"object_store_mb": 1}}, "cluster.object_store_mb: found 1, expected >= 80"),
        ({"cluster": {"resources_per_worker": {"CPU": -1}}}, "cluster.resources_per_worker.CPU: found -1.0"),
        ({"training": {"schedule": "linear"}}, "training.schedule: found 'linear', expected one of constant"),
        ({"training": {"warmup_steps": -1}}, "training.warmup_steps: found -1, expected >= 0"),
        ({"model": {"num_interests": 0}}, "model.num_interests: found 0"),
        ({"model": {"recency": "age"}}, "model.recency: found 'age', expected one of none, slot, gap"),
        ({"model": {"history_dropout": 1}}, "model.history_dropout: found 1.0, expected in [0, 1)"),
        (
            {"model": {"next_items": 2}, "training": {"loss": "in_batch"}},
            "model.next_items: found 2 with training.loss = 'in_batch'",
        ),
        (
            {"model": {"next_items": 2}, "training": {"loss": "mixed"}},
            "model.next_items: found 2 with training.loss = 'mixed'",
        ),
        (
            {"model": {"hard_negatives": 0.5}, "training": {"loss": "gbce"}},
            "model.hard_negatives: found 0.5 with training.loss = 'gbce', expected 0 or one of",
        ),
        (
            {"model": {"hard_negatives": 0.5}, "training": {"loss": "bpr"}},
            "model.hard_negatives: found 0.5 with training.loss = 'bpr', expected 0 or one of",
        ),
        ({"model": {"name": "mnid"}}, "model.name: "),
        (
            {
                "model": {"name": "sdm", "train_positions": "every"},
                "split": {"target_events": ["buy"]},
                "data": {"columns": {"user": "u", "item": "i", "time": "t", "event": "e"}},
            },
            'model.train_positions: found "every" with split.target_events',
        ),
        (
            {"model": {"name": "sdm", "train_positions": "every"}, "split": {"unit": "session"}},
            'model.train_positions: found "every" with split.unit = "session"',
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(sections, message):
    with pytest.raises(ConfigError) as caught:
        run(**sections)
    assert str(caught.value).startswith(message)


def test_a_value_is_no_section():
    with pytest.raises(ConfigError, match=r"model: found a value, expected a section \[model\]"):
        read_run({**TABLES, "model": "mind"})


def test_a_far_cutoff_is_a_time_like_any_other():
    split = run(
        split={"kind": "time", "valid_from": "2020-01-01T00:00:00+01:00", "test_from": "9999-12-31"}
    ).split
    assert split.cutoffs[0] == 1_577_833_200  # an hour before midnight UTC
    assert split.cutoffs[1] > split.cutoffs[0]


def test_the_resolved_run_is_a_run_file():
    first = run(
        training={"learning_rate": 0.01},
        split={"kind": "time", "valid_from": "2020-01-01", "test_from": "2020-02-01"},
    )
    text = first.to_toml()
    again = read_run(config.parse_toml(text, "run.toml"))
    assert again == first
    assert again.to_toml() == text
    assert again.run_digest == first.run_digest


def test_digests_change_with_what_they_stand_for_and_with_nothing_else():
    base = run()
    elsewhere = run(data={"events": "/other.parquet", "items": {**TABLES["data"]["items"], "path": "/x.csv"}})
    assert elsewhere.features_digest == base.features_digest  # the inputs' fingerprint tells the logs apart
    assert run(data={"partitions": 7}).features_digest == base.features_digest
    assert run(cluster={"workers": 2}).run_digest == base.run_digest
    for sections in (
        {"data": {"min_item_events": 2}},
        {"session": {"gap_s": 9}},
        {"split": {"unit": "session"}},
    ):
        other = run(**sections)
        assert other.features_digest != base.features_digest
        assert other.training_digest == base.training_digest
        assert other.run_digest != base.run_digest
    for sections in ({"training": {"seed": 9}}, {"model": {"num_interests": 2}}):
        other = run(**sections)
        assert other.features_digest == base.features_digest
        assert other.training_digest != base.training_digest
    assert run(training={"source": "ray_data", "max_retries": 0}).training_digest == base.training_digest
    assert run(training={"gbce_t": 0.5}).training_digest == base.training_digest  # of no use to its loss
    calibrated = [run(training={"loss": "gbce", "gbce_t": t}).training_digest for t in (0.5, 0.75)]
    assert len({base.training_digest, *calibrated}) == 3
    assert run(evaluation={"ks": [7]}).run_digest != base.run_digest


def test_a_counting_model_is_a_function_of_its_own_fields():
    def counting(**sections):
        return run(**{**sections, "model": {"name": "item_cf", **sections.get("model", {})}})

    base = counting()
    assert base.learns_by == "rows"
    assert run().learns_by == "gradient"
    # no batch is shared out and no loss taken
    other = counting(training={"batch_size": 10, "seed": 5, "loss": "mixed"}, cluster={"workers": 4})
    assert other.training_digest == base.training_digest
    assert counting(model={"similarity": "bm25"}).training_digest != base.training_digest
    assert read_run(config.parse_toml(other.to_toml(), "run.toml")) == other


def test_sections_are_the_fields_of_a_run():
    assert {*SECTIONS, "model", "model_name"} == set(RunConfig.__dataclass_fields__)


FILE = """
[data]
events = ["log/*.parquet", "s3://bucket/log", "/abs.csv"]
[data.columns]
user = "u"
item = "i"
time = "t"
[data.items]
path = "../items.csv"
id = "i"
[model]
name = "mind"
"""


def test_paths_are_relative_to_the_run_file_and_in_overrides_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "work").mkdir()
    path = tmp_path / "runs" / "x.toml"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path / "work")
    loaded = load_run("../runs/x.toml")
    assert loaded.data.events == (f"{tmp_path}/runs/log/*.parquet", "s3://bucket/log", "/abs.csv")
    assert loaded.data.items is not None
    assert loaded.data.items.path == f"{tmp_path}/items.csv"
    loaded = load_run(str(path), ["data.events=other.parquet", "data.items.path=side.csv"])
    assert loaded.data.events == f"{tmp_path}/work/other.parquet"
    assert loaded.data.items is not None
    assert loaded.data.items.path == f"{tmp_path}/work/side.csv"


def test_a_missing_run_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: no such file; run files are in jobs/runs/"):
        load_run(str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize("content", [b"[data\n", b"a = \xff\xfe", b"\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_run(str(path))


def test_overrides_win_over_the_file(tmp_path):
    path = Path(tmp_path) / "x.toml"
    path.write_text(FILE)
    assert load_run(str(path), ["training.epochs=3", "training.epochs=4"]).training.epochs == 4
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; did you mean training\.epochs\?"):
        load_run(str(path), ["training.epoch=3"])


def test_options_that_do_not_go_with_the_loss_are_refused_in_overrides_too(tmp_path):
    path = Path(tmp_path) / "x.toml"
    path.write_text(FILE)
    assert load_run(str(path), ["model.next_items=2"]).model.next_items == 2
    with pytest.raises(ConfigError, match=r"^model\.next_items: found 2 with training\.loss = 'mixed'"):
        load_run(str(path), ["model.next_items=2", "training.loss=mixed"])
    assert load_run(str(path), ["model.hard_negatives=1", "training.loss=mixed"]).model.hard_negatives == 1


def test_the_protocol_holds_what_the_split_reads_and_nothing_else():
    assert run().protocol == {
        "split": "leave_one_out",
        "unit": "event",
        "order": "time, place in the log",
        "filter_seen": True,
        "history_length": run().model.history_length,
        "depth": 50,
        "tie_break": "item_idx",
    }
    columns = {"user": "u", "item": "i", "time": "t", "order": "line", "session": "s", "event": "e"}
    session = run(
        data={"columns": columns}, split={"unit": "session", "target_events": ["buy"], "filter_seen": False}
    ).protocol
    assert session["order"] == "time, line, s, place in the log"
    assert {name: session[name] for name in ("target_events", "session_gap_s", "session_by_column")} == {
        "target_events": ["buy"],
        "session_gap_s": 600,
        "session_by_column": False,
    }
    assert not session["filter_seen"]


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (
            {"kind": "time", "valid_from": "2020-01-01", "test_from": "2020-02-01"},
            {"test_from": "2020-03-01"},
        ),
        ({"kind": "user"}, {"history_fraction": 0.5}),
        ({"kind": "user"}, {"seed": 1}),
        ({"kind": "random_target"}, {"test_fraction": 0.05}),
        ({}, {"unit": "session"}),
        ({}, {"filter_seen": False}),
    ],
)
def test_another_split_is_another_protocol(base, change):
    assert run(split=base).protocol != run(split={**base, **change}).protocol


def test_what_no_result_depends_on_is_no_protocol():
    assert run(split={"seed": 4, "test_fraction": 0.3}).protocol == run().protocol
    assert run(session={"gap_s": 60}).protocol == run().protocol
