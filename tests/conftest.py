"""Settings and fixtures of all tests: one thread, a modest number of examples, one local Ray cluster."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("raysys", deadline=None, max_examples=50)
settings.load_profile("raysys")
torch.set_num_threads(1)
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster for every test that needs Ray."""
    import ray

    from raysys.distributed.cluster import connect
    from raysys.run import ClusterConfig

    connect("local", ClusterConfig(object_store_mb=150, workers=4))
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def own_logging() -> None:
    """A job configures logging for its process; no test sees what an earlier test or fixture set up."""
    logger = logging.getLogger("raysys")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
