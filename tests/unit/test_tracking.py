"""Tracking by MLflow as far as it needs no server and no package."""

import logging
import pickle
import time

import pytest

from raysys.distributed import tracking
from raysys.distributed.tracking import Tracker, params_of, require_package
from raysys.errors import ConfigError
from raysys.run import TrackingConfig, load_run
from raysys.storage import Folder
from tests.reference.logs import run_file

SECRET = "http://me:hunter2@host:5000"


def test_it_changes_no_digest_and_no_parameter_and_its_credentials_are_not_kept(tmp_path):
    path = str(run_file(tmp_path))
    plain, tracked = load_run(path), load_run(path, [f"tracking.mlflow={SECRET}"])
    for digest in ("features_digest", "training_digest", "run_digest"):
        assert getattr(plain, digest) == getattr(tracked, digest)
    assert params_of(plain) == params_of(tracked)
    assert params_of(plain)["model.num_interests"] == "3"
    assert "hunter2" not in tracked.to_toml()
    assert 'mlflow = "http://host:5000"' in tracked.to_toml()


def test_a_wrong_uri_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tracking.mlflow: found 'host:5000', expected a URI"):
        load_run(str(run_file(tmp_path)), ["tracking.mlflow=host:5000"])


def test_a_missing_package_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    require_package(TrackingConfig())
    with pytest.raises(ConfigError, match=r"pip install raysys\[mlflow\]"):
        require_package(TrackingConfig(mlflow=SECRET))


class Server:
    """What the tracker asks of MLflow's client; fails, or is slow."""

    def __init__(self, fails: bool):
        self.fails, self.asked = fails, 0

    def get_experiment_by_name(self, name):
        self.asked += 1
        if self.fails:
            raise OSError(f"cannot reach {SECRET}/api as me with hunter2")
        time.sleep(5)


@pytest.mark.parametrize("fails", [True, False])
def test_a_server_that_is_down_or_slow_is_one_warning_without_credentials(
    tmp_path, monkeypatch, caplog, fails
):
    monkeypatch.setattr(tracking, "CLOSE_S", 0.3)
    tracker, server = Tracker(TrackingConfig(mlflow=SECRET)), Server(fails)
    tracker.client = server
    folder, begin = Folder(tmp_path), time.monotonic()
    with caplog.at_level(logging.WARNING, "raysys"):
        tracker.start(folder, "run", {}, "identity")
        for epoch in (1, 2):
            tracker.epoch(folder, {"epoch": epoch, "valid/ndcg@10": 0.5})
        tracker.close()
    assert time.monotonic() - begin < 3
    assert server.asked == 1
    (warning,) = caplog.messages
    assert "http://host:5000" in warning
    assert "goes on without it" in warning
    assert "hunter2" not in warning


def test_a_copy_in_another_process_sends_nothing():
    copied = pickle.loads(pickle.dumps(Tracker(TrackingConfig(mlflow=SECRET))))
    assert copied.tracking == TrackingConfig()
